"""One chunk of members from its start, or its checkpoint, to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vae.models.ensemble import Ensemble
from vae.train import checkpoint
from vae.train.plan import Plan
from vae.train.schedule import Schedule
from vae.train.step import Objective, Stretch, Tree, captured, compiled, each, eager, rates_at, step_of
from vae.train.streams import Draws, Rows, Streams

log = logging.getLogger(__name__)

NOISE_BYTES = 32 * 2**20  # of noise drawn ahead at most
# This process's compiled steps of its latest run, by the number of streams; None where the compiler failed.
_programs: dict[tuple[str, int], Any] = {}


@dataclass(frozen=True)
class Job:
    """All that it takes to train one chunk, in this process or in another one."""

    ensemble: Ensemble
    objective: Objective
    rows: Rows
    schedule: Schedule
    moving: tuple[str, ...]
    subsets: Sequence[Tensor] | None
    z_dim: int
    device: torch.device
    plan: Plan
    file: Path | None  # its checkpoint
    checkpoint_seconds: float
    started: float  # the run, on the clock time.time()
    run: str  # the name of the call of `train` that all chunks belong to

    @property
    def lagging(self) -> frozenset[str]:
        """The parameters that an aggressive schedule holds back."""
        aggressive = self.schedule.aggressive
        return frozenset(k for k in self.moving if aggressive is not None and not belongs(k, aggressive.part))


def belongs(parameter: str, part: str) -> bool:
    """Whether a parameter is that part of the model, or in it."""
    return parameter == part or parameter.startswith(part + ".")


def numbers_of(ensemble: Ensemble) -> dict[str, Tensor]:
    """What of the members' declarations objectives can read: their numbers (E,), by name."""
    return {
        name: ensemble.column(name)
        for name, value in ensemble.members[0].items()
        if isinstance(value, Real) and not isinstance(value, bool)
    }


class Outcome(NamedTuple):
    """A chunk trained: params {name: (E, ...)}, history (rows, E) at `steps`, frozen_at (E,), -1 for the healthy."""

    params: dict[str, Tensor]
    steps: list[int]
    history: Tensor
    frozen_at: Tensor
    compiled: bool
    compile_seconds: float


class Run:
    """A chunk in training. `advance` takes steps; nothing waits for the device unless a tensor is looked at."""

    def __init__(self, job: Job) -> None:
        self.job = job
        schedule, place = job.schedule, job.device
        ensemble = job.ensemble.to(place)
        self.dtype = ensemble.dtype
        n = len(ensemble)
        self.streams = Streams(
            ensemble.members, len(job.rows.values), schedule, job.z_dim, self.dtype, job.subsets, place.type == "cuda"
        )
        numbers = numbers_of(ensemble)
        default = torch.full((n,), schedule.learning_rate, dtype=self.dtype, device=place)
        params = {name: _laid_out(ensemble.params[name]) for name in job.moving}
        self.state: Tree = {
            "params": params,
            "first": {name: torch.zeros_like(p) for name, p in params.items()},
            "second": {name: torch.zeros_like(p) for name, p in params.items()},
            "alive": torch.ones(n, dtype=torch.bool, device=place),
            "frozen_at": torch.full((n,), -1, device=place),
            "total": torch.zeros_like(default),
            "step": torch.zeros((), dtype=torch.int64, device=place),
        }
        self.given: Tree = {
            "fixed": {name: _laid_out(p) for name, p in ensemble.params.items() if name not in params},
            "buffers": ensemble.buffers,
            "numbers": numbers,
            "base_rate": numbers.get("learning_rate", default),
            "values": job.rows.values.to(place),
            "stream": self.streams.of_member.to(place),
        }
        self.longest = max(1, min(schedule.log_every, NOISE_BYTES // self.streams.step_bytes()))
        self.at = 0
        self.history: list[tuple[int, Tensor]] = []
        self.compiled, self.compile_seconds = False, 0.0
        self._stretch: Stretch | None = None

    def advance(self, draws: Draws) -> None:
        """Take the steps whose minibatches and noise these are."""
        place, schedule = self.job.device, self.job.schedule
        n = len(draws.rows)
        rates = torch.tensor(
            [rates_at(t, schedule) for t in range(self.at, self.at + n)],
            dtype=self.dtype,
            pin_memory=place.type == "cuda",  # as the draws are
        )
        stretch = (
            draws.rows.to(place, non_blocking=True),
            draws.eps.to(place, non_blocking=True),
            rates.to(place, non_blocking=True),
        )
        if self._stretch is None:
            self._stretch = self._backend(stretch)
        self._stretch(*stretch)
        self.at += n
        since = (self.at - 1) % schedule.log_every + 1
        if since == schedule.log_every or self.at == schedule.steps:
            self.history.append((self.at, self.state["total"] / since))
            self.state["total"].zero_()

    def _backend(self, stretch: tuple[Tensor, Tensor, Tensor]) -> Stretch:
        job = self.job
        step = step_of(job.ensemble.model, job.objective, job.rows.levels, self.dtype, job.lagging)
        one = eager(step, self.state, self.given)
        if job.plan.compile:
            index, eps, rates = (tensor[0] for tensor in stretch)
            key = job.run, len(index)  # members are equally many in all chunks, their streams are not
            if key not in _programs:
                for old in [old for old in _programs if old[0] != job.run]:
                    del _programs[old]
                begin = time.perf_counter()
                try:
                    _programs[key] = compiled(step, self.state, self.given, (index, eps, rates))
                except Exception as error:  # a compiler fails in any way it likes
                    if "compile" in job.plan.forced:
                        raise RuntimeError(
                            "the step does not compile; leave compile out, and it runs eagerly"
                        ) from error
                    log.warning("the step does not compile and runs eagerly: %s", error)
                    _programs[key] = None
                self.compile_seconds = time.perf_counter() - begin
            if (program := _programs[key]) is not None:
                one, self.compiled = program(self.state, self.given), True
        return captured(one, self.state, stretch, self.longest) if job.device.type == "cuda" else each(one)

    def stretches(self) -> Iterator[int]:
        """Lengths of the stretches from here to the end: as long as memory allows, ending at every row of history."""
        schedule, at = self.job.schedule, self.at
        while at < schedule.steps:
            length = min(self.longest, schedule.log_every - at % schedule.log_every, schedule.steps - at)
            yield length
            at += length

    def save(self, file: Path, noise_states: Sequence[Tensor]) -> None:
        """Store all that going on from here takes."""
        tensors = {f"state.{i}": leaf for i, leaf in enumerate(tree_leaves(self.state))}
        tensors |= {f"noise.{i}": state for i, state in enumerate(noise_states)}
        tensors |= {f"history.{step}": row for step, row in self.history}
        checkpoint.write(file, tensors, {"step": self.at, "compiled": self.compiled, "plan": self.job.plan.lasting})

    def restore(self, file: Path) -> None:
        """Go on from what `save` has stored. ValueError: the file is damaged, or of a run at the same time whose plan
        is another.
        """
        tensors, about = checkpoint.read(file)
        if about.get("plan") != self.job.plan.lasting:
            raise ValueError(f"checkpoint {file} is of another plan; delete it, and what it held is computed again")
        for i, leaf in enumerate(tree_leaves(self.state)):
            leaf.copy_(tensors[f"state.{i}"])
        rows = sorted((int(name.removeprefix("history.")), name) for name in tensors if name.startswith("history."))
        self.history = [(step, tensors[name].to(self.job.device)) for step, name in rows]
        self.at, self.compiled = about["step"], about["compiled"]
        noise = [tensors[f"noise.{i}"] for i in range(sum(name.startswith("noise.") for name in tensors))]
        self.streams.resume(self.at, noise)

    def outcome(self) -> Outcome:
        """The end of it, on the CPU, and the first time that a GPU is waited for."""
        params = {name: p.detach().cpu().contiguous() for name, p in self.state["params"].items()}
        history = torch.stack([row for _, row in self.history]).cpu()
        steps = [step for step, _ in self.history]
        return Outcome(params, steps, history, self.state["frozen_at"].cpu(), self.compiled, self.compile_seconds)


def trained(job: Job, progress: Callable[[int], None] = lambda step: None) -> Outcome:
    """The chunk trained to its end. `progress(step)` is called after every stretch that ends in a row of history."""
    run = Run(job)
    if job.file is not None and job.file.exists():
        run.restore(job.file)
    lengths = run.stretches()
    ahead = _next(run.streams, lengths)
    saved = job.started
    while ahead is not None:
        draws = ahead
        run.advance(draws)
        ahead = _next(run.streams, lengths)  # drawn while a GPU is at work on the stretch before
        if run.at % job.schedule.log_every == 0 or ahead is None:
            progress(run.at)
        since = job.started if ahead is None else saved  # a finished chunk is kept, however short it was
        if job.file is not None and time.time() - since >= job.checkpoint_seconds:
            run.save(job.file, draws.noise_states)
            saved = time.time()
    return run.outcome()


def _next(streams: Streams, lengths: Iterator[int]) -> Draws | None:
    length = next(lengths, None)
    return None if length is None else streams.draw(length)


def _laid_out(p: Tensor) -> Tensor:
    """A copy; on a CPU, matrices (E, out, in) lie transposed in memory, as the matrix products of a layer like them
    best, forward and back (up to four times as fast where a layer is narrow).
    """
    turn = p.ndim == 3 and p.device.type == "cpu"
    copy = (p.mT if turn else p).clone(memory_format=torch.contiguous_format)
    return copy.mT if turn else copy
