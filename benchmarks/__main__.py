"""`python -m benchmarks`: equal results, then times of everybody who is installed, then a record."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import factor_analysis, protocol, report
from benchmarks.cases import CASES, PROBLEMS
from benchmarks.contenders import NAMES

SIZES = (1, 8, 36, 64)
NO_DOWNLOAD = (*CASES, "local-digits", factor_analysis.NAME)
ALL = (*CASES, *PROBLEMS, factor_analysis.NAME)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare results, time nothing")
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=ALL,
        help="models to train (tiny, digits, mnist), posteriors to fit (local-...), factor_analysis; default: all, "
        "with --check those that need no download",
    )
    parser.add_argument("--members", nargs="+", type=int, default=list(SIZES), metavar="E")
    parser.add_argument("--contenders", nargs="+", choices=list(NAMES), default=list(NAMES), help="whom to time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: this trainer alone, on a GPU")
    parser.add_argument("--out", type=Path, default=Path("_build/speed"), help="where each case's record is put")
    options = parser.parse_args()
    if options.rounds < 2 or min(options.members) < 1:
        parser.error("--rounds must be at least 2 and --members at least 1")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: PyTorch sees none on this machine")
    absent = [NAMES[name] for name in NAMES if name not in protocol.present()]
    if absent:
        say(f"not installed, so left out: {', '.join(absent)} (pip install -e '.[bench]' -c constraints.txt)")
    for case in options.cases or (NO_DOWNLOAD if options.check else ALL):
        steps = infer if case in PROBLEMS else run_factor_analysis if case == factor_analysis.NAME else run
        steps(case, options)


def infer(case: str, options: argparse.Namespace) -> None:
    """Posteriors fitted to single images: equal quality, times on one thread, a record."""
    from benchmarks import inference

    if options.check:
        inference.check(case, say, methods=[name for name in inference.RUN if name != "tuned"])  # long to tune
        return
    if options.device != "cpu":
        say(f"{case}: on a CPU only")
        return
    begin, before = time.monotonic(), protocol.load()
    table = pd.DataFrame(inference.measure(case, options.rounds, say))
    loads = settled(before)
    refuse_loaded(loads)
    table = pd.concat([table, pd.DataFrame(loads)], ignore_index=True).assign(case=case)
    say("\n".join(report.verdicts(table)))
    store(case, table, {"rounds": options.rounds}, begin, options)


def run(case: str, options: argparse.Namespace) -> None:
    """One case: equal results, times, its record."""
    begin, before = time.monotonic(), protocol.load()
    checks = protocol.check(say, case, options.device)
    if options.check:
        return
    single = []
    if options.device == "cuda":
        rows = protocol.measure_gpu(case, max(options.members), options.rounds)
    else:
        rows = [
            row
            for layout in protocol.LAYOUTS
            for row in protocol.measure(case, layout, options.members, options.rounds, say, options.contenders)
        ]
        single += [
            {"layout": "1 thread", "contender": "ceiling", "quantity": name, "value": value,
             "unit": "GFLOP/s" if "product" in name else "ns per value"}
            for name, value in protocol.operations(case).items()
        ]  # fmt: skip
        members = max((m for m in options.members if m <= 36), default=options.members[0])
        single += [
            {"layout": "1 thread", "contender": "ours", "members": members, "unit": "s",
             "quantity": f"{name} compilation", "value": value}
            for name, value in protocol.compile_times(case, members).items()
        ]  # fmt: skip
    loads = settled(before)
    single += loads
    table = report.summary(rows)
    say(report.text(table, verdict=not too_much(loads)))
    for row in single:
        say(f"{case:7} {row['quantity']}: {row['value']:.3g} {row.get('unit', '')}")
    refuse_loaded(loads)
    table = pd.concat([table, pd.DataFrame([row | {"case": case} for row in [*single, *checks]])], ignore_index=True)
    name = case if options.device == "cpu" else f"{case}-gpu"
    store(name, table, {"members": options.members, "rounds": options.rounds}, begin, options)


def run_factor_analysis(case: str, options: argparse.Namespace) -> None:
    """Equal likelihoods, times, the record."""
    if options.device == "cuda":
        say(f"{case}: in float64 on the CPU only")
        return
    begin, before = time.monotonic(), protocol.load()
    checks = factor_analysis.check(say, quick=options.check)
    if options.check:
        return
    rows = factor_analysis.apart(factor_analysis.measure, options.rounds)
    loads = settled(before)
    table = factor_analysis.summary(rows)
    say(factor_analysis.text(table, verdict=not too_much(loads)))
    refuse_loaded(loads)
    table = pd.concat([table, pd.DataFrame([*loads, *checks])], ignore_index=True).assign(case=case)
    store(case, table, {"rounds": options.rounds, "cap": factor_analysis.CAP}, begin, options)


def settled(before: float) -> list[dict[str, Any]]:
    """The machine's load before a case and after it, when our own has died away."""
    time.sleep(30)
    return [{"quantity": "load before", "value": before}, {"quantity": "load after", "value": protocol.load()}]


def too_much(loads: list[dict[str, Any]]) -> bool:
    """Whether anything else was at work."""
    return max(row["value"] for row in loads) > protocol.MAX_LOAD


def refuse_loaded(loads: list[dict[str, Any]]) -> None:
    """Ends here, without a record, if anything else was at work."""
    if too_much(loads):
        said = " and ".join(f"{row['quantity']} {row['value']:.1f}" for row in loads)
        say(f"{said}, above {protocol.MAX_LOAD}: no verdict, no record")
        sys.exit(1)


def store(
    name: str, table: pd.DataFrame, parameters: dict[str, Any], begin: float, options: argparse.Namespace
) -> None:
    """The record of a case."""
    parameters = parameters | {"cores": os.cpu_count()}
    say(f"{report.store(options.out / name, table, parameters, time.monotonic() - begin, options.device)}")


if __name__ == "__main__":
    main()
