"""The command line, in this process where that will do and as a program where signals or its start matter."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import toy
from typer.testing import CliRunner

import measured.cli
from measured import reruns
from measured.claims import MIME, Verdict
from measured.experiment import Step, find, run
from measured.record.store import cached, write


@pytest.fixture
def root(tmp_path, monkeypatch):
    return toy.project(tmp_path / "root", monkeypatch)


def call(*words: object):
    return CliRunner().invoke(measured.cli.app, list(map(str, words)))


def refused(*words: object) -> str:
    """The message of a call that was refused for bad input."""
    outcome = call(*words)
    assert outcome.exit_code == 2, outcome.output
    assert not outcome.stdout
    return outcome.stderr


def record(part: str, days_ago: float, **parameters: object) -> Path:
    created = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 86400 * days_ago))
    key = f"{abs(hash((part, str(parameters)))):064x}"
    facts = toy.FACTS | {"part": part, "key": key, "parameters": parameters, "seconds": 12.34, "created": created}
    return write(Path(os.environ["VAE_CACHE_DIR"]) / "records" / part / key, pd.DataFrame({"a": [1]}), {}, facts).path


def test_list_says_what_it_measures_with_which_parameters_and_how_long(root):
    assert (
        call("list").stdout
        == """\
toy: A toy
  measures    a sum
  quick       about 00:05 on two CPU cores, 90 MB
  parameters
    steps = 3    how many
    scale = 0.5  of each

"""
    )


def test_claims_stand_with_both_verdicts_and_the_chapters_apart(root):
    (root / "book" / "claims.yml").write_text(
        toy.CLAIMS
        + """\
- {id: ours-which-has-a-very-long-name-that-must-not-be-cut-anywhere-when-piped, statement: Ours., source: ours,
   criterion: It is., notebook: toy}
"""
    )
    (root / "results" / "toy").mkdir()
    (root / "results" / "toy" / "verdicts.json").write_text(
        '{"toy-positive": {"value": 1, "se": 0.1, "outcome": "holds if", "condition": "K > 3"}}'
    )
    runs = [{"toy-positive": Verdict(1.0, 0.1, outcome)} for outcome in ("holds", "undecided")]
    reruns.save({"toy": reruns.Reruns(commit=None, runs=runs)})
    notebook = toy.notebook()
    notebook.cells[-1].outputs = [
        nbformat.v4.new_output(
            "display_data",
            data={MIME: {"toy-positive": Verdict(1.0, 0.1, "holds").as_json()}},
        )
    ]
    nbformat.write(notebook, root / "notebooks" / "toy.ipynb")
    assert (
        call("claims").stdout
        == """\
Claims of the chapter
  claim         quick  other seeds, quick                                      full            statement
  toy-positive  holds  fragile: another with 1 of 2 other seeds (undecided 1)  holds if K > 3  Values are positive.

Our own claims
  claim                                                                     quick  other seeds, quick  full  statement
  ours-which-has-a-very-long-name-that-must-not-be-cut-anywhere-when-piped  -      -                   -     Ours.

"""
    )


def test_records_are_listed_with_what_differs_from_the_defaults(root):
    assert call("records").stdout == "No records in the cache.\n"
    first = record("toy/sum", 3, steps=3, scale=0.7, device="cuda")
    damaged = record("toy/sum", 0, steps=4, scale=0.5)
    (damaged / "record.json").write_text("")
    head, one, two = call("records").stdout.splitlines()
    assert head.split() == ["part", "key", "created", "seconds", "MB", "parameters"]
    assert one.split()[:2] == ["toy/sum", first.name[:10]]
    assert one.split()[4:] == ["12.3", "0.00", "scale=0.7"]
    assert two.endswith(f"damaged: {damaged}")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["toy"], ["toys/sum"]),
        (["toy/sum"], ["toy/product", "toys/sum"]),
        (["--older-than", "2"], ["toy/product"]),
        (["toy", "--older-than", "2"], ["toy/product", "toys/sum"]),
        (["--all"], []),
    ],
)
def test_clean_deletes_what_was_asked_for(root, words, left):
    record("toy/sum", 3)
    record("toy/product", 1)
    record("toys/sum", 5)
    outcome = call("records", "clean", *words)
    assert outcome.stdout.startswith(f"{3 - len(left)} of 3 records deleted, 0.0 MB")
    assert [r.part for r in cached()] == left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which records: PART, --older-than DAYS, both, or --all alone"),
        (["toy", "--all"], "say which records"),
        (["toi"], "no record of 'toi'; did you mean 'toy'? known: toy, toy/sum"),
        (["tox/sum"], "did you mean 'toy/sum'?"),
    ],
)
def test_clean_deletes_nothing_unless_it_is_clear_what(root, words, message):
    record("toy/sum", 3)
    assert message in refused("records", "clean", *words)
    assert len(cached()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toys"], "experiment 'toys' is unknown; did you mean 'toy'?"),
        (["toy", "--profile", "fast"], "profile 'fast' is unknown; known: quick, full"),
        (["toy", "-p", "step=3"], "parameter 'step' of toy is unknown; did you mean 'steps'?"),
        (["toy", "-p", "steps"], "-p must be KEY=VALUE, got 'steps'; write for example -p seed=3"),
        (["toy", "-p", "steps=[1"], "steps must have a value in YAML, got '[1'; quote it"),
        (["toy", "--device", "cuda"], "toy has no parameter device, got --device cuda; it runs on the CPU only"),
        (
            ["toy", "--out", "pyproject.toml"],
            "pyproject.toml cannot be written: File exists; choose another folder with --out",
        ),
    ],
)
def test_run_refuses_bad_input_before_anything_is_executed(root, words, message, monkeypatch):
    monkeypatch.setattr("measured.experiment._executed", None)
    outcome = call("run", *words)
    assert outcome.exit_code == 2, outcome.output
    assert message in outcome.stderr
    assert not list(root.glob("_build/runs/*"))


@pytest.fixture
def pretended(monkeypatch):
    """In place of a run: what it was asked for, and the value of VAE_RECORDS."""
    asked = {}

    def pretend(experiment, parameters, out, *, report):
        asked.update(parameters=parameters, out=out, records=os.environ.get("VAE_RECORDS"))
        report(Step(1, 2, "compute the table"))
        time.sleep(0.15)
        folder = out / experiment.name
        folder.mkdir(parents=True)
        nbformat.write(toy.notebook(), folder / "toy.ipynb")
        return folder

    monkeypatch.setattr(measured.cli, "run", pretend)
    return asked


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ([], {}),
        (["--profile", "full"], {"steps": 5, "scale": "1e-1"}),
        (["--profile", "full", "-p", "steps=7", "-p", "scale=[a, 1]"], {"steps": 7, "scale": ["a", 1]}),
        (["-p", "scale=1e-3"], {"scale": "1e-3"}),
        (["-p", "scale="], {"scale": None}),
        (["-p", "scale=a=b"], {"scale": "a=b"}),
    ],
)
def test_parameters_override_the_profile(root, pretended, words, parameters):
    assert call("run", "toy", *words).exit_code == 0
    assert (pretended["parameters"], pretended["out"], pretended["records"]) == (parameters, Path("_build/runs"), None)


def test_fresh_out_and_device_are_passed_on(root, pretended, monkeypatch):
    monkeypatch.setenv("VAE_RECORDS", "auto")  # so that it is restored after the test
    nbformat.write(toy.notebook(parameters='device = "cpu"'), root / "notebooks" / "toy.ipynb")
    assert call("run", "toy", "--fresh", "--out", "there", "--device", "cuda").exit_code == 0
    assert pretended == {"parameters": {"device": "cuda"}, "out": Path("there"), "records": "compute"}


@pytest.mark.parametrize(("variable", "value"), [("VAE_RECORDS", "fresh"), ("VAE_SIGN", "*")])
def test_an_odd_variable_is_refused_before_anything_starts(root, pretended, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    outcome = call("run", "toy")
    assert outcome.exit_code == 2
    assert variable in outcome.stderr
    assert repr(value) in outcome.stderr
    assert not pretended


@pytest.mark.parametrize(
    ("variable", "value"),
    [("VAE_RECORDS", "fresh"), ("VAE_COMPILE", "yes"), ("VAE_WORKERS", "0"), ("VAE_CHUNK", "-1"), ("VAE_RUN", "one")],
)
def test_odd_variables_of_this_project_are_refused(monkeypatch, variable, value):
    measured.cli.check_environment()
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=rf"{variable} .*'{value}'"):
        measured.cli.check_environment()


def test_a_long_cell_gives_signs_of_life_and_the_time_left(root, pretended, monkeypatch):
    monkeypatch.setattr(measured.cli, "HEARTBEAT", 0.05)
    lines = call("run", "toy").stdout.splitlines()
    assert lines[0] == "toy  starting"
    beats = [line for line in lines if line == "toy  cell 1 of 2  compute the table  00:00, about 00:05 left"]
    assert len(beats) >= 2
    assert "left" not in call("run", "toy", "-p", "steps=9", "--out", "other").stdout  # nobody knows how long


def test_clock():
    assert [measured.cli._clock(s) for s in (0, 59.6, 61, 3599, 3600, 36061)] == [
        "00:00",
        "01:00",
        "01:01",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]


def test_run_shows_a_failing_notebook_and_exits_with_1(root):
    nbformat.write(toy.notebook(compute="1 / 0"), root / "notebooks" / "toy.ipynb")
    outcome = call("run", "toy")
    assert outcome.exit_code == 1
    assert "toy failed in cell 3 of 5 (How it is measured):\n\n    1 / 0\n" in outcome.stderr
    assert re.search(r"ZeroDivisionError.*division by zero\n\nNothing was written.\n$", outcome.stderr, re.DOTALL)
    assert "\x1b" not in outcome.stderr
    assert not list((root / "_build" / "runs").iterdir())


SLOW = """
import os
import time
from pathlib import Path

def compute(config):
    if Path("slow").exists():
        Path("kernel").write_text(str(os.getpid()))
        time.sleep(60)
    return pd.DataFrame({"value": [config.scale]})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_kills_the_kernel_and_leaves_nothing_and_the_next_run_starts_clean(root, signum):
    nbformat.write(toy.notebook(compute=SLOW), root / "notebooks" / "toy.ipynb")
    (root / "slow").touch()
    deadline = time.monotonic() + 60
    with subprocess.Popen(
        [sys.executable, "-m", "measured", "run", "toy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `make test &` ignores it
    ) as program:
        try:
            while not (root / "kernel").exists() or not (root / "kernel").read_text():
                assert program.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            program.send_signal(signum)
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()  # else what is left of it, its open pipes too, warns in some later test
    assert program.returncode == 128 + signum
    assert err == f"stopped by {signum.name}; nothing was written.\n"
    assert "toy  cell 4 of 5  compute the table" in out
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "kernel").read_text()), 0)
    assert not [path for folder in ("_build", "cache") for path in (root / folder).rglob("*") if path.is_file()]

    if signum == signal.SIGTERM:
        (root / "slow").unlink()
        folder = run(find("toy"), {}, root / "_build" / "runs")
        assert (folder / "sum" / "table.csv").exists()
        assert len(cached()) == 1


def test_what_the_notebooks_own_rules_refuse_is_one_message_too(root):
    outcome = call("run", "toy", "-p", "scale=-1", "-p", "steps=many", "--out", root / "out")
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stderr.splitlines() == [
        "error: steps must be a valid integer, got 'many'; write a whole number such as 3",
        "scale must be greater than 0, got -1; change scale in the parameters or with -p scale=VALUE",
    ]
    assert not (root / "out" / "toy").exists()
