"""What a notebook declares, and runs that leave everything or nothing."""

import json
import os
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import toy

from measured.claims import Verdict, verdicts_in
from measured.experiment import Parameter, RunError, experiments, find, profile_parameters, run
from measured.record import read


@pytest.fixture
def project(tmp_path, monkeypatch):
    """project(compute="..."): the toy project, with other sources in place of its cells'."""
    return lambda **replaced: toy.project(tmp_path / "root", monkeypatch, **replaced)


def everything(root: Path) -> set[str]:
    """All files of a run's output and of the cache."""
    return {
        str(path.relative_to(root))
        for folder in ("out", "cache")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


# declarations


def test_a_notebook_declares_itself(project):
    root = project()
    (experiment,) = experiments(root)
    assert experiment == find("toy", root) == find("toy")
    assert (experiment.name, experiment.title, experiment.measures) == ("toy", "A toy", "a sum")
    assert experiment.parameters == (Parameter("steps", 3, "how many"), Parameter("scale", 0.5, "of each"))
    assert (experiment.expect["quick"].seconds, experiment.expect["quick"].memory_mb) == (5, 90)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "a: float = -1.5  # with # inside\nb = ['x', 2]\n",
            [Parameter("a", -1.5, "with # inside"), Parameter("b", ["x", 2], "")],
        ),
        ("# Values\na = [\n    1,  # one\n    2,\n]  # both\n", [Parameter("a", [1, 2], "both")]),
        ("a = None\n", [Parameter("a", None, "")]),
    ],
)
def test_parameters_are_read_with_their_comments(project, source, expected):
    assert list(find("toy", project(parameters=source)).parameters) == expected


@pytest.mark.parametrize("source", ["import os", "a = b", "a.b = 3", "a = f(3)", "print(3)", "a = 1\na += 1"])
def test_a_parameters_cell_holds_plain_values_only(project, source):
    with pytest.raises(ValueError, match=r'toy.ipynb: the cell tagged "parameters" must hold lines .*; move it'):
        find("toy", project(parameters=source))


def test_a_notebook_that_declares_itself_badly_is_refused_by_name(project):
    path = project() / "notebooks" / "toy.ipynb"
    notebook = toy.notebook()
    long = {"measures": "x", "expect": {"quick": {"seconds": "long"}}}
    for metadata, message in [({}, "measured.measures"), ({"measured": long}, "measured.expect.quick.seconds")]:
        notebook.metadata = nbformat.from_dict(metadata)
        nbformat.write(notebook, path)
        with pytest.raises(ValueError, match=f"{path}: {message} in the notebook's metadata: .*; write"):
            find("toy")
    nbformat.write(nbformat.v4.new_notebook(metadata=toy.METADATA), path)
    with pytest.raises(ValueError, match=f'{path} must have one cell tagged "parameters", got 0; tag it'):
        find("toy")


def test_unknown_names_are_refused_with_the_nearest(project):
    root = project()
    with pytest.raises(ValueError, match=r"experiment 'toys' is unknown; did you mean 'toy'\? known: toy"):
        find("toys")
    with pytest.raises(ValueError, match=r"profile 'fall' is unknown; did you mean 'full'\? known: quick, full"):
        profile_parameters("fall", "toy")
    with pytest.raises(ValueError, match="parameter 'step' of toy is unknown; did you mean 'steps'?"):
        run(find("toy"), {"step": 3}, root / "out")
    assert not (root / "out").exists()


def test_profiles(project):
    root = project()
    assert profile_parameters("quick", "toy") == {}
    assert profile_parameters("full", "toy") == {"steps": 5, "scale": "1e-1"}  # YAML's idea of 1e-1 is text
    with pytest.raises(ValueError, match=r"full.yaml must map 'other' to its parameters, got None; add an entry"):
        profile_parameters("full", "other")
    (root / "profiles" / "full.yaml").write_text("[")
    with pytest.raises(ValueError, match=r"full.yaml is no YAML"):
        profile_parameters("full", "toy")


@pytest.mark.parametrize("blocked", ["file/out", "file"])
def test_an_unwritable_output_folder_is_refused_before_anything_is_executed(project, blocked):
    root = project(rules="raise AssertionError")
    (root / "file").touch()
    with pytest.raises(ValueError, match="file.* cannot be written: .*; choose another folder with --out"):
        run(find("toy"), {}, root / blocked)


def test_a_folder_that_is_no_run_is_not_replaced(project):
    root = project(rules="raise AssertionError")
    (root / "out" / "toy").mkdir(parents=True)
    (root / "out" / "toy" / "precious.txt").touch()
    with pytest.raises(ValueError, match="out/toy exists and is no earlier run.*; choose another folder with --out"):
        run(find("toy"), {}, root / "out")
    assert (root / "out" / "toy" / "precious.txt").exists()


# runs


def test_a_run_leaves_its_notebook_records_and_verdicts(project, monkeypatch):
    root = project(criteria=f"{toy.CRITERIA}\nimport sys; print(sys.executable)")
    wrong = root / "jupyter" / "kernels" / "python3" / "kernel.json"  # a user's own kernel of the same name
    wrong.parent.mkdir(parents=True)
    wrong.write_text(json.dumps({"argv": ["/nowhere/python"], "display_name": "Wrong", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(root / "jupyter"))
    steps = []
    folder = run(find("toy"), profile_parameters("full", "toy"), root / "out", report=steps.append)

    assert folder == root / "out" / "toy"
    assert {path.name for path in (root / "out").iterdir()} == {"toy"}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "toy.ipynb",
        "verdicts.json",
        "sum/table.csv",
        "sum/record.json",
    }
    assert [(s.number, s.total, s.label) for s in steps] == [
        (1, 6, "A toy"),
        (2, 6, "Parameters"),
        (3, 6, "A toy"),
        (4, 6, "How it is measured"),
        (5, 6, "compute the table"),
        (6, 6, "How it is measured"),
    ]

    record = read(folder / "sum")
    assert record.part == "toy/sum"
    assert record.table.value.tolist() == [0.1] * 5
    assert record.provenance["parameters"] == {"steps": 5, "scale": 0.1}
    judged = Verdict(0.1, 0.01, "holds", of="the least", n=10, unit="", limit=0.05, side="at least")
    assert verdicts_in(folder / "toy.ipynb") == {"toy-positive": judged}
    assert json.loads((folder / "verdicts.json").read_text()) == {"toy-positive": judged.as_json()}

    notebook = nbformat.read(folder / "toy.ipynb", as_version=4)
    cells = notebook.cells
    (shown,) = cells[6].outputs
    assert shown.data["text/plain"].startswith("toy/sum: computed here in 0.0 s on cpu")
    about = shown.data["application/vnd.measured.record+json"]
    assert (about["part"], about["status"], about["drifted"]) == ("toy/sum", "computed", False)
    assert about["path"] == f"records/toy/sum/{record.provenance['key']}"
    verdict, printed = cells[7].outputs
    assert verdict.data["text/plain"] == "toy-positive  holds  (0.100 ± 0.010, the least)"
    assert "<td>Values are positive.</td><td>holds</td>" in verdict.data["text/html"]
    assert printed.text.strip() == sys.executable
    printed.text = ""
    assert str(root) not in str(notebook)  # what is published tells nothing of the machine
    assert "input_path" not in notebook.metadata.papermill


STAGED = """\
def shared(config):
    folder = config.unfinished("training")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").touch()
    return record.Staged(config.scale, pd.DataFrame({"value": [config.scale]}))

def compute(config, scale):
    import sys
    assert "torch" not in sys.modules
    if config.steps == 4:
        raise ArithmeticError
    return pd.DataFrame(arithmetic.rows(config.steps, scale))

training = record.Stage("toy/training", config, shared)
"""


def test_what_a_stage_leaves_on_the_way_stays_until_the_run_is_done(project):
    root = project(compute=STAGED, record=toy.RECORD.replace("compute)", "compute, training)"))
    with pytest.raises(RunError, match="ArithmeticError"):
        run(find("toy"), {"steps": 4}, root / "out")
    (left,) = (root / "cache" / "checkpoints" / "toy").glob("*/*/training/state")
    assert left.parts[-4] == "training"
    assert not list((root / "out").iterdir())
    folder = run(find("toy"), {}, root / "out")
    assert {path.name for path in folder.iterdir()} == {"toy.ipynb", "verdicts.json", "sum", "training"}
    assert read(folder / "training").table.value.tolist() == [0.5]
    states = [path.parts[-3] for path in (root / "cache" / "checkpoints").rglob("state")]
    assert states == [left.parts[-3]], "only that of the run which has failed is left"


def test_the_projects_kernels_cannot_import_torch(project):
    """And so nothing of the machinery needs it."""
    root = project(compute=toy.COMPUTE + "import torch\n")
    with pytest.raises(RunError, match="ImportError.*there is no torch here"):
        run(find("toy"), {}, root / "out")


def test_a_failing_cell_is_shown_and_leaves_the_earlier_run_alone(project):
    root = project()
    run(find("toy"), {}, root / "out")
    before = everything(root), (root / "out" / "toy" / "toy.ipynb").read_bytes()
    nbformat.write(toy.notebook(compute="def compute(config):\n    return 1 / 0\n"), root / "notebooks" / "toy.ipynb")
    with pytest.raises(RunError) as failure:
        run(find("toy"), {}, root / "out")
    assert str(failure.value).startswith("toy failed in cell 4 of 5 (compute the table):\n\n    # compute the table\n")
    assert "ZeroDivisionError" in str(failure.value)
    assert (everything(root), (root / "out" / "toy" / "toy.ipynb").read_bytes()) == before
    assert [path.name for path in (root / "out").iterdir()] == ["toy"]


def test_a_dying_kernel_is_an_error_that_names_the_cell(project):
    root = project(compute="import os\nos._exit(3)")
    with pytest.raises(RunError, match=r"failed in cell 3 of 5 \(How it is measured\): .*died.*; perhaps the memory"):
        run(find("toy"), {}, root / "out")
    assert everything(root) == set()


def test_a_record_under_anothers_name_is_refused(project):
    root = project(record=toy.RECORD.replace("toy/sum", "other/sum"))
    with pytest.raises(RunError, match="toy stores a record as 'other/sum'; call it \"toy/sum\""):
        run(find("toy"), {}, root / "out")
    assert not list((root / "out").iterdir())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"step": 1}, "unknown parameter 'step'; did you mean 'steps'? known: steps, scale"),
        (
            {"scale": "-1e-3", "steps": "hello"},
            "steps must be a valid integer, got 'hello'; write a whole number such as "
            "3\nscale must be greater than 0, got '-1e-3'; change scale",
        ),
    ],
)
def test_plain_papermill_is_refused_the_same(project, parameters, message, caplog):
    root = project(compute="raise AssertionError('work has started')")
    with pytest.raises(papermill.PapermillExecutionError) as refusal:
        papermill.execute_notebook(root / "notebooks" / "toy.ipynb", None, parameters, progress_bar=False)
    assert message in refusal.value.evalue


def test_where_signals_were_ignored_or_handled_they_are_again(project):
    import signal

    root = project(rules="raise AssertionError")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RunError):
        run(find("toy"), {}, root / "out")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert os.environ.get("VAE_RECORDS") is None
