"""Decoders of two latents by quadrature: the truth that annealing, encoders and local searches are held against.

Shapes: slopes S, data N, pixels X; the prior is N(0, I) over two latents, the distortion d(x, f(z)) the squared error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.check import rows, whole
from vae.gaussian import DiagonalGaussian, Gaussian
from vae.inference import log_joint as joint
from vae.inference.log_joint import LogJoint
from vae.models.likelihoods import BernoulliLikelihood
from vae.models.vae import VAE

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


def bernoulli_log_evidence(model: VAE, x: Tensor, n_nodes: int, reach: float = 6.0) -> Tensor:
    """log p(x) of a Bernoulli decoder of two latents for data x (N, X) of zeros and ones, nats (N,), float64 on the
    CPU: the trapezium rule on `n_nodes` points from -reach to reach along each latent. ValueError: another likelihood,
    fewer than five nodes, x not of shape (N, X)."""
    n_nodes, x = whole("n_nodes", n_nodes, 5, "401 are usual"), rows("x", x)
    if not isinstance(model.likelihood, BernoulliLikelihood):
        raise ValueError(
            f"model must have a BernoulliLikelihood, got {type(model.likelihood).__name__}; pass such a one"
        )
    axis, totals = torch.linspace(-reach, reach, n_nodes, dtype=x.dtype, device=x.device), []
    for z in torch.cartesian_prod(axis, axis).split(2**14):
        logits = model.decoder(z)
        log_lik = logits @ x.mT - torch.nn.functional.softplus(logits).sum(1, keepdim=True)
        prior = -0.5 * z.square().sum(1, keepdim=True) - math.log(2 * math.pi)
        totals.append(torch.logsumexp((log_lik + prior).double(), 0))
    return (torch.logsumexp(torch.stack(totals), 0) + 2 * math.log(2 * reach / (n_nodes - 1))).cpu()


def gaussian_elbo(log_joint: LogJoint, q: Gaussian, n_nodes: int = 32) -> Tensor:
    """The ELBO of Gaussians q over (N, 2), nats (N,), float64 on the CPU, by `n_nodes` Gauss-Hermite nodes along each
    latent. log_joint: z (S, N, 2) -> nats (S, N)."""
    points, weight = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(n_nodes))
    eps, weight = torch.cartesian_prod(points, points), torch.outer(weight, weight).flatten() / weight.sum() ** 2
    value = joint.values(log_joint, q.rsample(eps.to(q.mean)[:, None].expand(-1, len(q.mean), -1)))
    return weight @ value.double().cpu() + q.entropy().double().cpu()


class Windows(NamedTuple):
    """Posteriors over two latents, each on a square window around the last of C Gaussians that holds all of them."""

    means: Tensor  # (N, C, 2)
    covariances: Tensor  # (N, C, 2, 2)
    reach: Tensor  # (N,) from the window's centre, means[:, -1], to its edges
    log_density: Tensor  # (N, side, side) nats below the highest point


def posterior_windows(log_joint: LogJoint, qs: Sequence[Gaussian], side: int = 101) -> Windows:
    """What is there to see of the posteriors of N data beside the Gaussians `qs`, each over (N, 2): log_joint on side x
    side points, z (S, N, 2) -> nats (S, N)."""
    means, covariances = torch.stack([q.mean for q in qs], 1), torch.stack([q.covariance() for q in qs], 1)
    spread = covariances.diagonal(dim1=2, dim2=3).sqrt()
    reach = (means - means[:, -1:]).abs().amax((1, 2)) + 5 * spread.amax((1, 2))
    unit = torch.cartesian_prod(*[torch.linspace(-1, 1, side, dtype=means.dtype, device=means.device)] * 2)
    density = joint.values(log_joint, means[:, -1] + reach[:, None] * unit[:, None])
    return Windows(means, covariances, reach, (density - density.amax(0)).mT.unflatten(1, (side, side)))
