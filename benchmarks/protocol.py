"""Equal results first, then time: who takes part, in which layouts, and how a measurement is made."""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from benchmarks import cases
from benchmarks.cases import CASES
from benchmarks.contenders import FED, NAMES, ON_GPU, STACKED
from benchmarks.worker import Worker

MODULES = {"jax": "jax", "pythae": "pythae", "pyro": "pyro", "lightning": "lightning"}  # what a contender needs
STEPS = 16  # of the comparison before any timing
LIMITS = {"float32": 1e-5, "float64": 1e-10}  # relative, on the loss
BLOCK_SECONDS = 0.3
MAX_LOAD = 2.5  # the two cores of this run itself make 2

Say = Callable[[str], None]


class Layout(NamedTuple):
    """How many processes share the members, and with how many threads each."""

    name: str
    processes: int
    threads: int


LAYOUTS = (Layout("1 thread", 1, 1), Layout("2 threads", 1, 2), Layout("2 processes", 2, 1))


def present(names: Sequence[str] = tuple(NAMES)) -> list[str]:
    """The contenders whose packages are installed."""
    return [name for name in names if importlib.util.find_spec(MODULES.get(name, "torch"))]


# Equal results


def compare(case_name: str, dtype: str, device: str = "cpu", members: int = 3) -> dict[str, float]:
    """Largest relative difference of a member's loss from the plain loop's, after 16 steps from equal weights on equal
    minibatches and noise, for each contender that can be fed. This trainer runs on `device`; on a GPU, where it alone
    is timed, the plain loop on the CPU is all that it is compared with.
    """
    case = CASES[case_name]
    index, eps = cases.inputs(case, members, STEPS, dtype)
    rng = np.random.default_rng(3)
    x, noise = cases.data(case)[:256], rng.normal(size=(256, case.z_dim))
    names = present(FED) if device == "cpu" else ["slices", *ON_GPU]
    options = dict.fromkeys(ON_GPU, {"device": device})
    with started([Worker(name, case_name, members, dtype, options=options.get(name)) for name in names]) as workers:
        losses = {
            name: cases.loss(case, worker.ask("replay", index, eps), x, noise)
            for name, worker in zip(names, workers, strict=True)
        }
    return {name: float(np.abs(loss / losses["slices"] - 1).max()) for name, loss in losses.items()}


def compare_foreign(case_name: str, seeds: int = 8, steps: int = 220) -> dict[str, tuple[float, float]]:
    """Difference of the mean final loss of `seeds` trainings from ours, and its standard error, for each contender that
    draws for itself: nats.
    """
    case = CASES[case_name]
    x = cases.data(case)
    noise = np.random.default_rng(3).normal(size=(len(x), case.z_dim))
    found = {}
    for name in ("ours", *present([n for n in NAMES if n not in FED])):
        with started([Worker(name, case_name, 1)]) as (worker,):
            finals = [float(cases.loss(case, worker.ask("trained", s, steps), x, noise)[0]) for s in range(seeds)]
        found[name] = np.mean(finals), np.std(finals, ddof=1) / math.sqrt(seeds)
    mean, error = found.pop("ours")
    return {name: (float(m - mean), float(math.hypot(e, error))) for name, (m, e) in found.items()}


def check(say: Say, case: str, device: str = "cpu") -> list[dict[str, Any]]:
    """Rows of a table with every difference. RuntimeError: one is above its limit, so there is nothing to time."""
    rows: list[dict[str, Any]] = []
    for dtype, limit in LIMITS.items():
        for name, difference in compare(case, dtype, device).items():
            say(f"{case:7} {dtype} {NAMES[name]:32} {difference:.1e} (limit {limit:g})")
            rows.append({"contender": name, "quantity": f"difference, {dtype}", "value": difference})
            if not difference <= limit:
                raise RuntimeError(f"{NAMES[name]} differs by {difference:.1e} on {case} in {dtype}: not timed")
    # The other cases are the same code, on other shapes.
    foreign = compare_foreign(case) if case == "digits" and device == "cpu" else {}
    for name, (difference, error) in foreign.items():
        say(f"{case:7} 8 seeds {NAMES[name]:32} {difference:+.3f} +- {error:.3f} nats (limit 3 standard errors)")
        rows.append(
            {"contender": name, "quantity": "difference of the final loss", "value": difference, "se": error, "n": 8,
             "over": "seeds", "unit": "nats"}
        )  # fmt: skip
        if not abs(difference) <= 3 * error:
            raise RuntimeError(f"{NAMES[name]} ends {difference:+.3f} +- {error:.3f} nats from ours: not timed")
    return rows


# Time


class Entry(NamedTuple):
    """A contender at work: its processes, and the steps that make a block."""

    contender: str
    members: int
    workers: list[Worker]
    step_members: list[int]


def measure(
    case_name: str, layout: Layout, sizes: Sequence[int], rounds: int, say: Say, names: Sequence[str] = tuple(NAMES)
) -> list[dict[str, Any]]:
    """One row for each contender, number of members and round: ms of wall and of CPU per model-step.

    Everybody waits in a process of his own while one works a block; then the next one does, A B C A B C.
    """
    case = CASES[case_name]
    entries = [("ceiling", 1)]
    for name in present(names):
        # A loop that trains one model after another takes as long for each, however many there are.
        entries += [
            (name, size)
            for size in (sizes if name in STACKED else (1,))
            if name not in STACKED or size >= layout.processes
        ]
    rows = []
    with _at_work(entries, case_name, layout) as everybody:
        blocks = {}
        for i, entry in enumerate(everybody):
            _block(entry, [8] * len(entry.workers))  # warm-up
            trial = _block(entry, [8] * len(entry.workers))
            blocks[i] = [max(1, math.ceil(BLOCK_SECONDS * steps / seconds)) for steps, seconds, _ in trial]
        for number in range(rounds):
            for i, entry in enumerate(everybody):
                done = _block(entry, blocks[i])
                rate = sum(n * steps / seconds for n, (steps, seconds, _) in zip(entry.step_members, done, strict=True))
                cpu = sum(seconds for _, _, seconds in done)
                trained = sum(n * steps for n, (steps, _, _) in zip(entry.step_members, done, strict=True))
                rows.append(
                    {"case": case_name, "layout": layout.name, "contender": entry.contender, "members": entry.members,
                     "round": number, "wall": 1e3 / rate, "cpu": 1e3 * cpu / trained}
                )  # fmt: skip
        for entry in everybody:
            memory = sum(worker.ask("memory") or math.nan for worker in entry.workers)
            times = [row["wall"] for row in rows if (row["contender"], row["members"]) == entry[:2]]
            say(
                f"{case_name:7} {layout.name:12} {NAMES.get(entry.contender, entry.contender):32} E={entry.members:<3}"
                f" {np.median(times):8.4f} ms, at best {min(times):8.4f}   {memory:5.0f} MB"
            )
            for row in rows:
                if (row["contender"], row["members"]) == entry[:2]:
                    row |= {"memory": memory, "flops": case.flops}
    return rows


def measure_gpu(case_name: str, members: int, rounds: int) -> list[dict[str, Any]]:
    """As `measure`, for this trainer on a GPU alone, compiled and not."""
    rows = []
    for name in ON_GPU:
        worker = Worker(name, case_name, members, threads=os.cpu_count() or 1, options={"device": "cuda"})
        with started([worker]):
            worker.ask("run", 200)
            for number in range(rounds):
                steps, seconds, cpu = worker.ask("run", 500)
                rows.append(
                    {"case": case_name, "layout": "GPU", "contender": name, "members": members, "round": number,
                     "wall": 1e3 * seconds / steps / members, "cpu": 1e3 * cpu / steps / members,
                     "memory": worker.ask("memory"), "flops": CASES[case_name].flops}
                )  # fmt: skip
    return rows


def operations(case_name: str, members: int = 8) -> dict[str, float]:
    """What single operations reach on one thread (see `contenders.ceiling`)."""
    with started([Worker("ceiling", case_name, members, cores=[0])]) as (worker,):
        return worker.ask("operations")


def compile_times(case_name: str, members: int) -> dict[str, float]:
    """Seconds until the step is compiled, with an empty cache and with a full one, each in a new process."""
    with tempfile.TemporaryDirectory() as cache:
        found = {}
        for name in ("cold", "warm"):
            worker = Worker("ours", case_name, members, cores=[0], variables={"TORCHINDUCTOR_CACHE_DIR": cache})
            found[name] = worker.result()["compile_seconds"]
            worker.stop()
    return found


def load() -> float:
    """The machine's load, averaged over a minute."""
    return os.getloadavg()[0]


@contextmanager
def started(workers: list[Worker]) -> Iterator[list[Worker]]:
    """Workers that are ready; they end with the block."""
    try:
        for worker in workers:
            worker.result()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


@contextmanager
def _at_work(entries: Sequence[tuple[str, int]], case_name: str, layout: Layout) -> Iterator[list[Entry]]:
    everybody: list[Entry] = []
    try:
        for name, members in entries:
            p = layout.processes
            # Of a loop over models, each process trains one; members that train together are dealt to the processes.
            shares = [members // p + (i < members % p) for i in range(p)] if name in STACKED else [1] * p
            workers = [
                Worker(
                    name,
                    case_name,
                    share,
                    threads=layout.threads,
                    cores=range(i * layout.threads, (i + 1) * layout.threads),
                )
                for i, share in enumerate(shares)
            ]
            everybody.append(Entry(name, members, workers, []))
        for i, entry in enumerate(everybody):  # they start at the same time
            about = [worker.result() for worker in entry.workers]
            everybody[i] = entry._replace(step_members=[a["step_members"] for a in about])
        yield everybody
    finally:
        for entry in everybody:
            for worker in entry.workers:
                worker.stop()


def _block(entry: Entry, steps: Sequence[int]) -> list[tuple[int, float, float]]:
    """(steps, seconds, CPU seconds) of each process; they work at the same time."""
    for worker, n in zip(entry.workers, steps, strict=True):
        worker.post("run", n)
    return [worker.result() for worker in entry.workers]
