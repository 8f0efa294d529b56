"""How far a verdict is the random streams': the quick profile again, with other ones.

The project's package draws other streams where <COMMAND>_RUN, a whole number, says so; what it does is its own
affair."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from pydantic import BaseModel, TypeAdapter, ValidationError

from measured.claims import Stored, Verdict, as_json, verdicts_in
from measured.experiment import Experiment, Step, run
from measured.notebook import read_notebook, shown
from measured.project import project
from measured.record.memo import MIME
from measured.record.paths import project_root, replaced

FILE = Path("results") / "other_seeds.json"


class Reruns(NamedTuple):
    """The verdicts of an experiment's quick profile, in each of several runs with other random streams."""

    commit: str | None
    runs: list[dict[str, Verdict]]


class _Stored(BaseModel):
    commit: str | None
    runs: list[dict[str, Stored]]


def measure(experiment: Experiment, runs: int, *, report: Callable[[int, Step], None] = lambda k, s: None) -> Reruns:
    """Run the quick profile `runs` times, each with other streams. Nothing is read from the cache or left in it.

    `report` gets the number of the run and each step. RunError: the notebook failed.
    """
    commits, found = [], []
    for number in range(1, runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            ways = {"RECORDS": "compute", "CACHE_DIR": str(Path(folder) / "cache"), "RUN": str(number)}
            with patch.dict(os.environ, {project().variable(name): value for name, value in ways.items()}):
                done = run(experiment, {}, Path(folder) / "out", report=partial(report, number))
            executed = done / experiment.path.name
            commits += [about["commit"] for about in shown(read_notebook(executed), MIME)]
            found.append(verdicts_in(executed))
    return Reruns(commit=commits[0], runs=found)


def load(root: Path | None = None) -> dict[str, Reruns]:
    """By experiment, what results/ holds. ValueError: it is malformed."""
    file = (root or project_root()) / FILE
    if not file.exists():
        return {}
    try:
        stored = TypeAdapter(dict[str, _Stored]).validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{file} is malformed ({error.errors()[0]['msg']}); restore it from git") from None
    return {
        name: Reruns(one.commit, [{claim: verdict.verdict() for claim, verdict in run.items()} for run in one.runs])
        for name, one in stored.items()
    }


def save(found: Mapping[str, Reruns], root: Path | None = None) -> Path:
    """Store what was measured in results/, in place of what is there of the same experiments; returns the file."""
    file = (root or project_root()) / FILE
    everything = dict(sorted((load(root) | dict(found)).items()))
    content = {
        name: {"commit": reruns.commit, "runs": [as_json(verdicts) for verdicts in reruns.runs]}
        for name, reruns in everything.items()
    }
    replaced(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return file


def verdicts_of(claim: str, found: Mapping[str, Reruns]) -> list[Verdict]:
    """The verdicts on one claim, run by run."""
    return [verdicts[claim] for reruns in found.values() for verdicts in reruns.runs if claim in verdicts]


def agreement(verdict: Verdict, others: Sequence[Verdict]) -> str:
    """Whether other random streams give the same outcome; a condition's wording and numbers may differ."""
    if not others:
        return "not run with other seeds"
    differ = Counter(other.outcome for other in others if other.outcome != verdict.outcome)
    if not differ:
        return f"the same with {len(others)} other seeds"
    outcomes = ", ".join(f"{outcome} {count}" for outcome, count in differ.items())
    return f"fragile: another with {differ.total()} of {len(others)} other seeds ({outcomes})"
