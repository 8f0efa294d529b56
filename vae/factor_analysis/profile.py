r"""Exploratory factor analysis as a function of the uniquenesses alone.

Given psi the best loadings are known (Lawley 1940): with l_1 >= l_2 ... and u_j the eigenpairs of psi^-1/2 S psi^-1/2,
column j of W is psi^1/2 u_j sqrt(l_j - 1) for the first k with l_j > 1. (They make W' psi^-1 W diagonal, so a diagonal
posterior is exact there: the diagonal ELBO has the same maximum.) What remains of -2 log-likelihood is
log|S| + k + sum over the other eigenvalues of l_b - log l_b (Joreskog 1967), whose first and second derivatives by
log psi are exact and cheap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vae.factor_analysis.newton import newton
from vae.factor_analysis.objective import Encoder, Patterns
from vae.factor_analysis.structure import Layout, Parameters


def has_profile(layout: Layout, encoder: Encoder, patterns: Patterns) -> bool:
    """Whether this problem is one for `exploratory_fit`: maximum likelihood of an exploratory model on complete data.

    It would serve the diagonal ELBO just as well. That one is maximised for itself, so that the agreement is a result.
    """
    complete = len(patterns.seen) == 1 and bool(patterns.seen.all())
    return layout.structure.mask is None and complete and encoder == "full"


def exploratory_fit(
    S: Tensor, k: int, psi: Tensor, floor: Tensor | None, tol: float, max_iter: int
) -> tuple[Parameters, Tensor, Tensor]:
    """From psi (B, p), for S (B, p, p): the parameters, the Newton steps (B,) and whether they converged (B,).

    Without a `floor` psi is fixed, and the answer needs no step.
    """
    if floor is None:
        steps = torch.zeros(len(S), dtype=torch.int64)
        return best_loadings(S, psi, k), steps, torch.ones_like(steps, dtype=torch.bool)
    log_psi, steps, converged = newton(
        psi.log(),
        floor.log(),
        lambda theta, rows: _loss(theta, S[rows], k),
        lambda theta, rows: _derivatives(theta, S[rows], k),
        tol,
        max_iter,
    )
    return best_loadings(S, log_psi.exp(), k), steps, converged


def best_loadings(S: Tensor, psi: Tensor, k: int) -> Parameters:
    """The likelihood's maximum for given uniquenesses (B, p): W (B, p, k), its columns in falling order."""
    values, vectors = _eigen(S, psi.log())
    top = min(k, S.shape[-1])
    strength = (values[:, :top] - 1).clamp(min=0).sqrt()
    W = psi.sqrt()[..., None] * vectors[..., :top] * strength[:, None, :]
    W = torch.cat([W, W.new_zeros(*W.shape[:-1], k - top)], dim=-1)
    return Parameters(W, psi, torch.eye(k, dtype=S.dtype).expand(len(S), k, k))


def _scaled(S: Tensor, log_psi: Tensor) -> Tensor:
    scale = (-0.5 * log_psi).exp()
    return S * scale[..., None] * scale[..., None, :]


def _eigen(S: Tensor, log_psi: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(_scaled(S, log_psi))
    return values.flip(-1), vectors.flip(-1)


def _left(values: Tensor, k: int) -> Tensor:
    """Which eigenvalues no factor takes: all but the first k, and those of at most 1."""
    left = values <= 1
    left[:, k:] = True
    return left


def _loss(log_psi: Tensor, S: Tensor, k: int) -> Tensor:
    values = torch.linalg.eigvalsh(_scaled(S, log_psi)).flip(-1)
    left = _left(values, k)
    return 0.5 * torch.where(left, values - values.log() - 1, 0).sum(-1)


def _derivatives(log_psi: Tensor, S: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """First (B, p) and second (B, p, p) derivatives of `_loss` by log psi (second-order perturbation theory)."""
    values, vectors = _eigen(S, log_psi)
    left = _left(values, k)
    weight = left.to(S.dtype)
    slope = 0.5 * ((vectors.square() * ((1 - values) * weight)[:, None, :]).sum(-1))

    def total(of: Tensor) -> Tensor:
        return (vectors * of[:, None, :]) @ vectors.mT

    plain, inverse, times = total(weight), total(weight / values), total(weight * values)
    pull = total(weight * (1 - 1 / values))
    # pairs of eigenvectors that are both left over, then the second derivative of the scaling itself
    curvature = 0.5 * (times * inverse + plain.square())
    straight = ((1 - 1 / values) * weight * values)[:, None, :]
    curvature = curvature + 0.5 * torch.diag_embed((vectors.square() * straight).sum(-1))
    curvature = curvature + 0.5 * pull * _scaled(S, log_psi)
    # pairs of one left over and one taken by a factor
    for a in range(min(k, S.shape[-1])):
        top = values[:, a : a + 1]
        # Equal eigenvalues on both sides leave a kink, which has no second derivative: such pairs are left out.
        pairs = left & ~left[:, a : a + 1] & (top - values > 1e-9 * top)
        apart = torch.where(pairs, values - top, 1)
        factor = torch.where(pairs, 0.5 * (1 - 1 / values) * (top + values).square() / apart, 0)
        u = vectors[:, :, a]
        curvature = curvature + u[:, :, None] * total(factor) * u[:, None, :]
    return slope, 0.5 * curvature
