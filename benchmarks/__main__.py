"""`python -m benchmarks`: equal results, then times of everybody who is installed, then a record."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks import protocol, report
from benchmarks.cases import CASES
from benchmarks.contenders import NAMES

SIZES = (1, 8, 36, 64)


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare results, time nothing")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--members", nargs="+", type=int, default=list(SIZES), metavar="E")
    parser.add_argument("--contenders", nargs="+", choices=list(NAMES), default=list(NAMES), help="whom to time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: this trainer alone, on a GPU")
    parser.add_argument("--out", type=Path, default=Path("_build/speed"), help="folder of the record (results/speed)")
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
    begin, before = time.monotonic(), protocol.load()

    checks = protocol.check(say, options.cases)
    if options.check:
        say("equal results")
        return
    rows, single = [], []
    if options.device == "cuda":
        rows = [
            row for case in options.cases for row in protocol.measure_gpu(case, max(options.members), options.rounds)
        ]
    else:
        for case in options.cases:
            for layout in protocol.LAYOUTS:
                rows += protocol.measure(case, layout, options.members, options.rounds, say, options.contenders)
            single += [
                {"case": case, "layout": "1 thread", "contender": "ceiling", "quantity": name, "value": value,
                 "unit": "GFLOP/s" if "product" in name else "ns per value"}
                for name, value in protocol.operations(case).items()
            ]  # fmt: skip
            members = max(m for m in options.members if m <= 36)
            single += [
                {"case": case, "layout": "1 thread", "contender": "ours", "members": members, "unit": "s",
                 "quantity": f"{name} compilation", "value": value}
                for name, value in protocol.compile_times(case, members).items()
            ]  # fmt: skip
    after = protocol.load()
    single += [{"quantity": f"load {when}", "value": value} for when, value in (("before", before), ("after", after))]
    table = pd.concat([report.summary(rows), pd.DataFrame([*single, *checks])], ignore_index=True)
    say(report.text(table.dropna(subset=["members"]).astype({"members": int})))
    for row in single:
        say(f"{row.get('case', '')} {row['quantity']}: {row['value']:.3g} {row.get('unit', '')}")
    if max(before, after) > protocol.MAX_LOAD:
        say(
            f"The load was {before:.1f} before and {after:.1f} after, above {protocol.MAX_LOAD}: no verdict, no record."
        )
        sys.exit(1)
    parameters = {name: getattr(options, name) for name in ("cases", "members", "rounds")} | {"cores": os.cpu_count()}
    name = "sweep" if options.device == "cpu" else "gpu"
    say(f"{report.store(options.out / name, table, parameters, time.monotonic() - begin, options.device)}")


if __name__ == "__main__":
    main()
