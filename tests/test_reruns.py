"""Verdicts once more with other random streams: the project's package draws them, by a variable."""

import os
import re

import nbformat
import pytest
import toy
from typer.testing import CliRunner

from measured.claims import Verdict
from measured.cli import app
from measured.experiment import find
from measured.notebook import read_notebook
from measured.reruns import Reruns, agreement, load, measure, save, verdicts_of

RANDOM = """\
import os
import random

def compute(config):
    return pd.DataFrame({"step": [0], "value": random.Random(os.environ.get("VAE_RUN", "")).random() + 0.1})
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    return toy.project(tmp_path / "root", monkeypatch, compute=RANDOM)


def test_each_run_has_other_streams_and_the_same_ones_every_time(root):
    first, again = measure(find("toy"), 2), measure(find("toy"), 1)
    values = [verdicts["toy-positive"].value for verdicts in first.runs]
    usual = CliRunner().invoke(app, ["run", "toy"])
    assert usual.exit_code == 0
    (shown,) = re.findall(r"toy-positive +holds +(\S+)", usual.stdout)
    assert len({f"{value:.3f}" for value in values} | {shown}) == 3
    assert again.runs[0] == first.runs[0]
    assert len(list((root / "cache" / "records").glob("toy/*/*"))) == 1, "a rerun left something in the cache"


ECHO = """\
import os, subprocess, sys
program = "import os; print(os.environ['VAE_RUN'], os.environ['VAE_WORKERS'], os.environ['VAE_RECORDS'])"
print(subprocess.check_output([sys.executable, "-c", program], text=True))
"""


def test_the_notebook_is_run_as_it_is_and_its_worker_processes_know_the_run(root, monkeypatch):
    seen = []
    monkeypatch.setattr("measured.reruns.verdicts_in", lambda path: seen.append(read_notebook(path)["cells"]) or {})
    monkeypatch.setenv("VAE_WORKERS", "3")
    monkeypatch.setenv("VAE_RECORDS", "published")
    notebook = toy.notebook(criteria=toy.CRITERIA + ECHO)
    nbformat.write(notebook, root / "notebooks" / "toy.ipynb")
    measure(find("toy"), 2)
    assert [["".join(cell["source"]) for cell in cells] for cells in seen] == [[c.source for c in notebook.cells]] * 2
    said = ["".join(line for output in cells[-1]["outputs"] for line in output.get("text", ())) for cells in seen]
    assert [text.split() for text in said] == [["1", "3", "compute"], ["2", "3", "compute"]]
    assert (os.environ.get("VAE_RUN"), os.environ["VAE_RECORDS"]) == (None, "published")


def test_the_command_stores_what_the_claims_are_shown_with(root):
    (root / "results" / "other_seeds.json").write_text('{"elbo": {"commit": "abc", "runs": [{}]}}')
    outcome = CliRunner().invoke(app, ["fragility", "toy", "--runs", "1"])
    assert outcome.exit_code == 0, outcome.output
    assert "(run 1)" in outcome.stdout
    assert load().keys() == {"elbo", "toy"}
    assert [v.outcome for v in verdicts_of("toy-positive", load())] == ["holds"]
    refused = CliRunner().invoke(app, ["fragility", "tiy"])
    assert refused.exit_code == 2
    assert "experiment 'tiy' is unknown; did you mean 'toy'?" in refused.stderr


def test_what_was_stored_is_read_back_and_damage_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    assert load(tmp_path) == {}
    found = Reruns(commit=None, runs=[{"a-b": Verdict(1.0, 0.5, "holds if", "n > 2", "all")}, {}])
    file = save({"toy": found}, tmp_path)
    assert load(tmp_path) == {"toy": found}
    file.write_text("{")
    with pytest.raises(ValueError, match=r"other_seeds.json is malformed .*; restore it from git"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        ([], "not run with other seeds"),
        (["holds"] * 5, "the same with 5 other seeds"),
        (["holds", "fails", "undecided", "fails"], "fragile: another with 3 of 4 other seeds (fails 2, undecided 1)"),
    ],
)
def test_agreement_is_a_rate(outcomes, text):
    assert agreement(Verdict(1.0, 0.0, "holds"), [Verdict(2.0, 0.0, outcome) for outcome in outcomes]) == text
