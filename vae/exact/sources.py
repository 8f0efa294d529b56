"""Sources in the plane whose rate-distortion curve has no formula, and what a code found on a grid is worth off it.

The bent Gaussian is x = (u_1, u_2 / 4 + (u_1^2 - 1) / 2) with standard normal u; points on a circle are a source of
finite entropy. All in float64. Distortion is the squared error; slopes are -dR/dD, nats per unit of it.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from vae.check import positive, rows, whole

BANANA_ENTROPY = math.log(2 * math.pi * math.e / 4)  # nats: the bend keeps areas


def banana(count: int, stream: Generator) -> Tensor:
    """Draws of the bent Gaussian (count, 2), of mean 0 and variances 1 and 9/16."""
    u = torch.randn(whole("count", count), 2, generator=stream, dtype=torch.float64)
    return torch.stack([u[:, 0], 0.25 * u[:, 1] + 0.5 * (u[:, 0].square() - 1)], dim=1)


def banana_grid(spacing: float) -> tuple[Tensor, Tensor, Tensor]:
    """The bent Gaussian on a square grid, for `vae.exact.shannon.blahut_arimoto`: the points (n, 2) that are likely,
    their probabilities (n,), and reproductions (m, 2), means of points, so that they lie around the banana and inside
    its bend, hardly ever outside.
    """
    spacing = positive("spacing", spacing)
    sides = (torch.arange(round(low / spacing), round(high / spacing) + 1) for low, high in ((-5, 5), (-3, 14)))
    x = torch.cartesian_prod(*sides).double() * spacing
    u = 4 * (x[:, 1] - 0.5 * (x[:, 0].square() - 1))  # how far up a point is along the banana's own second axis
    log_p = -0.5 * (x[:, 0].square() + u.square())
    likely = log_p > -16
    y = x[(u > -5.7) & (u < 10) & (x[:, 0].abs() < 5) & (x[:, 1] < 12)]
    return x[likely], log_p[likely].softmax(0), y


def circle_points(count: int) -> Tensor:
    """`count` points evenly on the unit circle (count, 2), float64."""
    angles = torch.arange(whole("count", count), dtype=torch.float64) * 2 * math.pi / count
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def disc_grid(radii: int, angles: int) -> Tensor:
    """Reproductions for `circle_points`: the centre, and so many angles at each of so many radii, evenly up to 1,
    (1 + radii angles, 2), float64."""
    r = torch.arange(1, whole("radii", radii) + 1, dtype=torch.float64) / radii
    turn = torch.arange(whole("angles", angles), dtype=torch.float64) * 2 * math.pi / angles
    polar = torch.cat([torch.zeros(1, 2, dtype=torch.float64), torch.cartesian_prod(r, turn)])
    return torch.stack([polar[:, 0] * polar[:, 1].cos(), polar[:, 0] * polar[:, 1].sin()], dim=1)


def code_lagrangian(x: Tensor, y: Tensor, p_y: Tensor, slope: float | Tensor) -> Tensor:
    """R + slope D, nats (n,), of points x (n, X) under the code that the probabilities p_y (m,) of reproductions
    y (m, X) make: -log sum_y p(y) exp(-slope |x - y|^2). Its mean over draws of a source is no less than the source's
    own, whatever p_y is.
    """
    y = rows("y", y)
    return -torch.logsumexp(p_y.log() - slope * torch.cdist(rows("x", x, y.shape[1]), y).square(), dim=1)


def off_grid_gap(x: Tensor, p_x: Tensor, y: Tensor, p_y: Tensor, slope: float | Tensor, others: Tensor) -> float:
    """How far below the mean of `code_lagrangian` over the source x (n, X), p_x (n,) the least R + slope D can be, with
    reproductions anywhere near `others` (k, X): the largest log c(y) there, nats (Csiszar's dual; Blahut 1972).
    """
    log_weight = p_x.log() + code_lagrangian(x, y, p_y, slope)
    return max(
        float(torch.logsumexp(log_weight - slope * torch.cdist(some, x).square(), dim=1).max())
        for some in others.split(2000)
    )
