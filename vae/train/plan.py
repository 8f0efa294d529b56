"""How a run is carried out: members in chunks, chunks on processes, compiled or not. None of it changes what is
computed, beyond rounding.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vae import environment
from vae.check import number, whole

# Measured with benchmarks/ on two EPYC cores of 95 GFLOP/s in float32, and rounded: what decides below need not be
# exact, but must be the same in every run on a machine, or runs would not repeat bit for bit.
FLOPS = {True: 70e9, False: 20e9}  # of one thread in training, compiled and eager
CALL_SECONDS = {True: 1e-4, False: 2.5e-3}  # of a step, whatever its size
STEP_FLOPS = {True: 1.5e8, False: 3e8}  # of a step's work that keep the caches warm and the calls negligible
COMPILE_SECONDS = 10.0  # with an empty cache
START_SECONDS = 5.0  # of a worker process: importing PyTorch
SECOND_THREAD = 1.5  # what a second thread in one process gains; a second process gains 2
MEMBERS = 256  # more gain nothing, however small


@dataclass(frozen=True)
class Execution:
    """How to carry out a run; results agree to rounding whatever is chosen, and None leaves the choice to the trainer.

    `compile` the step, or not; `workers`, processes of one thread each (CPU only; 1: this process with its threads);
    `chunk`, members trained at a time. The environment variables VAE_COMPILE (0 or 1), VAE_WORKERS and VAE_CHUNK stand
    in for what is None. `checkpoint`, a folder: the run leaves its state there at least every `checkpoint_seconds` and
    goes on from what it finds there, to the same numbers bit for bit. It keeps to the plan that it was begun with:
    another number of threads, or another choice of `compile` or `chunk` than that plan's, is a ValueError.
    """

    compile: bool | None = None
    workers: int | None = None
    chunk: int | None = None
    checkpoint: Path | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("workers", "chunk"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value, 1, "None chooses it"))
        if self.compile not in (None, True, False):
            raise ValueError(f"compile must be True, False or None, got {self.compile!r}; None chooses it")
        number("checkpoint_seconds", self.checkpoint_seconds, "not be negative", lambda v: v >= 0, "60 is the default")


class Plan(NamedTuple):
    """What was chosen: members in chunks that are trained one after another, or on several processes."""

    chunks: tuple[tuple[int, ...], ...]
    workers: int
    compile: bool
    forced: tuple[str, ...] = ()  # which of chunks and compile were asked for

    @property
    def lasting(self) -> dict[str, Any]:
        """What a run that goes on keeps to, in plain JSON."""
        return {"chunks": [list(chunk) for chunk in self.chunks], "compile": self.compile}

    def __str__(self) -> str:
        how = "compiled" if self.compile else "eager"
        where = f"{self.workers} worker processes of one thread" if self.workers > 1 else "this process"
        return f"{how}, {len(self.chunks)} chunk(s) of at most {max(map(len, self.chunks))} members, {where}"


class Work(NamedTuple):
    """What decides: one member's parameters and latent samples in a step, and the steps."""

    parameters: int
    samples: int  # K B
    steps: int

    @property
    def flops(self) -> float:
        """Of one member's step: a multiplication and an addition per parameter and sample, forward and twice back."""
        return 6.0 * self.parameters * self.samples


def plan(order: Sequence[int], work: Work, device: torch.device, execution: Execution) -> Plan:
    """How to train the members `order`, those that share streams beside each other.

    ValueError: a compiler or worker processes were asked for that there cannot be, or an environment variable is odd.
    """
    compile_ = execution.compile if execution.compile is not None else environment.switch("VAE_COMPILE")
    workers, chunk = (
        execution.workers or environment.count("VAE_WORKERS"),
        execution.chunk or environment.count("VAE_CHUNK"),
    )
    if compile_ and not has_compiler(device):
        raise ValueError(
            f"compile is True, but PyTorch finds no compiler for {device.type}; install "
            f"{'g++ or clang' if device.type == 'cpu' else 'triton'}, or leave compile out"
        )
    if workers is not None and workers > 1 and device.type != "cpu":
        raise ValueError(f"workers must be 1 on {device.type}, got {workers}; processes share a CPU, not a GPU")
    forced = tuple(name for name, choice in (("chunks", chunk), ("compile", compile_)) if choice is not None)
    able, n = has_compiler(device), len(order)
    threads = torch.get_num_threads() if device.type == "cpu" else 1

    def seconds(compiled: bool) -> float:  # of this run on one thread
        chunks = math.ceil(n / _chunk(work, compiled, device))
        return work.steps * (n * work.flops / FLOPS[compiled] + chunks * CALL_SECONDS[compiled])

    if compile_ is None:
        # The cost is paid once whatever the number of workers, since they compile at the same time.
        compile_ = able and (seconds(False) - seconds(True)) / threads > COMPILE_SECONDS
    if workers is None:
        alone = seconds(compile_)
        gains = alone / SECOND_THREAD - alone / threads > START_SECONDS
        workers = threads if threads > 1 and n > 1 and gains else 1
    workers = min(workers, n)
    size = min(chunk or _chunk(work, compile_, device), n)
    pieces = math.ceil(math.ceil(n / size) / workers) * workers if chunk is None else math.ceil(n / size)
    size = math.ceil(n / min(pieces, n))
    return Plan(tuple(tuple(order[i : i + size]) for i in range(0, n, size)), workers, compile_, forced)


def _chunk(work: Work, compiled: bool, device: torch.device) -> int:
    """Members to train at a time: on a CPU as few as keep it busy, since fewer fit its caches; on a GPU what fits."""
    if device.type == "cpu":
        return max(1, min(MEMBERS, round(STEP_FLOPS[compiled] / work.flops)))
    if device.type == "cuda":
        per_member = 16 * work.parameters + 400 * work.samples + 24 * math.isqrt(work.parameters) * work.samples
        return max(1, int(0.5 * torch.cuda.get_device_properties(device).total_memory / per_member))
    return MEMBERS


def has_compiler(device: torch.device) -> bool:
    """Whether Inductor finds what it needs to make code for `device`."""
    if device.type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "cl"))
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None
