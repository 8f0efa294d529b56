"""A small project with one small experiment, for tests of what executes notebooks. Its kernel imports no torch."""

import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import vae

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
PARAMETERS = """\
steps = 3      # how many
scale = 0.5    # of each
"""
RULES = """\
import pandas as pd
import vae
from vae import record
from vae.claims import Verdict, judge
from vae.config import Count, Positive

class Config(vae.Config):
    steps: Count
    scale: Positive

config = Config.load(globals())
"""
COMPUTE = """\
def compute(config):
    return pd.DataFrame({"step": range(config.steps), "value": config.scale})
"""
RECORD = """\
# compute the table
table = record.compute_or_load("toy/sum", config, compute).table
"""
CRITERIA = """\
def positive(table):
    return Verdict(table.value.min(), 0.01, "holds" if table.value.min() > 0.05 else "fails")

criteria = {"toy-positive": positive}
judged = judge("toy", criteria, table)
"""
CLAIMS = """\
- {id: toy-positive, statement: Values are positive., source: chapter, criterion: The least is > 0.05., notebook: toy}
"""
METADATA = {"vae": {"measures": "a sum", "expect": {"quick": {"seconds": 5, "memory_mb": 90}}}}


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
    (root / "pyproject.toml").touch()
    (root / "vae").symlink_to(Path(vae.__file__).parent)
    (root / "book" / "claims.yml").write_text(CLAIMS)
    (root / "profiles" / "full.yaml").write_text("toy: {steps: 5, scale: 1e-1}\n")
    nbformat.write(notebook(**replaced), root / "notebooks" / "toy.ipynb")
    monkeypatch.setattr("vae.record.paths.__file__", str(root / "vae" / "record" / "paths.py"))
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("VAE_CACHE_DIR", str(root / "cache"))
    monkeypatch.delenv("VAE_RECORDS", raising=False)
    monkeypatch.chdir(root)
    return root
