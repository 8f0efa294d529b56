import re
from pathlib import Path

import pytest
import toy
from typer.testing import CliRunner

from measured import reruns as fragility
from measured.claims import Verdict
from measured.cli import app
from measured.experiment import find
from measured.reruns import Reruns, agreement, load, measure, save, verdicts_of

ROOT = Path(vae.__file__).parent
RANDOM = """\
import torch
from vae.noise import generator

def compute(config):
    return pd.DataFrame({"step": [0], "value": torch.rand(1, generator=generator(0, "toy")).double().numpy()})
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


def test_every_source_of_random_numbers_is_known():
    """Whatever seeds a generator is listed, or belongs to the data."""
    pattern = re.compile(r"default_rng|SeedSequence\(|manual_seed|RandomState")
    found = {str(p.relative_to(ROOT.parent)) for p in ROOT.rglob("*.py") if pattern.search(p.read_text())}
    listed = {"vae/noise.py", "vae/factor_analysis/theory.py"}
    assert found == listed | {"vae/data.py"}
    assert {module.replace(".", "/") for module, _ in fragility.SOURCES} == {"vae/noise", "vae/factor_analysis"}
