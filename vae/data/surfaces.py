"""Made-up data on surfaces whose dimension is known; with noise added they have a density."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae.noise import draw


def surfaces(
    n: int, rank: int, dim: int, curved_noise: float, flat_noise: float, *, seed: int = 0
) -> dict[str, Tensor]:
    """n points (n, dim) of each: "curved", normal codes under a fixed map of 16 smooth bends, and "flat", normal
    factors times fixed normal loadings, both of `rank` dimensions; "curved, noisy" and "flat, noisy", the same with
    independent normal noise of these standard deviations."""
    bent = torch.tanh(draw(seed, "codes", n, rank) @ draw(seed, "bends", rank, 16) / rank**0.5)
    curved = bent @ draw(seed, "spread", 16, dim) / 2
    flat = draw(seed, "factors", n, rank) @ draw(seed, "loadings", rank, dim)
    return {
        "curved": curved,
        "flat": flat,
        "curved, noisy": curved + curved_noise * draw(seed, "curved noise", n, dim),
        "flat, noisy": flat + flat_noise * draw(seed, "flat noise", n, dim),
    }


def flat_entropy(rank: int, dim: int, noise: float, *, seed: int = 0) -> float:
    """The differential entropy in nats of a point of "flat, noisy": no model's mean log-likelihood over that source
    exceeds minus it."""
    loadings = draw(seed, "loadings", rank, dim).double()
    covariance = loadings.mT @ loadings + noise**2 * torch.eye(dim, dtype=torch.float64)
    return 0.5 * (float(torch.logdet(covariance)) + dim * math.log(2 * math.pi * math.e))
