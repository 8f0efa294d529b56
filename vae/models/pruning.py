"""Latents taken out of a trained model: smaller models, of the same ensemble, to be measured or trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vae.check import tensor
from vae.gaussian import DiagonalGaussian
from vae.models.ensemble import Ensemble
from vae.models.likelihoods import Likelihood
from vae.models.networks import check_diagonal
from vae.models.vae import Encoded, Reads


class Pruned(nn.Module):
    """A VAE without the latents where `keep` (Z,) is 0: there q is the prior, KL 0, and the decoder gets z_j = 0.

    That is a smaller generative model, whose ELBO is one of its own log p(x). With a decoder linear in z_j it is also
    the best that can be done without the latent: z_j drawn from the prior in place of its mean would add the variance
    that the decoder makes of it.
    """

    model: Encoded
    keep: Tensor

    def __init__(self, model: Encoded, keep: Tensor) -> None:
        super().__init__()
        self.model = model  # a VAE, or one pruned before
        self.register_buffer("keep", keep)

    @property
    def likelihood(self) -> Likelihood:
        """The VAE's."""
        return self.model.likelihood

    @property
    def is_generative(self) -> bool:
        """The VAE's."""
        return self.model.is_generative

    @property
    def decoder_reads(self) -> Reads | None:
        """The VAE's."""
        return self.model.decoder_reads

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """q(z|x) for x (B, X), in pruned latents N(0, 1)."""
        mean, log_var = check_diagonal(self.model.encode(x))
        return DiagonalGaussian(mean * self.keep, log_var * self.keep)

    def output(self, x: Tensor, z: Tensor) -> Tensor:
        """The VAE's, without the pruned latents."""
        return self.model.output(x, z * self.keep)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), nats: x (B, X), z (K, B, Z) -> (K, B); pruned latents have no part in it."""
        return self.model.log_lik(x, z * self.keep)

    def forward(self, f: Callable[..., Any], *args: Any) -> Any:
        """f(self, *args)."""
        return f(self, *args)


def pruned(ensemble: Ensemble, keep: Tensor | np.ndarray, *, allow_empty: bool = False) -> Ensemble:
    """The ensemble with, of member e, the latents where `keep` (E, Z) is True, or the same (Z,) for all; the given one
    is left as it is. Parameters get the prefix "model.". They may be trained on, and what was pruned stays out; the
    control to that is the ensemble itself, trained on equally.

    What to keep: latents of a `rate_per_dim` above some nats. Not of an `aggregate_kl` above some: near 0 for every
    latent whose aggregated posterior matches the prior, it says nothing of use.

    A member that is left no latent is the decoder at z = 0, whatever x, and stays so: its encoder has no gradient. Pass
    `allow_empty` if that is what you measure.

    >>> from vae.models import linear_vae_model, stack
    >>> from vae.noise import generator
    >>> ensemble = stack(lambda m: linear_vae_model(64, 3, 0.1, generator(0, "init")), [{"seed": 0}])
    >>> small = pruned(ensemble, torch.tensor([True, False, True]))
    >>> small.map(lambda model, x: model.encode(x).kl_per_dim(), torch.ones(1, 64))[0, 0] > 0
    tensor([ True, False,  True])

    ValueError: `keep` is not boolean or of another shape, or leaves a member no latent without `allow_empty`; when
    used, posteriors are not diagonal.
    """
    keep = tensor("keep", keep)
    if keep.dtype != torch.bool or keep.ndim not in (1, 2) or keep.shape[:-1] not in ((), (len(ensemble),)):
        raise ValueError(
            f"keep must be boolean, of shape (Z,) or ({len(ensemble)}, Z), got {keep.dtype}, {tuple(keep.shape)}; "
            "compare a number per latent with a threshold"
        )
    keep = keep.expand(len(ensemble), keep.shape[-1])
    if (empty := (~keep.any(-1)).nonzero().flatten().tolist()) and not allow_empty:
        raise ValueError(
            f"keep must leave every member a latent, got none for members {empty}, such as "
            f"{dict(ensemble.members[empty[0]])}; lower the threshold, or pass allow_empty=True to measure what is left"
        )
    buffers = {f"model.{name}": b.clone() for name, b in ensemble.buffers.items()}
    bare: Any = copy.deepcopy(ensemble.model)
    return replace(
        ensemble,
        model=Pruned(bare, torch.empty(keep.shape[-1], device="meta")),
        params={f"model.{name}": p.clone() for name, p in ensemble.params.items()},
        buffers=buffers | {"keep": keep.to(ensemble.device, ensemble.dtype)},
    )


def linear_cost(rate: np.ndarray) -> np.ndarray:
    """By how many nats the ELBO of an optimal linear VAE falls when a latent of that `rate`, in nats, is pruned:
    (exp(2 rate) - 1 - 2 rate) / 2, nearly the rate's square where it is small (book/latent_dimension); any shape."""
    return 0.5 * (np.expm1(2 * rate) - 2 * rate)
