"""Decoders that read more than z: autoregressive ones, and ones with a skip from the input, plain or gated.

A decoder that reads x says so by its attribute `reads` and is called with (z, x), which `VAE.log_lik` does:

"past": the output for pixel i depends on x_1 ... x_{i-1} and z alone, so that p(x|z) is a density, exact in one pass.
"input": the output depends on x itself. What the model then has is p(x|z, h(x)) and a bound on log p(x|h(x)); it has no
p(x), and no number of it may be compared with a likelihood. `VAE.is_generative` is False.

Axes: z (K, B, Z), x (B, X) -> (K, B, X); leading axes broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import skip_init

from vae.models.likelihoods import BernoulliLikelihood
from vae.models.networks import MaskedLinear, linear, mlp
from vae.models.vae import Encoded, Reads, check_generative


class MADE(nn.Module):
    """p(x|z) = prod_i p(x_i | x_1 ... x_{i-1}, z) in the pixels' order: masked tanh layers of sizes `hidden` that see
    all of z and, of x, the past.

    Germain et al. 2015, arXiv:1502.03509, eqs. 12-14, with the hidden units' degrees dealt out evenly in place of at
    random. ValueError: no hidden layer, or fewer than two pixels.
    """

    reads: Reads = "past"

    def __init__(self, z_dim: int, x_dim: int, hidden: Sequence[int], generator: Generator) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden must not be empty, got []; give the size of at least one layer")
        if x_dim < 2:
            raise ValueError(f"x_dim must be at least 2, got {x_dim}; with one pixel nothing comes before another")
        pixels = torch.arange(1, x_dim + 1)
        degrees = [pixels, *(1 + torch.arange(size) % (x_dim - 1) for size in hidden)]
        masks = [after[:, None] >= before for before, after in zip(degrees, degrees[1:], strict=False)]
        masks.append(pixels[:, None] > degrees[-1])
        self.past = nn.ModuleList(MaskedLinear(mask, generator) for mask in masks)
        self.latent = nn.ModuleList(linear(z_dim, size, generator) for size in (*hidden, x_dim))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        for past, latent in zip(self.past[:-1], self.latent[:-1], strict=True):
            x = torch.tanh(past(x) + latent(z))
        return self.past[-1](x) + self.latent[-1](z)


class RandomFeatures(nn.Module):
    """h(x) = tanh(A x), (..., X) -> (..., n_features), with A fixed, its entries normal of variance 1 / X."""

    weight: Tensor

    def __init__(self, x_dim: int, n_features: int, generator: Generator) -> None:
        super().__init__()
        if min(x_dim, n_features) < 1:
            raise ValueError(f"x_dim and n_features must be at least 1, got {x_dim} and {n_features}; raise them")
        self.register_buffer("weight", torch.randn(n_features, x_dim, generator=generator) / math.sqrt(x_dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight.mT)


def _features(x_dim: int, n_features: int | None, generator: Generator) -> tuple[nn.Module, int]:
    """h and its size; None: all pixels as they are."""
    if n_features is None:
        return nn.Identity(), x_dim
    return RandomFeatures(x_dim, n_features, generator), n_features


class SkipDecoder(nn.Module):
    """f(z, h(x)) by one network of tanh layers `hidden` (none: linear). h(x) is x itself or, with `n_features`, so many
    fixed `RandomFeatures` of it.

    Such skips carry x around z. Those of Dieng et al. 2019 ("skip models") carry z, and are the opposite.
    """

    reads: Reads = "input"

    def __init__(
        self, z_dim: int, x_dim: int, hidden: Sequence[int], generator: Generator, n_features: int | None = None
    ) -> None:
        super().__init__()
        self.features, size = _features(x_dim, n_features, generator)
        self.net = mlp([z_dim + size, *hidden, x_dim], generator)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        h = self.features(x)
        return self.net(torch.cat([z, h.expand(*z.shape[:-1], h.shape[-1])], dim=-1))


class FiLMDecoder(nn.Module):
    """A skip that z modulates: output = C tanh(gate(z) * (A h(x) + a) + S z) + c, `hidden` units wide, with gate(z) =
    G z, or 1 + G z with a `z_free` path. h as in `SkipDecoder`; G and S have no bias.

    Feature-wise linear modulation (Perez et al. 2018, arXiv:1709.07871), z being what conditions. With the z-free path
    the skip is open whatever z is. Without, it is shut at z = 0, and opens for a z that is the same for every x: the KL
    is then positive with no information in z.
    """

    reads: Reads = "input"

    def __init__(
        self,
        z_dim: int,
        x_dim: int,
        hidden: int,
        generator: Generator,
        *,
        z_free: bool,
        n_features: int | None = None,
    ) -> None:
        super().__init__()
        self.z_free = z_free
        self.features, size = _features(x_dim, n_features, generator)
        self.skip, self.out = linear(size, hidden, generator), linear(hidden, x_dim, generator)
        self.gate, self.shift = _linear_map(z_dim, hidden, generator), _linear_map(z_dim, hidden, generator)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        gate = self.gate(z) + 1 if self.z_free else self.gate(z)
        return self.out(torch.tanh(gate * self.skip(self.features(x)) + self.shift(z)))


def _linear_map(n_in: int, n_out: int, generator: Generator) -> nn.Linear:
    if min(n_in, n_out) < 1:
        raise ValueError(f"layer sizes must be at least 1, got {n_in} and {n_out}; check latent and hidden sizes")
    layer = skip_init(nn.Linear, n_in, n_out, bias=False)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    return layer


def sampled_pixels(model: Encoded, z: Tensor, uniform: Tensor) -> Tensor:
    """x ~ p(x|z) of a Bernoulli model, in its dtype: z (..., Z) and uniform numbers (..., X) in [0, 1) -> (..., X).

    One pass for a decoder that reads z alone; X passes, pixel by pixel, for an autoregressive one (ancestral sampling).
    ValueError: the likelihood is not Bernoulli; the decoder reads the x that is to be drawn.
    """
    check_generative(model, "draw x")
    if not isinstance(model.likelihood, BernoulliLikelihood):
        raise ValueError(
            f"model must have a Bernoulli likelihood, got {type(model.likelihood).__name__}; "
            "for a Gaussian one add noise to its mean"
        )
    x = torch.zeros_like(uniform)
    if model.decoder_reads is None:
        return (uniform < model.output(x, z).sigmoid()).to(uniform.dtype)
    eye = torch.eye(uniform.shape[-1], dtype=torch.bool, device=uniform.device)
    for pixel in eye:  # vmap takes no indexed assignment
        drawn = (uniform < model.output(x, z).sigmoid()).to(uniform.dtype)
        x = torch.where(pixel, drawn, x)
    return x
