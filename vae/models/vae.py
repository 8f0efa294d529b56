"""An encoder, a decoder and a likelihood as one model, and what everything else may ask of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from torch import Generator, Tensor, nn

from vae.check import one_of
from vae.gaussian import Gaussian
from vae.models.likelihoods import GaussianLikelihood, Likelihood
from vae.models.networks import LinearEncoder, MLPEncoder, mlp
from vae.noise import generator

Reads = Literal["past", "input"]  # what of x a decoder reads beside z; see `vae.models.decoders`


@runtime_checkable
class Reading(Protocol):
    """A decoder that reads x beside z: it says what of it, and is called with (z, x)."""

    reads: Reads


class Model(Protocol):
    """What estimates of log p(x) ask of a model, whatever it is made of; the prior is N(0, I)."""

    @property
    def is_generative(self) -> bool:
        """Whether there is a p(x): False if the decoder reads the x that it is to explain."""

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), nats: x (B, X), z (K, B, Z) -> (K, B)."""


class Encoded(Model, Protocol):
    """What everything else asks of one: a `VAE`, a pruned one, a `MultiRateVAE` at some beta."""

    @property
    def likelihood(self) -> Likelihood:
        """What the decoder's output says of x."""

    @property
    def decoder_reads(self) -> Reads | None:
        """What of x the decoder reads beside z."""

    def encode(self, x: Tensor) -> Gaussian:
        """q(z|x) for x (B, X)."""

    def output(self, x: Tensor, z: Tensor) -> Tensor:
        """The decoder's output (K, B, X), which it makes of z (K, B, Z) and of what it reads of x (B, X)."""


class VAE(nn.Module):
    """p(z) = N(0, I), p(x|z) by `decoder` and `likelihood`, q(z|x) by `encoder`. Kingma & Welling 2014,
    arXiv:1312.6114.

    >>> import torch
    >>> from vae.models import BernoulliLikelihood
    >>> stream = generator(0, "init")
    >>> model = VAE(MLPEncoder(64, [32], 2, stream), mlp([2, 32, 64], stream), BernoulliLikelihood())
    >>> q = model.encode(torch.zeros(5, 64))
    >>> q.mean.shape, model.log_lik(torch.zeros(5, 64), q.rsample(torch.zeros(7, 5, 2))).shape
    (torch.Size([5, 2]), torch.Size([7, 5]))
    """

    likelihood: Likelihood

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        if isinstance(decoder, Reading):
            one_of("decoder.reads", decoder.reads, get_args(Reads))
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def encode(self, x: Tensor) -> Gaussian:
        """q(z|x) for x (B, X)."""
        return self.encoder(x)

    @property
    def decoder_reads(self) -> Reads | None:
        """What of x the decoder reads beside z: None, "past" or "input" (see `vae.models.decoders`)."""
        return self.decoder.reads if isinstance(self.decoder, Reading) else None

    @property
    def is_generative(self) -> bool:
        """Whether there is a p(x): False if the decoder reads the x that it is to explain."""
        return self.decoder_reads != "input"

    def output(self, x: Tensor, z: Tensor) -> Tensor:
        """The decoder's output (K, B, X), which it makes of z (K, B, Z) and of what it reads of x (B, X)."""
        return self.decoder(z) if self.decoder_reads is None else self.decoder(z, x)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), nats: x (B, X), z (K, B, Z) -> (K, B). With a skip from x it is log p(x|z, h(x))."""
        return self.likelihood.log_prob(x, self.output(x, z))

    def forward(self, f: Callable[..., Any], *args: Any) -> Any:
        """f(self, *args): lets `torch.func.functional_call` evaluate any function of the model (see `Ensemble.map`)."""
        return f(self, *args)


def check_generative(model: Model, purpose: str) -> None:
    """Raises ValueError unless `model` has a p(x), which is needed to `purpose`."""
    if not hasattr(model, "is_generative"):
        raise ValueError(
            f"model must say whether it has a p(x) to {purpose}, got a {type(model).__name__} without `is_generative`; "
            "set it to True, unless the decoder reads x itself"
        )
    if not model.is_generative:
        raise ValueError(
            f"model must have a p(x) to {purpose}, got one whose decoder reads x itself, so that its ELBO bounds "
            "log p(x|h(x)), which is not comparable; use a decoder of z alone, or an autoregressive one"
        )


def mlp_vae(
    x_dim: int,
    hidden: Sequence[int],
    z_dim: int,
    likelihood: Likelihood,
    seed: int,
    *,
    encoder_hidden: Sequence[int] | None = None,
    covariance: str = "diagonal",
) -> VAE:
    """The usual VAE: tanh networks with the hidden layers `hidden` in the decoder reversed, in the encoder as they
    stand or as `encoder_hidden` says. Initial weights are those of the stream "init" of `seed`, the encoder's first."""
    stream = generator(seed, "init")
    encoder = MLPEncoder(x_dim, hidden if encoder_hidden is None else encoder_hidden, z_dim, stream, covariance)
    return VAE(encoder, mlp([z_dim, *reversed(hidden), x_dim], stream), likelihood)


def linear_vae_model(
    x_dim: int, z_dim: int, noise_variance: float, generator: Generator, *, learned: bool = False
) -> VAE:
    """Linear encoder, linear decoder, Gaussian likelihood: the model that `vae.exact.linear_gaussian` solves
    exactly."""
    if z_dim > x_dim:
        raise ValueError(f"z_dim must not exceed the {x_dim} data dimensions of a linear model, got {z_dim}; lower it")
    return VAE(
        LinearEncoder(x_dim, z_dim, generator),
        mlp([z_dim, x_dim], generator),
        GaussianLikelihood(noise_variance, learned),
    )
