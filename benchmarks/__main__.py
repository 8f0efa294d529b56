"""`python -m benchmarks`: equal results, then times of everybody who is installed, then a record."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks import factor_analysis, protocol, report
from benchmarks.cases import CASES
from benchmarks.contenders import NAMES

SIZES = (1, 8, 36, 64)
ALL = (*CASES, factor_analysis.NAME)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare results, time nothing")
    parser.add_argument("--cases", nargs="+", choices=ALL, default=list(ALL))
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
    for case in options.cases:
        (run_factor_analysis if case == factor_analysis.NAME else run)(case, options)


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
        time.sleep(30)  # so that our own load dies away
    after = protocol.load()
    single += [{"quantity": f"load {when}", "value": value} for when, value in (("before", before), ("after", after))]
    table = report.summary(rows)
    loaded = max(before, after) > protocol.MAX_LOAD
    say(report.text(table, verdict=not loaded))
    for row in single:
        say(f"{case:7} {row['quantity']}: {row['value']:.3g} {row.get('unit', '')}")
    if loaded:
        say(f"load {before:.1f} before and {after:.1f} after, above {protocol.MAX_LOAD}: no verdict, no record")
        sys.exit(1)
    table = pd.concat([table, pd.DataFrame([row | {"case": case} for row in [*single, *checks]])], ignore_index=True)
    parameters = {"members": options.members, "rounds": options.rounds, "cores": os.cpu_count()}
    folder = options.out / (case if options.device == "cpu" else f"{case}-gpu")
    say(f"{report.store(folder, table, parameters, time.monotonic() - begin, options.device)}")


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
    time.sleep(30)  # so that our own load dies away
    after = protocol.load()
    table, loaded = factor_analysis.summary(rows), max(before, after) > protocol.MAX_LOAD
    say(factor_analysis.text(table, verdict=not loaded))
    if loaded:
        say(f"load {before:.1f} before and {after:.1f} after, above {protocol.MAX_LOAD}: no verdict, no record")
        sys.exit(1)
    loads = [{"quantity": f"load {when}", "value": value} for when, value in (("before", before), ("after", after))]
    table = pd.concat([table, pd.DataFrame([*loads, *checks])], ignore_index=True).assign(case=case)
    parameters = {"rounds": options.rounds, "cores": os.cpu_count(), "cap": factor_analysis.CAP}
    say(f"{report.store(options.out / case, table, parameters, time.monotonic() - begin, options.device)}")


if __name__ == "__main__":
    main()
