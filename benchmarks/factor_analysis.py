"""Factor analysis beside scikit-learn and plain EM: equal log-likelihood first, then time, each until its own stop."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.report import center
from benchmarks.worker import THREAD_VARIABLES

Solution = tuple[np.ndarray, np.ndarray, bool]  # loadings (p, k), uniquenesses (p,), whether it stopped by itself

NAME = "factor_analysis"
TITLES = {"ours": "this package", "sklearn": "scikit-learn", "em": "EM in NumPy", "loop": "this package, one by one"}
LIMIT = 1e-9  # nats per datum
BLOCK_SECONDS = 0.3
CAP, CHECK_CAP = 20_000, 1000  # iterations of scikit-learn and of EM, timed and in a mere check
REPLICATES, LOOPED = 4096, 64
SAMPLE = 1000  # data of every simulation


class Bar(NamedTuple):
    """What the peer's time over ours should reach."""

    problem: str
    peer: str
    bar: float


BARS = (
    Bar("p = 20, k = 3", "sklearn", 4),
    Bar("p = 200, k = 3", "sklearn", 4),
    Bar("p = 200, k = 10", "sklearn", 4),
    Bar("wine, k = 3", "sklearn", 4),
    Bar("p = 20, k = 10", "sklearn", 100),
    Bar("diabetes, k = 3", "sklearn", 100),
)


# Problems


def simulated(p: int, k: int) -> np.ndarray:
    """SAMPLE data (N, p) of k uncorrelated factors; communalities even on [.2, .8], loadings in random directions."""
    rng = np.random.default_rng([p, k])
    communality = rng.uniform(0.2, 0.8, p)
    W = rng.normal(size=(p, k))
    W *= np.sqrt(communality / (W**2).sum(1))[:, None]
    return rng.normal(size=(SAMPLE, k)) @ W.T + rng.normal(size=(SAMPLE, p)) * np.sqrt(1 - communality)


def problems() -> dict[str, tuple[np.ndarray, int]]:
    """Data and number of factors by name; real data are standardised."""
    from sklearn.datasets import load_diabetes, load_wine

    found = {f"p = {p}, k = {k}": (simulated(p, k), k) for p, k in ((20, 3), (200, 3), (200, 10), (20, 10))}
    for name, load in (("wine", load_wine), ("diabetes", load_diabetes)):
        x = load().data
        found[f"{name}, k = 3"] = (x - x.mean(0)) / x.std(0), 3
    return found


def replicates(n: int) -> np.ndarray:
    """(n, 6, 6): covariances of SAMPLE data each, of two factors with two pure items each, of .7, and two cross items.

    The cross items load .6 on both factors; all variances are 1. Other n begin alike.
    """
    pure, cross = np.repeat(np.eye(2), 2, axis=0) * 0.7, np.full((2, 2), 0.6)
    W = np.concatenate([pure, cross])
    root = np.linalg.cholesky(W @ W.T + np.diag(1 - (W**2).sum(1)))
    return np.stack([_covariance(np.random.default_rng([6, i]).normal(size=(SAMPLE, 6)) @ root.T) for i in range(n)])


def _covariance(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def log_likelihood(x: np.ndarray, W: np.ndarray, psi: np.ndarray) -> float:
    """Nats per datum, from the covariance in full: the common judge."""
    sigma = W @ W.T + np.diag(psi)
    trace = np.trace(np.linalg.solve(sigma, _covariance(x)))
    return float(-0.5 * (len(sigma) * math.log(2 * math.pi) + np.linalg.slogdet(sigma)[1] + trace))


# Contenders: from data to a solution, until their own stop


def ours(x: np.ndarray, k: int, cap: int) -> Solution:
    import torch

    from vae.exact.factor_analysis import exploratory, fit

    found = fit(torch.from_numpy(_covariance(x)), exploratory(k), starts=0)
    return found.W.numpy(), found.psi.numpy(), bool(found.converged)


def sklearn(x: np.ndarray, k: int, cap: int) -> Solution:
    from sklearn.decomposition import FactorAnalysis

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of no convergence, which is reported
        found = FactorAnalysis(k, svd_method="lapack", tol=1e-10, max_iter=cap).fit(x)
    return found.components_.T, found.noise_variance_, found.n_iter_ < cap


def em(x: np.ndarray, k: int, cap: int) -> Solution:
    """Rubin & Thayer (1982) from the covariance; ends as scikit-learn does, when N log-likelihoods gain under 1e-10."""
    S, n = _covariance(x), len(x)
    psi = 0.5 * np.diag(S)
    values, vectors = np.linalg.eigh(S / np.sqrt(np.outer(psi, psi)))
    W = np.sqrt(psi)[:, None] * vectors[:, -k:] * np.sqrt(np.maximum(values[-k:] - 1, 0.1))
    last = -math.inf
    for _ in range(cap):
        scaled = W / psi[:, None]
        M = np.eye(k) + W.T @ scaled
        inverse = np.linalg.inv(M)
        xz = S @ scaled @ inverse
        # log|Sigma| and tr(S Sigma^-1) by way of M, from what the step needs anyway
        trace = (np.diag(S) / psi).sum() - (xz * scaled).sum()
        now = -0.5 * n * (np.log(psi).sum() + np.linalg.slogdet(M)[1] + trace)
        if now - last < 1e-10:
            return W, psi, True
        last = now
        zz = inverse + inverse @ scaled.T @ xz
        W = np.linalg.solve(zz, xz.T).T
        psi = np.maximum(np.diag(S) - (W * xz).sum(1), 1e-6 * np.diag(S))
    return W, psi, False


SOLVERS: dict[str, Callable[[np.ndarray, int, int], Solution]] = {"ours": ours, "sklearn": sklearn, "em": em}


def together(S: np.ndarray) -> np.ndarray:
    """The replicates' log-likelihoods (n,), in one call."""
    import torch

    from vae.exact.factor_analysis import confirmatory, fit

    mask = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1], [1, 1], [1, 1]])
    return fit(torch.from_numpy(S), confirmatory(mask), starts=0).log_likelihood.numpy()


def loop(S: np.ndarray) -> np.ndarray:
    """The same, one call for each."""
    return np.array([together(one) for one in S])


# Equal results


def compare(cap: int, n: int, looped: int) -> Iterator[dict[str, Any]]:
    """How far everybody ends below us, nats per datum, and whether he stopped by himself; then batch against loop."""
    for problem, (x, k) in problems().items():
        found = {name: solve(x, k, cap) for name, solve in SOLVERS.items()}
        reached = {name: log_likelihood(x, W, psi) for name, (W, psi, _) in found.items()}
        for name, (_, _, stopped) in found.items():
            yield {
                "problem": problem, "contender": name, "quantity": "log-likelihood below ours", "unit": "nats",
                "value": reached["ours"] - reached[name], "stopped": stopped,
            }  # fmt: skip
    S = replicates(n)
    difference = np.abs(together(S)[:looped] - loop(S[:looped])).max()
    yield {
        "problem": f"{n} replicates", "contender": "loop", "quantity": "log-likelihood below ours", "unit": "nats",
        "value": float(difference), "stopped": True,
    }  # fmt: skip


def check(say: Callable[[str], None], quick: bool) -> list[dict[str, Any]]:
    """Rows of a table with every difference. RuntimeError: somebody ends above us, or stops by himself below."""
    rows = []
    for row in apart(_compared, *((CHECK_CAP, 64, 8) if quick else (CAP, REPLICATES, LOOPED))):
        judge(row)
        if row["contender"] != "ours":
            short = "" if row["stopped"] else ", still rising at its last iteration"
            say(f"{row['problem']:16} {TITLES[row['contender']]:26} {row['value']:+.1e} nats below ours{short}")
        rows.append(row)
    return rows


def judge(row: dict[str, Any]) -> None:
    """RuntimeError: this contender is not equal to ours, so there is nothing to time."""
    name, below = TITLES[row["contender"]], row["value"]
    if row["contender"] == "ours" and not row["stopped"]:
        raise RuntimeError(f"{name} does not converge on {row['problem']}: not timed")
    if not below >= -LIMIT or (row["stopped"] and not below <= LIMIT):
        raise RuntimeError(f"{name} ends {below:.1e} nats per datum below ours on {row['problem']}: not timed")


# Time


def measure(rounds: int, cap: int = CAP) -> list[dict[str, Any]]:
    """One row for each problem, contender and round: ms of wall and of CPU per problem. One thread, A B C A B C."""
    entries: list[tuple[str, str, Callable[[], Any], int]] = []
    for problem, (x, k) in problems().items():
        entries += [
            (problem, name, lambda solve=solve, x=x, k=k: solve(x, k, cap), 1)  # type: ignore[misc]
            for name, solve in SOLVERS.items()
        ]
    S = replicates(REPLICATES)
    entries += [
        (f"{REPLICATES} replicates", "ours", lambda: together(S), REPLICATES),
        (f"{REPLICATES} replicates", "loop", lambda: loop(S[:LOOPED]), LOOPED),
    ]
    repeats = []
    for _, _, work, _ in entries:
        work()  # warm-up
        begin = time.perf_counter()
        work()
        repeats.append(max(1, math.ceil(BLOCK_SECONDS / (time.perf_counter() - begin))))
    rows = []
    for number in range(rounds):
        for (problem, name, work, solved), n in zip(entries, repeats, strict=True):
            begin, cpu = time.perf_counter(), time.process_time()
            for _ in range(n):
                work()
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            rows.append(
                {"problem": problem, "contender": name, "round": number,
                 "wall": 1e3 * wall / n / solved, "cpu": 1e3 * cpu / n / solved}
            )  # fmt: skip
    return rows


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """work(*arguments) in a new process that has one thread and one core."""
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # what a process starts with; libraries read it once
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _pin) as pool:
            return pool.submit(work, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _pin() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])


def _compared(*arguments: int) -> list[dict[str, Any]]:
    return list(compare(*arguments))


# Report


def summary(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The long table: medians over rounds of the time and the CPU time of a problem, and of the ratio to ours."""
    raw = pd.DataFrame(rows)
    found = []
    for (problem, name), mine in raw.groupby(["problem", "contender"], sort=False):
        mine = mine.set_index("round")
        us = raw[(raw["problem"] == problem) & (raw["contender"] == "ours")].set_index("round")
        keys = {"problem": problem, "contender": name}
        found += [
            keys | {"quantity": "time of a problem", **center(mine["wall"]), "unit": "ms"},
            keys | {"quantity": "CPU time of a problem", **center(mine["cpu"]), "unit": "ms"},
            keys | {"quantity": "time over ours", **center(mine["wall"] / us["wall"]), "unit": "ratio"},
        ]
    return pd.DataFrame(found)


def bars(table: pd.DataFrame) -> Iterator[tuple[Bar, float, float]]:
    """Each bar with the value measured, and its error."""
    ratios = table[table["quantity"] == "time over ours"].set_index(["problem", "contender"])
    for bar in BARS:
        if (bar.problem, bar.peer) in ratios.index:
            value, error = ratios.loc[(bar.problem, bar.peer), ["value", "se"]].tolist()
            yield bar, value, error
        else:
            yield bar, math.nan, math.nan


def text(table: pd.DataFrame, verdict: bool = True) -> str:
    """The table of times and ratios and, with a `verdict`, what was to be reached, for a terminal."""
    value = table.set_index(["problem", "contender", "quantity"])["value"]
    lines = ["", "ms of a problem (over ours)"]
    for problem, group in table[table["quantity"] == "time over ours"].groupby("problem", sort=False):
        for name, ratio in zip(group["contender"], group["value"], strict=True):
            took = value[(problem, name, "time of a problem")]
            lines.append(f"{problem:16} {TITLES[name]:26} {took:10.3f} ({ratio:.2f})")
    lines += ["", "What it should reach"] if verdict else []
    for bar, ratio, error in bars(table) if verdict else ():
        outcome = "met" if ratio >= bar.bar else "NOT met" if ratio < bar.bar else "not measured"
        lines.append(
            f"{bar.problem:16} {TITLES[bar.peer]} over ours {ratio:8.2f} +- {error:.2f}"
            f"  (at least {bar.bar:g}: {outcome})"
        )
    return "\n".join(lines)
