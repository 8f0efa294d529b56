"""One network for a whole rate-distortion curve: hidden units that open and close with log beta.

After Bae et al. 2023 (Multi-Rate VAE), whose gates come from the linear VAE: there the best decoder shrinks with beta
like sqrt(1 - beta sigma^2 / lambda) and closes where beta sigma^2 reaches the eigenvalue lambda.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from vae.check import one_of
from vae.gaussian import DiagonalGaussian
from vae.models.likelihoods import Likelihood
from vae.models.networks import linear

_CLOSED = 1e-6  # under the decoder gate's root, which has no derivative at zero


class GatedMLP(nn.Module):
    """As `vae.models.networks.mlp`, each hidden unit multiplied by a gate of its own, a function of log beta.

    `gate` "encoder": sigmoid(w log beta + b), at first about one half; "decoder": sqrt(relu(1 - exp(w log beta + b))),
    at first about 0.8 (Bae et al. 2023, section 4). forward(h (..., n), log_beta (..., 1)).
    """

    def __init__(self, sizes: Sequence[int], generator: Generator, gate: Literal["encoder", "decoder"]) -> None:
        super().__init__()
        one_of("gate", gate, ("encoder", "decoder"))
        if len(sizes) < 3:
            raise ValueError(f"sizes must be three or more, got {list(sizes)}; without a hidden layer nothing is gated")
        self.gate = gate
        self.layers = nn.ModuleList([linear(a, b, generator) for a, b in zip(sizes, sizes[1:], strict=False)])
        at_first = 0.0 if gate == "encoder" else -1.0
        self.slope = nn.ParameterList([0.1 * torch.randn(n, generator=generator) for n in sizes[1:-1]])
        self.offset = nn.ParameterList([torch.full((n,), at_first) for n in sizes[1:-1]])

    def forward(self, h: Tensor, log_beta: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer, slope, offset in zip(hidden, self.slope, self.offset, strict=True):
            u = log_beta * slope + offset
            gate = u.sigmoid() if self.gate == "encoder" else ((-u.expm1()).relu() + _CLOSED).sqrt()
            h = gate * layer(h).tanh()
        return last(h)


@dataclass(frozen=True)
class AtBeta:
    """A `MultiRateVAE` at given betas, as a model (`vae.models.vae.Encoded`)."""

    model: MultiRateVAE
    log_beta: Tensor  # (B, 1), or (1, 1) for all data

    is_generative = True
    decoder_reads = None

    @property
    def likelihood(self) -> Likelihood:
        """The network's."""
        return self.model.likelihood

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """q(z|x) for x (B, X)."""
        mean, log_var = self.model.encoder(x, self.log_beta).tensor_split(2, dim=-1)
        return DiagonalGaussian(mean, log_var)

    def decoder(self, z: Tensor) -> Tensor:
        """The likelihood's parameters (K, B, X) for z (K, B, Z)."""
        return self.model.decoder(z, self.log_beta)

    def output(self, x: Tensor, z: Tensor) -> Tensor:
        """The same: the decoder reads z alone."""
        return self.decoder(z)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), nats: x (B, X), z (K, B, Z) -> (K, B)."""
        return self.likelihood.log_prob(x, self.decoder(z))


class MultiRateVAE(nn.Module):
    """A VAE for every beta in one: `at(log_beta)` is the model at that beta.

    Trained on a minibatch whose rows have betas of their own. At each beta its prior is N(0, I) and its encoder's
    covariance diagonal.
    """

    likelihood: Likelihood

    def __init__(
        self, x_dim: int, hidden: Sequence[int], z_dim: int, likelihood: Likelihood, generator: Generator
    ) -> None:
        super().__init__()
        self.encoder = GatedMLP([x_dim, *hidden, 2 * z_dim], generator, "encoder")
        self.decoder = GatedMLP([z_dim, *reversed(hidden), x_dim], generator, "decoder")
        self.likelihood = likelihood

    def at(self, log_beta: Tensor) -> AtBeta:
        """The model at these betas, (B, 1) or (1, 1)."""
        return AtBeta(self, log_beta)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """q(z|x) at beta = 1."""
        return self.at(x.new_zeros(1, 1)).encode(x)

    def forward(self, f: Callable[..., Any], *args: Any) -> Any:
        """f(self, *args), for `Ensemble.map`."""
        return f(self, *args)


def spread(low: Tensor, high: Tensor, count: int) -> Tensor:
    """`count` values of log beta (count, 1), evenly over [low, high]: one for each row of a minibatch.

    Rows come in random order, so that each image meets every beta: a stratified sample, with no draw of its own.
    """
    middle = (torch.arange(count, dtype=low.dtype, device=low.device) + 0.5) / count
    return (low + (high - low) * middle)[:, None]
