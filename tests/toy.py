"""A small project with one small experiment and a package of its own, for tests of what executes notebooks. Its kernels
cannot import torch."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FACTS = {  # of a record that nothing computed
    "key": "k",
    "data": None,
    "code": "c",
    "commit": None,
    "dirty": None,
    "versions": {},
    "device": "cpu",
    "processor": None,
    "threads": None,
    "peak_memory_mb": None,
}
PYPROJECT = """\
[project]
name = "toy"

[tool.measured]
package = "arithmetic"
command = "vae"
check = "arithmetic:check"
"""
ARITHMETIC = """\
import os

def check():
    if os.environ.get("VAE_SIGN") not in (None, "+", "-"):
        raise ValueError(f"VAE_SIGN must be + or -, got {os.environ['VAE_SIGN']!r}; unset it")

def rows(steps, scale):
    return {"step": range(steps), "value": scale}
"""
PARAMETERS = """\
steps = 3      # how many
scale = 0.5    # of each
"""
RULES = """\
import arithmetic
import measured
import pandas as pd
from measured import record
from measured.claims import Measured, judge
from measured.config import Count, Positive

class Config(measured.Config):
    steps: Count
    scale: Positive

config = Config.load(globals())
"""
COMPUTE = """\
def compute(config):
    return pd.DataFrame(arithmetic.rows(config.steps, config.scale))
"""
RECORD = """\
# compute the table
table = record.compute_or_load("toy/sum", config, compute).table
"""
CRITERIA = """\
def positive(table, parameters):
    return Measured(table.value.min(), 0.01, 10, "the least", "", df=9).at_least(0.05)

criteria = {"toy-positive": positive}
judged = judge("toy", criteria, table, config)
"""
CLAIMS = """\
- {id: toy-positive, statement: Values are positive., source: chapter, criterion: The least is > 0.05., notebook: toy}
"""
METADATA = {"measured": {"measures": "a sum", "expect": {"quick": {"seconds": 5, "memory_mb": 90}}}}


def notebook(**replaced: str) -> nbformat.NotebookNode:
    """The toy's notebook; `compute="..."` and the like put another source in place of a cell's."""
    cells = {
        "title": new_markdown_cell("# A toy\n\nIt counts."),
        "parameters": new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        "rules": new_code_cell(RULES),
        "heading": new_markdown_cell("## How it is measured\n\nWith care."),
        "compute": new_code_cell(COMPUTE),
        "record": new_code_cell(RECORD),
        "criteria": new_code_cell(CRITERIA, metadata={"tags": ["criteria"]}),
    }
    for name, source in replaced.items():
        cells[name].source = source
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    return new_notebook(cells=list(cells.values()), metadata=METADATA | kernel)


def project(root: Path, monkeypatch: pytest.MonkeyPatch, **replaced: str) -> Path:
    """A project in `root` with its own cache, which this process and the kernels that it starts take for theirs."""
    for folder in ("notebooks", "profiles", "book", "results"):
        (root / folder).mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "arithmetic.py").write_text(ARITHMETIC)
    (root / "without" / "torch").mkdir(parents=True)
    (root / "without" / "torch" / "__init__.py").write_text('raise ImportError("there is no torch here")\n')
    (root / "book" / "claims.yml").write_text(CLAIMS)
    (root / "profiles" / "full.yaml").write_text("toy: {steps: 5, scale: 1e-1}\n")
    nbformat.write(notebook(**replaced), root / "notebooks" / "toy.ipynb")
    places = [str(root), str(root / "without"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    monkeypatch.syspath_prepend(root)
    monkeypatch.delitem(sys.modules, "arithmetic", raising=False)
    monkeypatch.setenv("VAE_CACHE_DIR", str(root / "cache"))
    monkeypatch.delenv("VAE_RECORDS", raising=False)
    monkeypatch.chdir(root)
    return root
