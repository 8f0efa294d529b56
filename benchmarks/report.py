"""From rounds to ratios: the table, what it should reach, and the record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.contenders import NAMES
from benchmarks.contenders.ceiling import FLOPS

METHODS = {  # of `benchmarks.inference`
    "ours": "L-BFGS per datum, certificates not counted",
    "certified": "L-BFGS per datum, with certificates",
    "unaided": "L-BFGS per datum, from the prior",
    "joint": "torch.optim.LBFGS on the sum",
    "tuned": "Adam 0.02, cosine, 16 fresh draws",
    "published": "Adam 1e-3, fresh draws",
    "ais": "AIS from q*, its fit included",
    "ais-prior": "AIS from the prior",
}
LABELS = METHODS | NAMES


class Bar(NamedTuple):
    """What is to be reached: `peer`'s time over ours, or the share of the ceiling, in one layout."""

    case: str
    members: int  # models, or images where posteriors are fitted
    layout: str
    peer: str
    bar: float


BARS = (
    Bar("digits", 36, "1 thread", "slices", 3.5),
    Bar("digits", 36, "2 threads", "dataloader", 5),
    Bar("digits", 36, "2 threads", "slices", 5),
    Bar("digits", 36, "2 processes", "slices", 2.5),
    Bar("digits", 36, "2 threads", "pythae", 8),
    Bar("digits", 36, "2 threads", "lightning", 7),
    Bar("digits", 36, "2 threads", "pyro", 12),
    Bar("digits", 36, "2 threads", "jax", 1.2),
    Bar("digits", 36, "2 processes", "jax", 0.75),
    Bar("mnist", 64, "2 threads", "slices", 1.5),
    Bar("mnist", 64, "2 threads", "jax", 1.1),
    Bar("mnist", 64, "2 processes", "slices", 1.5),
    Bar("mnist", 64, "2 processes", "jax", 1.1),
    Bar("mnist", 8, "1 thread", "ceiling", 0.65),
    Bar("local-digits", 100, "1 thread", "published", 20),
    Bar("local-mnist", 20, "1 thread", "published", 40),
    Bar("local-mnist", 20, "1 thread", "tuned", 2),
)


def summary(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The long table: for each case, layout, contender and number of members, medians over rounds of the time of a
    model-step, of its CPU time, and of the ratio to ours in the same round; memory; the share of the ceiling.

    A loop over models counts for every number of members. `se` is the rounds' standard error, of the mean.
    """
    raw = pd.DataFrame(rows)
    sizes = sorted(raw.loc[raw["contender"] == "ours", "members"].unique())
    found = []
    for (case, layout), group in raw.groupby(["case", "layout"], sort=False):
        ceiling = group[group["contender"] == "ceiling"].set_index("round")["wall"]
        for members in sizes:
            ours = group[(group["contender"] == "ours") & (group["members"] == members)].set_index("round")
            if ours.empty:  # fewer members than processes
                continue
            for name in [n for n in NAMES if n in set(group["contender"])]:
                mine = group[group["contender"] == name]
                exact = mine[mine["members"] == members]
                mine = (exact if len(exact) else mine[mine["members"] == 1]).set_index("round")
                keys = {"case": case, "layout": layout, "contender": name, "members": members}
                found += [
                    keys | {"quantity": "time of a model-step", **center(mine["wall"]), "unit": "ms"},
                    keys | {"quantity": "CPU time of a model-step", **center(mine["cpu"]), "unit": "ms"},
                    keys | {"quantity": "time over ours", **center(mine["wall"] / ours["wall"]), "unit": "ratio"},
                ]
                if len(ceiling):
                    share = (mine["flops"] / mine["wall"]) / (FLOPS / ceiling)
                    found.append(keys | {"quantity": "share of the ceiling", **center(share), "unit": "share"})
                if len(exact):
                    memory = exact["memory"].iloc[0]
                    found.append(keys | {"quantity": "memory", "value": memory, "se": 0.0, "n": 1, "unit": "MB"})
        if len(ceiling):
            keys = {"case": case, "layout": layout, "contender": "ceiling", "members": 1}
            found.append(keys | {"quantity": "ceiling", **center(FLOPS / ceiling / 1e6), "unit": "GFLOP/s"})
    return pd.DataFrame(found)


def center(values: pd.Series) -> dict[str, Any]:
    """A median over rounds, its standard error, the least value and the number of rounds."""
    return {
        "value": values.median(),
        "se": values.std() / np.sqrt(len(values)) if len(values) > 1 else 0.0,
        "best": values.min(),
        "n": len(values),
        "over": "rounds",
    }


def bars(table: pd.DataFrame) -> Iterator[tuple[Bar, float, float]]:
    """Each bar with the value measured, and its error; NaN where the table says nothing about it."""
    for bar in BARS:
        contender, quantity = (
            ("ours", "share of the ceiling") if bar.peer == "ceiling" else (bar.peer, "time over ours")
        )
        hit = table[
            (table["case"] == bar.case)
            & (table["members"] == bar.members)
            & (table["layout"] == bar.layout)
            & (table["contender"] == contender)
            & (table["quantity"] == quantity)
        ]
        yield bar, *(hit[["value", "se"]].iloc[0].tolist() if len(hit) else (math.nan, math.nan))


def text(table: pd.DataFrame, verdict: bool = True) -> str:
    """The table of times and ratios and, with a `verdict`, what was to be reached, for a terminal."""
    lines = []
    for (case, layout), group in table[table["quantity"] != "ceiling"].groupby(["case", "layout"], sort=False):
        times = group[group["quantity"] == "time of a model-step"].pivot(
            index="contender", columns="members", values="value"
        )
        ratios = group[group["quantity"] == "time over ours"].pivot(
            index="contender", columns="members", values="value"
        )
        lines += ["", f"{case}, {layout}: ms of a model-step (over ours)"]
        lines.append(" " * 34 + "".join(f"{f'E = {members}':>18}" for members in times.columns))
        for name in [n for n in NAMES if n in times.index]:
            cells = [f"{times.loc[name, m]:.4f} ({ratios.loc[name, m]:.2f})" for m in times.columns]
            lines.append(f"{NAMES[name]:34}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, *(["", *verdicts(table)] if verdict else [])])


def verdicts(table: pd.DataFrame) -> list[str]:
    """What was to be reached by the cases of the table, a line each."""
    lines = ["What it should reach"]
    for bar, value, error in bars(table):
        if bar.case not in set(table["case"]):
            continue
        peer = "share of the matmul ceiling" if bar.peer == "ceiling" else f"{LABELS[bar.peer]} over ours"
        outcome = "met" if value >= bar.bar else "NOT met" if value < bar.bar else "not measured"
        lines.append(
            f"{bar.case:12} {bar.members:<3} {bar.layout:12} {peer:52} {value:6.2f} +- {error:.2f}"
            f"  (at least {bar.bar:g}: {outcome})"
        )
    return lines


def store(folder: Path, table: pd.DataFrame, parameters: dict[str, Any], seconds: float, device: str) -> Path:
    """Write the record, as `measured.record` keeps all results; returns its folder."""
    from datetime import UTC, datetime

    import measured
    from measured.record import write
    from measured.record.keys import digest
    from measured.record.provenance import circumstances, package_version, peak_memory_mb

    class Config(measured.Config):
        device: str

    facts = circumstances(Config(device=device))
    peers = ("jax", "pythae", "pyro-ppl", "lightning")
    facts["versions"] |= {name: found for name in peers if (found := package_version(name))}
    facts |= {
        "part": f"speed/{folder.name}",
        "key": digest(parameters),
        "parameters": parameters,
        "data": {},
        "code": "",
        "seconds": round(seconds, 1),
        "peak_memory_mb": peak_memory_mb(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return write(folder, table, {}, facts).path
