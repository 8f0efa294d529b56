"""How far a verdict is the random streams': the quick profile again, with other ones."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pydantic import BaseModel, TypeAdapter, ValidationError

from vae.claims import Verdict, as_json, read_notebook, shown, verdicts_in
from vae.experiment import Experiment, Step, run
from vae.record.memo import MIME
from vae.record.paths import project_root

FILE = Path("results") / "other_seeds.json"
SOURCES = (
    ("vae.noise", "generator"),
    ("vae.factor_analysis", "sample_covariances"),
)  # of all random numbers but data's
APART = 10**6  # seeds from one run to the next; no experiment counts up to that


class Reruns(BaseModel):
    """The verdicts of an experiment's quick profile, in each of several runs with other random streams."""

    commit: str | None
    runs: list[dict[str, Verdict]]


def other_streams(number: int) -> None:
    """From here on each random stream of this process is another one, by the number of the run; 0 changes nothing.

    To be called before anything imports one of `SOURCES` by name. How the data are split and binarised stays as it is.
    """
    for module, name in SOURCES:
        source = import_module(module)
        setattr(source, name, _shifted(getattr(source, name), APART * number))


def measure(experiment: Experiment, runs: int, *, report: Callable[[int, Step], None] = lambda k, s: None) -> Reruns:
    """Run the quick profile `runs` times, each with other streams. Nothing is read from the cache or left in it.

    `report` gets the number of the run and each step. RunError: the notebook failed.
    """
    commits, found = [], []
    for number in range(1, runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            there = Path(folder)
            path = there / f"{experiment.name}.ipynb"
            path.write_text(json.dumps(_with_other_streams(experiment.path, number)), encoding="utf-8")
            # A worker process would import the package afresh, with the usual streams.
            ways = {"VAE_RECORDS": "compute", "VAE_CACHE_DIR": str(there / "cache"), "VAE_WORKERS": "1"}
            with patch.dict(os.environ, ways):
                done = run(experiment._replace(path=path), {}, there / "out", report=partial(report, number))
            executed = done / path.name
            commits += [about["commit"] for about in shown(read_notebook(executed), MIME)]
            found.append(verdicts_in(executed))
    return Reruns(commit=commits[0], runs=found)


def load(root: Path | None = None) -> dict[str, Reruns]:
    """By experiment, what results/ holds. ValueError: it is malformed."""
    file = (root or project_root()) / FILE
    if not file.exists():
        return {}
    try:
        return TypeAdapter(dict[str, Reruns]).validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{file} is malformed ({error.errors()[0]['msg']}); restore it from git") from None


def save(found: Mapping[str, Reruns], root: Path | None = None) -> Path:
    """Store what was measured in results/, in place of what is there of the same experiments; returns the file."""
    file = (root or project_root()) / FILE
    everything = dict(sorted((load(root) | dict(found)).items()))
    content = {
        name: {"commit": reruns.commit, "runs": [as_json(verdicts) for verdicts in reruns.runs]}
        for name, reruns in everything.items()
    }
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)
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


def _shifted(draw: Callable[..., Any], by: int) -> Callable[..., Any]:
    signature = inspect.signature(draw)

    @wraps(draw)
    def shifted(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["seed"] += by
        return draw(*bound.args, **bound.kwargs)

    return shifted


def _with_other_streams(path: Path, number: int) -> dict[str, Any]:
    """The notebook, with a first cell that changes the streams."""
    notebook = read_notebook(path)
    first: dict[str, Any] = {
        "cell_type": "code",
        "id": "other-streams",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": f"from vae.fragility import other_streams\n\nother_streams({number})",
    }
    return notebook | {"cells": [first, *notebook["cells"]]}
