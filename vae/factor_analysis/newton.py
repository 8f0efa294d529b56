"""Newton's method for a batch of small smooth problems, each at its own pace."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LONGEST = 2.0  # no coordinate moves further in one step


def newton(
    u: Tensor,
    lower: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    derivatives: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minima of many smooth functions at once, u (B, P) above `lower` (B, P): (u, steps (B,), converged (B,)).

    Newton's method with the Hessian's eigenvalues made positive, so that saddles repel (Dauphin et al. 2014), halved
    steps until the loss falls, a push off a saddle that was reached exactly, and coordinates at or near their bound
    taken out of the Hessian while the slope presses them there (Bertsekas 1982). `loss(u, rows)` (n,) and
    `derivatives(u, rows)` ((n, P), (n, P, P)) see the rows still at work.
    """
    u = torch.maximum(u, lower)
    steps = torch.zeros(len(u), dtype=torch.int64)
    converged = torch.zeros(len(u), dtype=torch.bool)
    rows = torch.arange(len(u))
    value = loss(u, rows)
    for _ in range(max_iter):
        if not len(rows):
            break
        here, bound = u[rows], lower[rows]
        slope, curvature = derivatives(here, rows)
        broken = ~(slope.isfinite().all(-1) & curvature.isfinite().all(-1).all(-1))
        slope = slope.masked_fill(broken[:, None], 0)
        curvature = curvature.masked_fill(broken[:, None, None], 0)
        held = (here <= bound + LONGEST) & (slope > 0)  # near enough: these go straight to the bound
        slope = slope.masked_fill(held, 0)
        curvature = curvature.masked_fill(held[:, :, None] | held[:, None, :], 0) + torch.diag_embed(held.to(u.dtype))
        values, vectors = torch.linalg.eigh(curvature)
        size = values.abs()
        size = torch.maximum(size, 1e-9 * size.amax(-1, keepdim=True)).clamp(min=torch.finfo(u.dtype).tiny)
        step = -(vectors @ ((vectors.mT @ slope[..., None]) / size[..., None])).squeeze(-1)
        step = torch.where(held, bound - here, step)
        step = step / (step.abs().amax(-1, keepdim=True) / LONGEST).clamp(min=1)
        small = step.abs().amax(-1) < tol
        # No slope and a downward bend: a saddle, which Newton's step cannot leave. Go down the bend.
        saddle = small & (values[:, 0] < -1e-6 * size[:, -1].maximum(size[:, 0]))
        step = torch.where(saddle[:, None], 0.1 * vectors[:, :, 0], step)
        small = small & ~saddle
        length = torch.ones(len(rows), 1, dtype=u.dtype)
        best, best_value = here, value
        waiting = torch.ones(len(rows), dtype=torch.bool)
        rounding = 4 * torch.finfo(u.dtype).eps * value.abs()  # the last steps move less than a loss can show
        for _ in range(30):
            moved = torch.maximum(here[waiting] + length[waiting] * step[waiting], bound[waiting])
            now = loss(moved, rows[waiting])
            good = now <= value[waiting] + rounding[waiting]
            done = waiting.nonzero()[:, 0][good]
            best = best.index_put((done,), moved[good])
            best_value = best_value.index_put((done,), now[good])
            waiting = waiting.index_put((done,), torch.tensor(False))
            if not waiting.any():
                break
            length[waiting] /= 2
        u = u.index_put((rows,), best)
        steps[rows] += 1
        converged[rows] = small & ~broken
        going = ~(small | waiting | broken)
        rows, value = rows[going], best_value[going]
    return u, steps, converged
