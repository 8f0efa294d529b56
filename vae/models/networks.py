"""Layers and encoders.

Every constructor takes the random generator of its initial weights: nothing here touches PyTorch's global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils import skip_init

from vae.check import Numbers, not_negative, one_of, tensor
from vae.gaussian import DiagonalGaussian, FullGaussian, Gaussian


def linear(n_in: int, n_out: int, generator: Generator) -> nn.Linear:
    """A linear layer with Glorot-uniform weights (Glorot & Bengio 2010, eq. 16) and zero bias."""
    if min(n_in, n_out) < 1:
        raise ValueError(f"layer sizes must be at least 1, got {n_in} and {n_out}; check latent and data dimensions")
    layer = skip_init(nn.Linear, n_in, n_out)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(sizes: Sequence[int], generator: Generator, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers between consecutive `sizes` with activations in between; two sizes make a linear map."""
    if len(sizes) < 2:
        raise ValueError(f"sizes must be two or more, got {list(sizes)}; give input and output sizes")
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        layers += [linear(n_in, n_out, generator), activation()]
    return nn.Sequential(*layers[:-1])


class LinearEncoder(nn.Module):
    """q(z|x) = N(V x + c, C) with one covariance C, diagonal or full, for all x: (B, X) -> a Gaussian over (B, Z).

    The exact posterior of a linear-Gaussian model has this form; with a diagonal C wherever its covariance is diagonal.
    """

    def __init__(self, x_dim: int, z_dim: int, generator: Generator, covariance: str = "diagonal") -> None:
        super().__init__()
        self.mean, self.covariance = linear(x_dim, z_dim, generator), covariance
        if _n_scale(z_dim, covariance) == z_dim:
            self.log_var = nn.Parameter(torch.zeros(z_dim))
        else:
            self.scale = nn.Parameter(torch.zeros(_n_scale(z_dim, covariance)))

    def forward(self, x: Tensor) -> Gaussian:
        mean = self.mean(x)
        if self.covariance == "diagonal":
            return DiagonalGaussian(mean, self.log_var.expand_as(mean))
        return FullGaussian(mean, _scale_tril(self.scale, mean.shape[-1]))


class MLPEncoder(nn.Module):
    """q(z|x) with all its parameters from one network: (B, X) -> a diagonal or full-covariance Gaussian over (B, Z).

    >>> encoder = MLPEncoder(64, [32], 2, Generator().manual_seed(0), covariance="full")
    >>> encoder(torch.zeros(5, 64)).scale_tril.shape
    torch.Size([5, 2, 2])
    """

    def __init__(
        self, x_dim: int, hidden: Sequence[int], z_dim: int, generator: Generator, covariance: str = "diagonal"
    ) -> None:
        super().__init__()
        self.z_dim, self.covariance = z_dim, covariance
        self.net = mlp([x_dim, *hidden, z_dim + _n_scale(z_dim, covariance)], generator)

    def forward(self, x: Tensor) -> Gaussian:
        mean, scale = self.net(x).tensor_split([self.z_dim], dim=-1)
        if self.covariance == "diagonal":
            return DiagonalGaussian(mean, scale)
        return FullGaussian(mean, _scale_tril(scale, self.z_dim))


class CommittedEncoder(nn.Module):
    """The diagonal posteriors of `encoder` with every variance held below the one at which the KL of a latent is
    `rate` nats, so that no latent can cost less, whatever the data: log_var -> cap - softplus(cap - log_var).

    A committed rate as in delta-VAEs (Razavi et al. 2019, arXiv:1901.03416), here by the variances alone. It commits
    the KL, not the information: q = N(0, exp(cap)) for every x costs `rate` and says nothing.
    """

    cap: Tensor

    def __init__(self, encoder: nn.Module, rate: float) -> None:
        super().__init__()
        rate = not_negative("rate", rate, "pass nats per latent")
        log_var = -(2 * rate + 1)  # Newton for expm1(v) - v = 2 rate, v <= 0: convex, and positive here
        for _ in range(100 if rate > 0 else 0):
            log_var -= (math.expm1(log_var) - log_var - 2 * rate) / math.expm1(log_var)
        self.encoder = encoder
        self.register_buffer("cap", torch.tensor(log_var if rate > 0 else 0.0))

    def forward(self, x: Tensor) -> DiagonalGaussian:
        mean, log_var = check_diagonal(self.encoder(x))
        return DiagonalGaussian(mean, self.cap - softplus(self.cap - log_var))


def check_diagonal(q: Gaussian) -> DiagonalGaussian:
    """q itself; ValueError unless it is a DiagonalGaussian."""
    if not isinstance(q, DiagonalGaussian):
        raise ValueError(f"the encoder must give a DiagonalGaussian, got {type(q).__name__}; use covariance='diagonal'")
    return q


def _n_scale(z_dim: int, covariance: str) -> int:
    one_of("covariance", covariance, ("diagonal", "full"))
    return z_dim if covariance == "diagonal" else z_dim * (z_dim + 1) // 2


def _scale_tril(numbers: Tensor, z_dim: int) -> Tensor:
    """(..., Z (Z + 1) / 2) -> a Cholesky factor (..., Z, Z): first its diagonal's logarithms, then the entries below,
    row by row, placed by constant one-hot maps, because vmap does not take indexed assignment.
    """
    log_diagonal, below = numbers.tensor_split([z_dim], dim=-1)
    rows, columns = torch.tril_indices(z_dim, z_dim, offset=-1, device=numbers.device)
    eye = torch.eye(z_dim, dtype=numbers.dtype, device=numbers.device)
    lower = torch.einsum("...n,nr,nc->...rc", below, eye[rows], eye[columns])
    return torch.diag_embed(log_diagonal.exp()) + lower


class MaskedLinear(nn.Module):
    """A linear map (..., Z) -> (..., X) without bias whose weight (X, Z) is zero where `mask` (X, Z) is: the loadings
    of a confirmatory factor model.
    """

    mask: Tensor

    def __init__(self, mask: Numbers, generator: Generator) -> None:
        super().__init__()
        mask = tensor("mask", mask)
        self.register_buffer("mask", mask.float())
        self.weight = linear(mask.shape[1], mask.shape[0], generator).weight

    def loadings(self) -> Tensor:
        """The weight with its zeros, (X, Z)."""
        return self.weight * self.mask

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.loadings().mT
