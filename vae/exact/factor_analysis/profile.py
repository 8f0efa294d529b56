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

from vae.exact.factor_analysis.newton import Derivatives, newton
from vae.exact.factor_analysis.objective import Encoder, Patterns, inverse
from vae.exact.factor_analysis.structure import Layout, Parameters


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
    # In units of the items' deviations and by its root, in which Newton's method runs into a bound at zero at once.
    scale = S.diagonal(dim1=-2, dim2=-1).sqrt()
    S = _scaled(S, 1 / scale)
    inverted = inverse(S)[0]

    def evaluate(root: Tensor, rows: Tensor) -> Derivatives:
        loss, slope, curvature = derivatives(2 * root.log(), S[rows], inverted[rows], k)
        curvature = _scaled(4 * curvature - 2 * torch.diag_embed(slope), 1 / root)
        return loss, 2 * slope / root, curvature

    root, steps, converged = newton(psi.sqrt() / scale, floor.sqrt() / scale, evaluate, tol, max_iter)
    W, psi, phi = best_loadings(S, root.square(), k)
    return Parameters(W * scale[..., None], psi * scale.square(), phi), steps, converged


def first_psi(S: Tensor, k: int) -> Tensor:
    """Where the search starts, (B, p): Joreskog's (1967) share of what the other items do not predict of each."""
    p = S.shape[-1]
    return (1 - 0.5 * min(k, p) / p) / inverse(S)[0].diagonal(dim1=-2, dim2=-1)


def best_loadings(S: Tensor, psi: Tensor, k: int) -> Parameters:
    """The likelihood's maximum for given uniquenesses (B, p): W (B, p, k), its columns in falling order."""
    values, vectors = torch.linalg.eigh(_scaled(S, psi.rsqrt()))
    top = min(k, S.shape[-1])
    strength = (values.flip(-1)[:, :top] - 1).clamp(min=0).sqrt()
    W = psi.sqrt()[..., None] * vectors.flip(-1)[..., :top] * strength[:, None, :]
    W = torch.cat([W, W.new_zeros(*W.shape[:-1], k - top)], dim=-1)
    return Parameters(W, psi, torch.eye(k, dtype=S.dtype).expand(len(S), k, k))


def _scaled(S: Tensor, scale: Tensor) -> Tensor:
    return S * scale[..., None] * scale[..., None, :]


def derivatives(log_psi: Tensor, S: Tensor, inverted: Tensor, k: int) -> Derivatives:
    """What is minimised (B,), and its first (B, p) and second (B, p, p) derivatives by log psi.

    By second-order perturbation theory, from the eigenpairs of the inverse psi^1/2 S^-1 psi^1/2: where a uniqueness
    nears zero its smallest eigenvalues, which are not summed, lose their digits, and not those that are. Sums over the
    eigenvectors left over are sums over all, which are known, less those over the few taken by factors.
    """
    scale = (0.5 * log_psi).exp()
    inverse_scaled = _scaled(inverted, scale)
    values, vectors = torch.linalg.eigh(inverse_scaled)
    left = values >= 1  # what no factor takes: all but the first k, and what would need a negative square
    left[:, k:] = True
    loss = 0.5 * torch.where(left, 1 / values + values.log() - 1, 0).sum(-1)
    slope = 0.5 * (vectors.square() @ torch.where(left, 1 - 1 / values, 0)[..., None]).squeeze(-1)

    taken = vectors[:, :, :k] * ~left[:, None, :k]
    ones = torch.eye(S.shape[-1], dtype=S.dtype) - taken @ taken.mT
    inverses = inverse_scaled - (taken * values[:, None, :k]) @ taken.mT
    scaled = _scaled(S, 1 / scale)
    plain = scaled - (taken / values[:, None, :k]) @ taken.mT
    # pairs of eigenvectors that are both left over, and the second derivative of the scaling itself
    curvature = plain * inverses + ones.square() + (ones - inverses) * scaled
    # pairs of one taken by a factor and one left over: (B, k, p). Equal eigenvalues on both sides leave a kink, which
    # has no second derivative: such pairs are left out.
    top, other = values[:, :k, None], values[:, None, :]
    pairs = ~left[:, :k, None] & left[:, None, :] & (other - top > 1e-9 * other)
    apart = torch.where(pairs, top - other, 1)
    factor = torch.where(pairs, (1 - other) * (top + other).square() / (top * other * apart), 0)
    for a in range(factor.shape[1]):
        both = vectors * vectors[:, :, a : a + 1]
        curvature.baddbmm_(both * factor[:, a : a + 1], both.mT)
    return loss, slope, 0.25 * curvature - 0.5 * torch.diag_embed(slope)
