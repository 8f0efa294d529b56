"""Minima of many smooth functions at once, by L-BFGS, each with a memory and a step length of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae.check import whole

SHORTEST = 2.0**-30  # of a step: below it rounding hides any gain


class Minimum(NamedTuple):
    """What `minimise` found for E functions of P variables."""

    u: Tensor  # (E, P)
    loss: Tensor  # (E,)
    slope: Tensor  # (E,) the largest component of the gradient, in size
    iterations: Tensor  # (E,) steps taken


def minimise(f: Callable[[Tensor], Tensor], u: Tensor, *, max_iter: int, memory: int = 30) -> Minimum:
    """Descends from u (E, P), float64, for `max_iter` evaluations of f: (E, P) -> losses (E,), differentiable.

    Each row is a problem of its own: f's i-th loss depends on the i-th row only, and so does what is found for it.
    L-BFGS (Nocedal & Wright 2006, algorithm 7.4) with the last `memory` pairs of steps and gradients; a step that does
    not lower the loss enough (Armijo, 1e-4) is halved. A row that can gain nothing more stays where it is. Nothing
    is asked of convergence: `slope` says how far it went, and a loss without a minimum goes on falling.

    ValueError: u is not (E, P) in float64, max_iter or memory no positive integer, or f(u) is not (E,) and finite.
    """
    if u.ndim != 2 or u.dtype != torch.float64:
        raise ValueError(f"u must be (E, P) in float64, got shape {tuple(u.shape)}, {u.dtype}; convert it")
    max_iter, memory = whole("max_iter", max_iter), whole("memory", memory)
    loss, slope = _evaluate(f, u)
    if loss.shape != u.shape[:1] or not (loss.isfinite().all() and slope.isfinite().all()):
        raise ValueError(
            f"f must return {len(u)} finite losses at u, got {loss.reshape(-1)[:5].tolist()}; start elsewhere"
        )
    steps, bends = (u.new_zeros(memory, *u.shape) for _ in range(2))  # a pair of zeros changes nothing
    inverse = u.new_zeros(memory, len(u))  # 1 / (step . bend)
    scale = 1 / slope.norm(dim=1).clamp(min=1)  # the first guess of the inverse curvature
    length = torch.ones_like(loss)
    taken_steps = torch.zeros(len(u), dtype=torch.int64)
    direction = -scale[:, None] * slope
    for _ in range(max_iter):
        trial = u + length[:, None] * direction
        new_loss, new_slope = _evaluate(f, trial)
        falls = new_loss <= loss + 1e-4 * length * (slope * direction).sum(1)
        taken = falls & new_slope.isfinite().all(1)
        if not (taken | (length > SHORTEST)).any():
            break
        move, bend = trial - u, new_slope - slope
        product = (move * bend).sum(1)
        curved = taken & (product > 1e-12 * bend.square().sum(1))  # else the pair says nothing about a minimum
        # Each row keeps its own pairs: the rows that have a new one forget their oldest.
        row = curved[:, None]
        steps = torch.where(row, torch.cat([steps[1:], move[None]]), steps)
        bends = torch.where(row, torch.cat([bends[1:], bend[None]]), bends)
        inverse = torch.where(curved, torch.cat([inverse[1:], 1 / product[None]]), inverse)
        scale = torch.where(curved, product / bend.square().sum(1), scale)
        u, slope = torch.where(taken[:, None], trial, u), torch.where(taken[:, None], new_slope, slope)
        loss = torch.where(taken, new_loss, loss)
        taken_steps += taken.cpu()
        length = torch.where(taken, 1.0, length / 2)
        pairs = list(zip(steps, bends, inverse, strict=True))
        direction = -two_loops(slope, pairs, lambda v, scale=scale: scale[:, None] * v)  # type: ignore[misc]
    return Minimum(u, loss, slope.abs().amax(1), taken_steps)


def _evaluate(f: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    u = u.detach().requires_grad_()
    loss = f(u)
    (slope,) = torch.autograd.grad(loss.sum(), u)
    return loss.detach(), slope


def two_loops(
    slope: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]], precondition: Callable[[Tensor], Tensor]
) -> Tensor:
    """The slopes (E, P) times what L-BFGS takes for the inverse Hessian (Nocedal & Wright 2006, algorithm 7.4).

    pairs: (step (E, P), change of slope (E, P), 1 / their product (E,)), from oldest to newest; a pair with a product's
    inverse of zero changes nothing. precondition: what the inverse Hessian is before the pairs correct it.
    """
    shares = []
    for step, bend, weight in reversed(pairs):
        shares.append(weight * (step * slope).sum(1))
        slope = slope - shares[-1][:, None] * bend
    moved = precondition(slope)
    for (step, bend, weight), share in zip(pairs, reversed(shares), strict=True):
        moved = moved + (share - weight * (bend * moved).sum(1))[:, None] * step
    return moved
