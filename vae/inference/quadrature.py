"""Decoders of two latents by quadrature: the truth that annealing, encoders and local searches are held against.

Shapes: slopes S, data N, pixels X; the prior is N(0, I) over two latents, the distortion d(x, f(z)) the squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.check import rows, whole
from vae.gaussian import DiagonalGaussian

Decoder = Callable[[Tensor], Tensor]  # z (..., 2) -> f(z) (..., X)


class QuadratureCurve(NamedTuple):
    """The best q there is at each slope s, proportional to p(z) exp(-s d), and how far it can be trusted; (S, N)."""

    rate: Tensor  # KL(q || p), nats
    distortion: Tensor
    change: Tensor  # of F = R + sD, nats, if every other point in each direction were used alone
    edge: Tensor  # q's share of mass on the grid's outermost points


def quadrature_curve(decoder: Decoder, x: Tensor, slopes: Sequence[float], n_nodes: int) -> QuadratureCurve:
    """Rate and distortion of the best encoder of data x (N, X) for this decoder, at each slope, by the trapezium rule
    on `n_nodes` (odd) points from -6 to 6 along each of the two latents. x in float64, which all is computed in.

    ValueError: an even or too small number of nodes, x not of shape (N, X).
    """
    n_nodes, x = whole("n_nodes", n_nodes, 5, "301 are usual"), rows("x", x)
    if n_nodes % 2 == 0:
        raise ValueError(f"n_nodes must be odd, got {n_nodes}; every other point is a grid of its own")
    axis = torch.linspace(-6, 6, n_nodes, dtype=x.dtype, device=x.device)
    grid = torch.cartesian_prod(axis, axis)
    out, log_prior = decoder(grid), -0.5 * grid.square().sum(1)
    log_prior = log_prior - log_prior.logsumexp(0)
    norms, found = out.square().sum(1), []
    for datum in x:  # one at a time, which fits the processor's cache
        d = datum.square().sum() + norms - 2 * (out @ datum)
        for slope in torch.tensor(slopes, dtype=x.dtype, device=x.device):
            log_q = log_prior - slope * d
            top = log_q.max()
            q = (log_q - top).exp_()
            total, square = q.sum(), q.view(n_nodes, -1)
            half, inside = 4 * square[::2, ::2].sum(), square[1:-1, 1:-1].sum()
            distortion = (q @ d) / total
            rate = -(top + total.log()) - slope * distortion
            found.append(torch.stack([rate, distortion, (half / total).log(), 1 - inside / total]))
    return QuadratureCurve(*torch.stack(found).view(len(x), len(slopes), 4).permute(2, 1, 0))


def gaussian_rate_and_distortion(
    decoder: Decoder, x: Tensor, q: DiagonalGaussian, n_nodes: int = 16
) -> tuple[Tensor, Tensor]:
    """Rate KL(q || p), nats, and distortion E_q |x - f(z)|^2 of Gaussians q over (S, N, 2) for data x (N, X), without
    sampling: (S, N) each, the distortion by `n_nodes` Gauss-Hermite nodes along each latent."""
    nodes, weights = (torch.tensor(v).to(x) for v in np.polynomial.hermite_e.hermegauss(n_nodes))
    eps = torch.cartesian_prod(nodes, nodes)[:, None, None]
    d = squared_error(decoder, x, q.rsample(eps))
    weight = torch.outer(weights, weights).flatten() / (2 * np.pi)
    return q.kl_to_standard_normal(), torch.einsum("ksn,k->sn", d, weight)


def squared_error(decoder: Decoder, x: Tensor, z: Tensor) -> Tensor:
    """|x - f(z)|^2, summed over X: x (N, X), z (..., N, 2) -> (..., N)."""
    return (x - decoder(z)).square().sum(-1)
