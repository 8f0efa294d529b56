"""The trainer: checks, plans, trains the chunks here or on worker processes, and puts the members together again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from vae.check import Numbers, finite_rows, tensor
from vae.device import resolve_device
from vae.models.ensemble import Ensemble, Member, stack
from vae.noise import generator
from vae.train import checkpoint
from vae.train.checks import check
from vae.train.plan import Execution, Plan, Work, plan
from vae.train.run import Job, Outcome, belongs, numbers_of, trained
from vae.train.schedule import Schedule
from vae.train.step import Objective
from vae.train.streams import Rows, rows_of, stream_keys

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """The trained ensemble; `history` (member keys, step, objective, the mean since the last row); `diverged`
    {member: step}; how it was done, and the seconds that one process spent compiling.
    """

    ensemble: Ensemble
    history: pd.DataFrame
    diverged: dict[int, int]
    plan: Plan
    compile_seconds: float

    def last_objective(self) -> Tensor:
        """The objective at the end of training, the mean over the last logged steps, (E,)."""
        last = self.history[self.history["step"] == self.history["step"].max()]
        return torch.from_numpy(last["objective"].to_numpy(copy=True))


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


def sweep(
    build: Callable[[Member], nn.Module],
    members: Sequence[Member],
    objective: Objective,
    data: Numbers,
    schedule: Schedule,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    unfinished: Path | None = None,
    **options: Any,
) -> Trained:
    """One model for each declaration in `members`, made by `build` and trained together: `train(stack(build,
    members))`.

    `unfinished`: the folder in which the training keeps its state, and from which it goes on if it was stopped; within
    a record, `config.unfinished(name)`. `options`: as for `train`.
    """
    execution = Execution(checkpoint=unfinished)
    start = stack(build, members, dtype=dtype)
    return train(start, objective, data, schedule, device=device, execution=execution, **options)


def train(
    ensemble: Ensemble,
    objective: Objective,
    data: Numbers,
    schedule: Schedule,
    *,
    frozen: Sequence[str] = (),
    subsets: Sequence[Numbers] | None = None,
    device: str = "cpu",
    execution: Execution | None = None,
    progress: Callable[[int, int], None] | None = None,
    allow_divergence: bool = False,
) -> Trained:
    """Maximises the mean over data of `objective(model, x, eps, member) -> (B,)` for every member at once, by Adam.

    `data` (N, X), a tensor or an array. A member's declaration needs a "seed": members with equal seeds see the same
    minibatches and the same noise `eps` (K, B, Z) (common random numbers), drawn on the CPU. `member` holds its numbers
    as 0-dim tensors, and as "progress" the part of the steps already taken, so that `annealing(member["progress"],
    member["cycles"], member["rise"])` gives each member a schedule of its own. Losses are summed over members, which
    therefore never influence each other. `frozen` names parts that keep their parameters ("decoder"); `subsets` gives
    each member the rows (n,) that it trains on. A member whose objective or gradient is not finite is frozen as it was;
    the others finish, then DivergedError is raised unless `allow_divergence`.

    >>> from vae.data import load
    >>> from vae.models import linear_vae_model
    >>> from vae.train import elbo, terms
    >>> def objective(model, x, eps, member):
    ...     return elbo(terms(model, x, model.encode(x), eps), member["beta"])
    >>> members = [{"seed": 0, "beta": beta} for beta in (0.5, 2.0)]
    >>> start = stack(lambda m: linear_vae_model(64, 2, 0.1, generator(m["seed"], "init")), members)
    >>> trained = train(start, objective, load("digits").train, Schedule(steps=50, batch_size=64))
    >>> trained.history.columns.tolist(), trained.last_objective().shape
    (['seed', 'beta', 'step', 'objective'], torch.Size([2]))

    `execution` says how it is done, by default as is fastest (see `Execution`); it changes results by rounding only
    (float64: 1e-10). The choice is logged and returned. `progress(step, steps)` counts the steps of all chunks of
    members, after every logged stretch; where worker processes train them, after every chunk. The result is on
    `device`.
    """
    place = resolve_device(device)
    execution = execution or Execution()
    data = finite_rows("data", data)
    pieces = None if subsets is None else [tensor("subsets", rows) for rows in subsets]
    check(ensemble, data, schedule, frozen, pieces)
    moving = tuple(k for k in ensemble.params if not any(belongs(k, part) for part in frozen))
    home, ensemble = ensemble, ensemble.to("cpu")
    z_dim = ensemble.latent_dim(data, "data")
    rows = rows_of(data.cpu(), ensemble.dtype)

    keys = stream_keys(ensemble.members, pieces)
    at = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    order = sorted(range(len(ensemble)), key=lambda i: at[keys[i]])
    size = sum(p[0].numel() for p in ensemble.params.values())
    chosen = plan(order, Work(size, schedule.batch_size * schedule.n_samples, schedule.steps), place, execution)
    folder, chosen = _folder(
        execution, chosen, lambda: _identity(ensemble, objective, rows, schedule, z_dim, moving, pieces, place, chosen)
    )
    log.info("training %d members: %s", len(ensemble), chosen)

    job = Job(
        ensemble, objective, rows, schedule, moving, pieces, z_dim, place, chosen, None, execution.checkpoint_seconds,
        time.time(), uuid.uuid4().hex,
    )  # fmt: skip
    longest = max(map(len, chosen.chunks))

    def jobs() -> Iterator[Job]:
        for number, chunk in enumerate(chosen.chunks):
            # Code is compiled for one number of members: a shorter chunk trains its last one more often.
            members = [*chunk, *[chunk[-1]] * (longest - len(chunk))] if chosen.compile else list(chunk)
            yield replace(
                job,
                ensemble=ensemble.take(members),
                subsets=None if pieces is None else [pieces[i].cpu() for i in members],
                file=folder and folder / f"chunk-{number:04}.safetensors",
            )

    outcomes = list(_outcomes(jobs(), chosen, schedule.steps, progress))
    compile_seconds = max(outcome.compile_seconds for outcome in outcomes)
    if chosen.compile:
        log.info("compiling took %.1f s", compile_seconds)
    chosen = chosen._replace(compile=all(outcome.compiled for outcome in outcomes))
    result = _assembled(home.to(place), moving, schedule, chosen, outcomes, compile_seconds)
    if result.diverged and not allow_divergence:
        raise DivergedError(result)
    return result


def _outcomes(
    jobs: Iterator[Job], chosen: Plan, steps: int, progress: Callable[[int, int], None] | None
) -> Iterator[Outcome]:
    """What became of the chunks, in their order."""
    total = steps * len(chosen.chunks)

    def report(done: int) -> None:
        if progress is not None:
            progress(done, total)

    if chosen.workers == 1:
        for number, job in enumerate(jobs):
            yield trained(job, lambda step, number=number: report(number * steps + step))  # type: ignore[misc]
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        # What a notebook defines travels by value, the data as one memory map for all ("c": writable, as torch asks).
        pool = joblib.Parallel(n_jobs=chosen.workers, return_as="generator", mmap_mode="c")
        for number, outcome in enumerate(pool(joblib.delayed(_in_worker)(*_packed(job)) for job in jobs), 1):
            report(number * steps)
            yield outcome


def _packed(job: Job) -> tuple[Job, np.ndarray]:
    return replace(job, rows=job.rows._replace(values=torch.empty(0))), job.rows.values.numpy()


def _in_worker(job: Job, values: np.ndarray) -> Outcome:
    parent = os.getppid()

    def check(step: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # nobody waits for this process any more, so there is nobody to tell

    return trained(replace(job, rows=job.rows._replace(values=torch.from_numpy(values))), check)


def _assembled(
    ensemble: Ensemble,
    moving: tuple[str, ...],
    schedule: Schedule,
    chosen: Plan,
    outcomes: list[Outcome],
    compile_seconds: float,
) -> Trained:
    """The members in the order in which they were declared, without those that only filled a chunk."""
    order = [i for chunk in chosen.chunks for i in chunk]
    back = torch.tensor(order).argsort()

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part[: len(chunk)] for part, chunk in zip(parts, chosen.chunks, strict=True)])[back]

    params = {name: joined([outcome.params[name] for outcome in outcomes]).to(ensemble.device) for name in moving}
    history = joined([outcome.history.mT for outcome in outcomes])
    frame = pd.DataFrame(
        {**member, "step": step, "objective": value}
        for step, values in zip(outcomes[0].steps, history.mT.tolist(), strict=True)
        for member, value in zip(ensemble.members, values, strict=True)
    )
    frozen_at = joined([outcome.frozen_at for outcome in outcomes])
    diverged = {i: step for i, step in enumerate(frozen_at.tolist()) if step >= 0}
    whole = {name: params.get(name, p.clone()) for name, p in ensemble.params.items()}
    return Trained(replace(ensemble, params=whole), frame, diverged, chosen, compile_seconds)


def _folder(execution: Execution, chosen: Plan, identify: Callable[[], dict[str, Any]]) -> tuple[Path | None, Plan]:
    """Where checkpoints go, if anywhere, and the plan to follow: that of an unfinished run which is found there.

    ValueError: something else than that plan was asked for.
    """
    if execution.checkpoint is None:
        return None, chosen
    folder = Path(execution.checkpoint)
    found = checkpoint.claim(folder, identify(), chosen.lasting)
    if differ := [name for name in chosen.forced if found[name] != chosen.lasting[name]]:
        raise ValueError(
            f"{folder} holds a run whose {' and '.join(differ)} differ from what Execution or the environment asks "
            "for; leave the choice open to go on with that run, or delete the folder to start afresh"
        )
    return folder, chosen._replace(chunks=tuple(map(tuple, found["chunks"])), compile=found["compile"])


def _identity(
    ensemble: Ensemble,
    objective: Objective,
    rows: Rows,
    schedule: Schedule,
    z_dim: int,
    moving: Sequence[str],
    subsets: Sequence[Tensor] | None,
    place: torch.device,
    chosen: Plan,
) -> dict[str, Any]:
    """What makes a run this one and no other. An objective is known by what it says of some data, not by its code,
    which may read anything: a list that it closes over, a global, a file.
    """
    start = [*ensemble.params.values(), *ensemble.buffers.values()]
    return {
        "members": json.loads(json.dumps([dict(member) for member in ensemble.members], default=_plain)),
        "schedule": asdict(schedule),
        "moving": list(moving),
        "initial parameters": _digest(start),
        "data": f"{_digest([rows.values])} / {rows.levels}",
        "subsets": None if subsets is None else _digest(subsets),
        "objective": _digest(_said(ensemble, objective, rows, schedule, z_dim)),
        "dtype": str(rows.dtype),
        "device": place.type,
        "threads": torch.get_num_threads() if place.type == "cpu" and chosen.workers == 1 else 1,
        "torch": torch.__version__,
    }


def _plain(value: Any) -> Any:
    """What JSON does not know: the numbers of NumPy and PyTorch as Python's, the rest by its name."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else str(value)


def _said(ensemble: Ensemble, objective: Objective, rows: Rows, schedule: Schedule, z_dim: int) -> list[Tensor]:
    """The objective of every member for the first data and fixed noise, from the first step to the last at its initial
    parameters, and at smaller and larger ones, where a bound on a term may hold that does not hold at first.
    """
    count = min(schedule.batch_size, 32)
    x = rows.at(torch.arange(count) % len(rows.values))
    eps = torch.randn(schedule.n_samples, count, z_dim, generator=generator(0, "identity"), dtype=x.dtype)
    numbers = numbers_of(ensemble)

    def of_one(model: Any, member: dict[str, Tensor]) -> Tensor:
        return objective(model, x, eps, member)

    def said(scale: float, progress: float) -> Tensor:
        there = replace(ensemble, params={name: scale * p for name, p in ensemble.params.items()})
        at = torch.full((len(ensemble),), progress, dtype=x.dtype)
        return there.map(of_one, numbers | {"progress": at}, in_dims=[0]).detach()

    places = [(1.0, step / 10) for step in range(11)] + [(scale, 0.5) for scale in (0.0, 0.1, 3.0, 10.0)]
    return [said(scale, progress) for scale, progress in places]


def _digest(tensors: Sequence[Tensor]) -> str:
    found = hashlib.sha256()
    for each in tensors:
        content = each.detach().cpu().contiguous().numpy().tobytes()
        found.update(f"{each.dtype} {tuple(each.shape)}".encode() + content)
    return found.hexdigest()
