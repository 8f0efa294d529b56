"""`python -m benchmarks`: equal results, then times of everybody who is installed, then a record."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks import protocol, report
from benchmarks.cases import CASES, PROBLEMS
from benchmarks.contenders import NAMES

SIZES = (1, 8, 36, 64)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare results, time nothing")
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=[*CASES, *PROBLEMS],
        help="models to train (tiny, digits, mnist), posteriors to fit (local-...); default: all, "
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
    needs_no_download = [*CASES, "local-digits"]
    for case in options.cases or (needs_no_download if options.check else [*CASES, *PROBLEMS]):
        (infer if case in PROBLEMS else run)(case, options)


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
    rows = inference.measure(case, options.rounds, say)
    time.sleep(30)  # so that our own load dies away
    loads = {"load before": before, "load after": protocol.load()}
    table = pd.DataFrame([*rows, *({"case": case, "quantity": name, "value": load} for name, load in loads.items())])
    if max(loads.values()) > protocol.MAX_LOAD:
        say(f"load up to {max(loads.values()):.1f}, above {protocol.MAX_LOAD}: no verdict, no record")
        sys.exit(1)
    say("\n".join(report.verdicts(table)))
    parameters = {"rounds": options.rounds, "cores": os.cpu_count()}
    say(f"{report.store(options.out / case, table, parameters, time.monotonic() - begin, options.device)}")


def run(case: str, options: argparse.Namespace) -> None:
    """One case: equal results, times, its record."""
    begin, before = time.monotonic(), protocol.load()
    checks = protocol.check(say, case)
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


if __name__ == "__main__":
    main()
