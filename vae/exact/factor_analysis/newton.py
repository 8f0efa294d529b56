"""Newton's method for a batch of small smooth problems, each at its own pace."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Derivatives = tuple[Tensor, Tensor, Tensor]  # loss (n,), slope (n, P), curvature (n, P, P)


def newton(
    u: Tensor, lower: Tensor, evaluate: Callable[[Tensor, Tensor], Derivatives], tol: float, max_iter: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Minima of many smooth functions at once, u (B, P) above `lower` (B, P): (u, steps (B,), converged (B,)).

    Newton's method with the Hessian's eigenvalues made positive, so that saddles repel (Dauphin et al. 2014), a push
    off a saddle that is met exactly, halved steps until the loss falls, and coordinates held at their bound while the
    slope presses them there (Bertsekas 1982). `evaluate(u, rows)` sees the rows still at work. A step below `tol` in
    every coordinate ends a row; so does one that, steps shrinking quadratically, the next would be far below.
    """
    u = torch.maximum(u, lower)
    steps = torch.zeros(len(u), dtype=torch.int64)
    converged = torch.zeros(len(u), dtype=torch.bool)
    rows = torch.arange(len(u))
    before = torch.zeros(len(u), dtype=u.dtype)  # the size of a row's last step, 0 if it is no guide
    value, slope, curvature = evaluate(u, rows)
    for _ in range(max_iter):
        here, bound = u[rows], lower[rows]
        broken = ~(slope.isfinite().all(-1) & curvature.isfinite().all(-1).all(-1))
        held = (here <= bound) & (slope > 0) | broken[:, None]
        step, firm = _descent(slope, curvature, held, tol)
        moved = torch.maximum(here + step, bound)
        size = step.abs().amax(-1)
        small = (size < tol) | (firm & (before < 0.1) & (size**3 < 0.1 * tol * before**2))
        u[rows] = moved
        steps[rows] += 1
        converged[rows] = small & ~broken
        if small.all():
            break
        if small.any():  # where these end needs no look
            rows, here, bound, step, size, moved, value = (
                part[~small] for part in (rows, here, bound, step, size, moved, value)
            )
        limit = value + 1e-13 * (1 + value.abs())  # what rounding may add
        found = evaluate(moved, rows)
        for _ in range(30):
            bad = (~(found[0] <= limit)).nonzero()[:, 0]
            if not len(bad):
                break
            step[bad] /= 2
            size[bad] = 0
            moved[bad] = torch.maximum(here[bad] + step[bad], bound[bad])
            for part, again in zip(found, evaluate(moved[bad], rows[bad]), strict=True):
                part[bad] = again
        stuck = ~(found[0] <= limit)
        u[rows] = torch.where(stuck[:, None], here, moved)
        before, (value, slope, curvature) = size, found
        if stuck.any():
            rows, before, value, slope, curvature = (part[~stuck] for part in (rows, size, *found))
            if not len(rows):
                break
    return u, steps, converged


def _descent(slope: Tensor, curvature: Tensor, held: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """Newton's step (n, P), 0 where `held`, no coordinate by more than 2; and where the curvature is positive (n,)."""
    slope = slope.masked_fill(held, 0)
    curvature = curvature.masked_fill(held[:, :, None] | held[:, None, :], 0) + torch.diag_embed(held.to(slope.dtype))
    factor, failed = torch.linalg.cholesky_ex(curvature)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    firm = (failed == 0) & (pivots.amin(-1) > 3e-5 * pivots.amax(-1))  # positive definite, and not barely
    step = -torch.cholesky_solve(slope[..., None], factor).squeeze(-1)
    if not firm.all():
        step[~firm] = _repelled(slope[~firm], curvature[~firm], tol)
    return step / (step.abs().amax(-1, keepdim=True) / 2).clamp(min=1), firm


def _repelled(slope: Tensor, curvature: Tensor, tol: float) -> Tensor:
    values, vectors = torch.linalg.eigh(curvature)
    size = values.abs()
    largest = size.amax(-1, keepdim=True)
    size = torch.maximum(size, 1e-9 * largest).clamp(min=torch.finfo(slope.dtype).tiny)
    step = -(vectors @ ((vectors.mT @ slope[..., None]) / size[..., None])).squeeze(-1)
    # No slope and a downward bend: a saddle, which Newton's step cannot leave. Go down the bend.
    saddle = (step.abs().amax(-1, keepdim=True) < tol) & (values[:, :1] < -1e-6 * largest)
    return torch.where(saddle, 0.1 * vectors[:, :, 0], step)
