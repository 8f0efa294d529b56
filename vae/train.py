"""One trainer for every sweep: all members of an ensemble, one loop, stochastic gradients by reparameterisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from vae.config import resolve_device
from vae.ensemble import Ensemble
from vae.noise import batches, generator

Objective = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `n_samples` is K, the latent samples per datum; history is averaged over `log_every`
    steps.

    A member with its own "learning_rate" uses that in place of the schedule's; "cosine" lets it fall to zero at the end
    (Loshchilov & Hutter 2017, eq. 5, one cycle). Adam's moments decay at 0.9 and 0.999, epsilon 1e-8 (Kingma & Ba
    2015).
    """

    steps: int
    batch_size: int
    learning_rate: float = 1e-3
    decay: Literal["cosine", "constant"] = "cosine"
    n_samples: int = 1
    log_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "n_samples", "log_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}; pass a positive integer")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}; try 1e-3")
        if self.decay not in ("cosine", "constant"):
            raise ValueError(f"decay must be 'cosine' or 'constant', got {self.decay!r}; pass one of the two")

    def rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at this step."""
        return 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.decay == "cosine" else 1.0


class Trained(NamedTuple):
    """The trained ensemble; `history` (member keys, step, objective, the mean since the last row); `diverged`
    {member: step}.
    """

    ensemble: Ensemble
    history: pd.DataFrame
    diverged: dict[int, int]


class DivergedError(RuntimeError):
    """Members whose objective or gradient stopped being finite; `.trained` holds everything, the others
    trained to the end.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        lines = [f"member {i} {dict(trained.ensemble.members[i])} at step {s}" for i, s in trained.diverged.items()]
        super().__init__(
            f"{len(lines)} of {len(trained.ensemble)} members diverged and were frozen: "
            + "; ".join(lines)
            + ". Lower learning_rate, or pass allow_divergence=True if that is what you measure"
        )


def train(
    ensemble: Ensemble,
    objective: Objective,
    data: Tensor,
    schedule: Schedule,
    *,
    frozen: Sequence[str] = (),
    subsets: Sequence[Tensor] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    allow_divergence: bool = False,
) -> Trained:
    """Maximises the mean over data of `objective(model, x, eps, member) -> (B,)` for every member at once, by Adam.

    `data` (N, X). A member's declaration needs a "seed": members with equal seeds see the same minibatches and the same
    noise `eps` (K, B, Z) (common random numbers), drawn on the CPU. `member` holds its other numbers as 0-dim tensors.
    Losses are summed over members, which therefore never influence each other. `frozen` names parts that keep their
    parameters ("decoder"); `subsets` gives each member the rows (n,) that it trains on; `progress(step, steps)` is
    called after every logged stretch. A member whose objective or gradient is not finite is frozen as it was; the
    others finish, then DivergedError is raised unless `allow_divergence`.
    """
    place = resolve_device(device)
    _check(ensemble, data, frozen, subsets)
    ensemble = ensemble.to(place)
    first = next(iter(ensemble.params.values()))
    data = data.to(place, first.dtype)

    streams, stream_of = _streams(ensemble, data.shape[0], schedule.batch_size, subsets)
    stream_index = torch.tensor(stream_of, device=place)
    numbers = {
        name: ensemble.column(name)
        for name, value in ensemble.members[0].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    default = torch.full((len(ensemble),), schedule.learning_rate, dtype=first.dtype, device=place)
    base_rate = numbers.get("learning_rate", default)

    params = {k: v.clone() for k, v in ensemble.params.items()}
    moving = [k for k in params if not any(k == part or k.startswith(part + ".") for part in frozen)]
    first_moment = {k: torch.zeros_like(params[k]) for k in moving}
    second_moment = {k: torch.zeros_like(params[k]) for k in moving}

    def loss(
        free: dict[str, Tensor],
        fixed: dict[str, Tensor],
        buffers: dict[str, Tensor],
        x: Tensor,
        eps: Tensor,
        member: Any,
    ) -> Tensor:
        return -functional_call(ensemble.model, (free | fixed, buffers), (objective, x, eps, member)).mean()

    step_gradients = torch.vmap(grad_and_value(loss))
    z_dim = ensemble.map(lambda model, x: model.encode(x).mean, data[:1]).shape[-1]

    alive = torch.ones(len(ensemble), dtype=torch.bool, device=place)
    frozen_at = torch.full((len(ensemble),), -1, device=place)
    total = torch.zeros_like(base_rate)
    rows: list[tuple[int, Tensor]] = []
    since = 0
    for step in range(schedule.steps):
        index = torch.stack([next(s.rows) for s in streams]).to(place)
        eps = torch.stack(
            [
                torch.randn(schedule.n_samples, schedule.batch_size, z_dim, generator=s.noise, dtype=first.dtype)
                for s in streams
            ]
        ).to(place)
        gradients, value = step_gradients(
            {k: params[k] for k in moving},
            {k: v for k, v in params.items() if k not in first_moment},
            ensemble.buffers,
            data[index[stream_index]],
            eps[stream_index],
            numbers,
        )
        checksum = value + sum(g.reshape(len(ensemble), -1).sum(1) for g in gradients.values())
        healthy = alive & checksum.isfinite()
        frozen_at = torch.where(alive & ~healthy, step, frozen_at)
        alive = healthy

        rate = torch.where(alive, base_rate * schedule.rate_factor(step), 0.0)
        for name in moving:
            shape = (-1, *[1] * (params[name].ndim - 1))
            gradient = torch.where(alive.view(shape), gradients[name], 0.0)
            first_moment[name].lerp_(gradient, 0.1)
            second_moment[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            scale = (second_moment[name] / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
            params[name].sub_(rate.view(shape) / (1 - 0.9 ** (step + 1)) * first_moment[name] / scale)

        total, since = total - value, since + 1
        if since == schedule.log_every or step + 1 == schedule.steps:
            rows.append((step + 1, total / since))
            total, since = torch.zeros_like(total), 0
            if progress is not None:
                progress(step + 1, schedule.steps)

    history = pd.DataFrame(
        {**member, "step": step, "objective": float(v)}
        for step, values in rows
        for member, v in zip(ensemble.members, values.tolist(), strict=True)
    )
    diverged = {i: s for i, s in enumerate(frozen_at.tolist()) if s >= 0}
    trained = Trained(Ensemble(ensemble.model, params, ensemble.buffers, ensemble.members), history, diverged)
    if diverged and not allow_divergence:
        raise DivergedError(trained)
    return trained


class _Stream(NamedTuple):
    rows: Any
    noise: torch.Generator


def _streams(
    ensemble: Ensemble, n: int, batch_size: int, subsets: Sequence[Tensor] | None
) -> tuple[list[_Stream], list[int]]:
    """One stream per distinct (seed, subset), and which of them each member follows."""
    streams: dict[tuple[int, bytes], _Stream] = {}
    keys = []
    for i, member in enumerate(ensemble.members):
        subset = None if subsets is None else subsets[i].cpu()
        key = (member["seed"], b"" if subset is None else subset.numpy().tobytes())
        keys.append(key)
        if key not in streams:
            order = batches(n if subset is None else len(subset), batch_size, generator(member["seed"], "batches"))
            rows = order if subset is None else (subset[b] for b in order)
            streams[key] = _Stream(rows, generator(member["seed"], "noise"))
    order_of = {key: i for i, key in enumerate(streams)}
    return list(streams.values()), [order_of[key] for key in keys]


def _check(ensemble: Ensemble, data: Tensor, frozen: Sequence[str], subsets: Sequence[Tensor] | None) -> None:
    if data.ndim != 2 or not data.isfinite().all():
        raise ValueError(
            f"data must be a finite (N, X) tensor, got shape {tuple(data.shape)}; remove NaN and infinity first"
        )
    likelihood = getattr(ensemble.model, "likelihood", None)
    if likelihood is not None:
        likelihood.check(data)
    names = set(ensemble.params)
    for part in frozen:
        if not any(name == part or name.startswith(part + ".") for name in names):
            raise ValueError(f"frozen must name parts of the model, got {part!r}; it has {sorted(names)}")
    if subsets is not None and len(subsets) != len(ensemble):
        raise ValueError(
            f"subsets must have one entry per member, got {len(subsets)} for {len(ensemble)}; add the missing"
        )
    for member in ensemble.members:
        if "seed" not in member:
            raise ValueError(f"members need a seed, got {dict(member)}; add 'seed': 0")
        beta = member.get("beta", 1.0)
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be finite and not negative, got {beta}; pass 0 or more")
