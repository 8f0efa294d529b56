"""The best Gaussian posteriors of a source of a few points, when the decoder is free: what no network can better.

For given q(z|x_i) the best decoder is known, the mean of the points weighted by their posterior densities at z. So two
means and a Cholesky factor for each of P points, equally likely, are all that is left to search. Shapes: searches E,
slopes S, draws K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vae.check import rows, whole
from vae.inference.lbfgs import minimise
from vae.noise import draw


def rate_and_distortions(u: Tensor, eps: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Rate (E,), nats, and distortion (E, K) at each draw eps (K, 2), of points (P, X) with their best decoder.

    u (E, 5 P): of each point's posterior two means, two logarithms of the scale's diagonal, and what lies below it.
    """
    first, second, a, b, below = u.unflatten(1, (len(points), 5)).unbind(-1)
    rate = 0.5 * ((2 * a).exp() + (2 * b).exp() + below**2 + first**2 + second**2 - 2) - a - b
    z = torch.stack(
        [
            first[..., None] + a.exp()[..., None] * eps[:, 0],
            second[..., None] + below[..., None] * eps[:, 0] + b.exp()[..., None] * eps[:, 1],
        ],
        dim=-1,
    )  # (E, P, K, 2)

    def of_each(parameter: Tensor) -> Tensor:
        return parameter[:, None, None]

    white = (z[..., 0, None] - of_each(first)) * of_each((-a).exp())
    other = (z[..., 1, None] - of_each(second) - of_each(below) * white) * of_each((-b).exp())
    log_q = -0.5 * (white**2 + other**2) - of_each(a) - of_each(b)  # (E, P, K, P)
    out = log_q.softmax(-1) @ points
    return rate.mean(1), (points[:, None] - out).square().sum(-1).mean(1)


def best_gaussians(points: Tensor, slopes: Sequence[float], starts: int) -> tuple[Tensor, Tensor]:
    """The best of `starts` searches for the least R + sD at every slope s, for points (P, 2) in float64: rate (S,),
    nats, and distortion (S, 16384) on fresh draws.

    Searches are by L-BFGS, the expectation by 14 x 14 Gauss-Hermite nodes. The first starts from the points themselves,
    the second from these with one of them moved to the middle, others at random; each slope goes on from whatever is
    best for it of all that was found at any. An upper bound, as every search is. ValueError: points are not (P, 2).
    """
    points, starts = rows("points", points, 2), whole("starts", starts)
    nodes, weights = np.polynomial.hermite_e.hermegauss(14)
    eps = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes))
    weight = torch.cartesian_prod(torch.tensor(weights), torch.tensor(weights)).prod(1) / (2 * math.pi)
    ring = torch.cat([1.5 * points, points.new_zeros(len(points), 3)], dim=1)
    centred = torch.cat([ring[:1] * 0, ring[1:]])
    scales = torch.tensor([0.0, 0.0, -1.0, -1.0, 0.0], dtype=torch.float64)
    first = []
    for number in range(starts):
        noise = draw(number, "start", len(points), 5, dtype=torch.float64)
        means = (ring + 0.05 * noise, centred + 0.05 * noise)[number] if number < 2 else noise
        first.append((means + scales).flatten())
    s = torch.tensor(slopes, dtype=torch.float64)

    def lagrangian(u: Tensor, slope: Tensor) -> Tensor:
        rate, distortion = rate_and_distortions(u, eps, points)
        return rate + slope * (distortion @ weight)

    several = s.repeat_interleave(starts)
    u = minimise(lambda u: lagrangian(u, several), torch.stack(first).repeat(len(s), 1), max_iter=150, memory=10).u
    for _ in range(2):  # what was found at one slope may be better at another than what was found there
        rate, distortion = rate_and_distortions(u, eps, points)
        best = (rate + s[:, None] * (distortion @ weight)).argmin(1)
        u = minimise(lambda u: lagrangian(u, s), u[best], max_iter=150, memory=10).u
    return rate_and_distortions(u, draw(0, "fresh", 16384, 2, dtype=torch.float64), points)
