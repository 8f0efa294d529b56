"""What is wrong with a run, told before it starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vae.models.ensemble import Ensemble
from vae.train.objectives import check_numbers
from vae.train.run import belongs
from vae.train.schedule import Schedule


def check(
    ensemble: Ensemble,
    data: Tensor,
    schedule: Schedule,
    frozen: Sequence[str],
    subsets: Sequence[Tensor] | None,
) -> None:
    """Raises ValueError, which names the argument, the value and the remedy, for a run that cannot be."""
    likelihood = getattr(ensemble.model, "likelihood", None)
    if likelihood is not None:
        likelihood.check(data)
    names = set(ensemble.params)
    for part in frozen:
        if not any(belongs(name, part) for name in names):
            raise ValueError(f"frozen must name parts of the model, got {part!r}; it has {sorted(names)}")
    if schedule.aggressive is not None:
        part, moving = schedule.aggressive.part, [n for n in names if not any(belongs(n, p) for p in frozen)]
        if all(belongs(name, part) for name in moving) or not any(belongs(name, part) for name in moving):
            raise ValueError(
                f"aggressive.part must be one part of several that move, got {part!r}; these move: {sorted(moving)}"
            )
    if subsets is not None and len(subsets) != len(ensemble):
        raise ValueError(
            f"subsets must have one entry per member, got {len(subsets)} for {len(ensemble)}; add the missing"
        )
    for rows in subsets or ():
        whole = rows.ndim == 1 and rows.dtype == torch.int64 and len(rows) > 0
        if not whole or rows.min() < 0 or rows.max() >= len(data):
            raise ValueError(
                f"subsets must hold row numbers (n,) from 0 to {len(data) - 1} as int64, got shape "
                f"{tuple(rows.shape)}, {rows.dtype}; use torch.arange or a mask's nonzero()[:, 0]"
            )
    fewest = len(data) if subsets is None else min(map(len, subsets))
    if fewest < schedule.batch_size:
        raise ValueError(
            f"batch_size must lie between 1 and the {fewest} training rows, got {schedule.batch_size}; lower it"
        )
    for member in ensemble.members:
        if "seed" not in member:
            raise ValueError(f"members need a seed, got {dict(member)}; add 'seed': 0")
        if "progress" in member:
            raise ValueError(
                f"members must not declare 'progress', got {dict(member)}; it is what the trainer tells objectives"
            )
        check_numbers(member)
        if member.get("cycles", 1) > schedule.steps:
            raise ValueError(
                f"cycles must be at most the {schedule.steps} steps, got {member['cycles']}; lower it or train longer"
            )
