"""What every notebook of the book must be, and that each of its claims could have failed."""

import ast
import base64
import re
from types import SimpleNamespace

import matplotlib as mpl
import nbformat
import pytest
import torch
import yaml

from measured import claims, record, reruns
from measured.experiment import experiments, profile_parameters

ROOT = record.project_root()
EXPERIMENTS = experiments(ROOT)
LEDGER = claims.ledger(ROOT)


def cells(experiment, tag=None):
    notebook = nbformat.read(experiment.path, as_version=4)
    return [c for c in notebook.cells if tag is None or tag in c.metadata.get("tags", [])]


def code(experiment):
    return [c for c in cells(experiment) if c.cell_type == "code"]


def each_experiment(test):
    return pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)(test)


@each_experiment
def test_the_declared_names_are_those_of_the_parameters_cell(experiment):
    classes = [n for c in code(experiment) for n in ast.walk(ast.parse(c.source)) if isinstance(n, ast.ClassDef)]
    (config,) = (c for c in classes if c.name == "Config")
    declared = [n for n in config.body if isinstance(n, ast.AnnAssign)]
    assert [n.target.id for n in declared] == [p.name for p in experiment.parameters]
    assert all(n.value is None for n in declared), "defaults belong into the parameters cell"
    assert all(p.comment for p in experiment.parameters), "each parameter has a comment that says what it is"


@each_experiment
def test_profiles_name_known_parameters(experiment):
    names = {p.name for p in experiment.parameters}
    for profile in ("full", "large"):
        everything = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text("utf-8"))
        assert set(everything) <= {e.name for e in EXPERIMENTS}
        if experiment.name in everything:
            assert set(profile_parameters(profile, experiment.name)) <= names


@each_experiment
def test_the_stored_notebook_is_whole_and_light(experiment):
    for cell in code(experiment):
        assert cell.execution_count, f"{cell.id} was never executed; store the notebook's outputs"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", f"{cell.id} wrote to stderr: {output.text[:200]}"
            text = output.get("data", {}).get("text/plain", "")
            assert " at 0x" not in text, f"{cell.id} shows a memory address; end it with a call that returns None"
            if png := output.get("data", {}).get("image/png"):
                assert len(base64.b64decode(png)) <= 100_000, f"{cell.id}: a picture of more than 100 kB"
                assert cell.metadata.get("mystnb", {}).get("image", {}).get("alt"), f"{cell.id} has no alternative text"


def test_every_notebook_has_a_page():
    contents = (ROOT / "_toc.yml").read_text("utf-8")
    missing = [e.name for e in EXPERIMENTS if f"notebooks/{e.name}\n" not in contents]
    assert not missing, f"add {missing} to _toc.yml"


@each_experiment
def test_headings_carry_no_maths(experiment):
    for cell in cells(experiment):
        if cell.cell_type == "markdown":
            assert not re.search(r"^#+ .*\$", cell.source, flags=re.M), cell.source.splitlines()[0]


@each_experiment
def test_a_published_record_has_the_parameters_of_the_full_profile(experiment):
    defaults = {p.name: p.default for p in experiment.parameters}
    folders = [path.parent for path in (ROOT / "results" / experiment.name).glob("*/record.json")]
    for folder in folders:
        published = record.read(folder).provenance["parameters"]
        wanted = defaults | profile_parameters("full", experiment.name)
        differing = {k for k in wanted if k != "device" and published[k] != wanted[k]}
        assert not differing, (
            f"{folder.name} was computed with other {differing}; vae run {experiment.name} --profile full"
        )


def test_the_notebooks_are_thin():
    """What the house rules say of their length; printed, so that whoever adds a line sees what is left."""
    lines = {e.name: [len(c.source.splitlines()) for c in code(e)] for e in EXPERIMENTS}
    for name, cells_of in lines.items():
        print(f"{name:28} {sum(cells_of):4} lines of code, the longest cell {max(cells_of)}")
    print(f"{'all':28} {sum(map(sum, lines.values())):4}")
    assert {name: sum(n) for name, n in lines.items() if sum(n) > 400} == {}
    assert {name: max(n) for name, n in lines.items() if max(n) > 60} == {}
    assert sum(map(sum, lines.values())) <= 325 * len(EXPERIMENTS)


# A criterion sees a table and the parameters. So it can be shown tables that should turn its verdict.


def criteria(experiment):
    """The cells tagged "criteria" alone, with the notebook's imports and nothing else of it; none where nothing is
    claimed."""
    if not cells(experiment, "criteria") and experiment.name not in {claim.notebook for claim in LEDGER.values()}:
        return {}
    imports = [
        n for c in code(experiment) for n in ast.parse(c.source).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    namespace: dict = {}
    exec(compile(ast.Module(imports, []), "imports", "exec"), namespace)
    for cell in cells(experiment, "criteria"):
        exec(compile(cell.source, "criteria", "exec"), namespace)
    return namespace["criteria"]


def published(experiment):
    """The published table and the parameters that it was computed with."""
    folders = sorted((ROOT / "results" / experiment.name).glob("*/record.json"))
    assert folders, (
        f"results/ has no record of {experiment.name}; vae run {experiment.name} --profile full --out results"
    )
    records = [record.read(path.parent) for path in folders]
    return record.combined(*records), SimpleNamespace(**records[0].provenance["parameters"])


@each_experiment
def test_each_claim_has_exactly_one_judge(experiment):
    mine = {name for name, claim in LEDGER.items() if claim.notebook == experiment.name}
    assert set(criteria(experiment)) == mine


def test_no_claim_is_left_to_a_notebook_that_is_not_there():
    assert {claim.notebook for claim in LEDGER.values()} <= {e.name for e in EXPERIMENTS}


@each_experiment
def test_each_verdict_turns_on_either_side_of_its_limit(experiment):
    if not (judges := criteria(experiment)):
        pytest.skip("nothing is claimed")
    table, parameters = published(experiment)
    for name, criterion in judges.items():
        verdict = criterion(table, parameters)
        for wanted, forged in verdict.counterfeits(table).items():
            outcome = criterion(forged, parameters).outcome.removesuffix(" if")
            assert outcome == wanted, f"{name} does not notice a table in which it {wanted}"


def test_every_claim_was_judged_with_five_other_sets_of_streams():
    again = reruns.load(ROOT)
    assert {name: len(reruns.verdicts_of(name, again)) for name in LEDGER} == dict.fromkeys(LEDGER, 5)


@each_experiment
def test_published_verdicts_are_what_the_criteria_say(experiment):
    if not (judges := criteria(experiment)):
        pytest.skip("nothing is claimed")
    table, parameters = published(experiment)
    stored = claims.verdicts("full", ROOT)
    for name, criterion in judges.items():
        verdict = criterion(table, parameters)
        assert stored[name].outcome == verdict.outcome, name
        assert stored[name].value == pytest.approx(verdict.value, rel=1e-9, abs=1e-12), name


# Bad parameters, as a reader would pass them; the rules are the notebook's own.


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dataset", "mnits", r"dataset 'mnits' is unknown; did you mean 'mnist'"),
        ("betas", [1.0, -1.0], r"betas\[1\] must be greater than 0, got -1.0"),
        ("betas", [1.0, float("inf")], r"betas\[1\] must be a finite number, got inf"),
        ("betas", [1.0, "nan"], r"betas\[1\] must be a finite number, got 'nan'"),
        ("betas", 1.0, r"betas must be a valid list, got 1.0"),
        ("latent_dim", 0, r"latent_dim must be greater than or equal to 1, got 0"),
        ("latent_dim", 65, r"latent_dim must be at most 64 for digits, got 65"),
        ("batch_size", 1398, r"batch_size must be at most 1397 for digits, got 1398"),
        ("noise_variance", 0.0, r"noise_variance must be greater than 0"),
        ("learning_rate", "fast", r"learning_rate must be a valid number, got 'fast'"),
        ("steps", "hello", r"steps must be a valid integer, got 'hello'"),
        ("steps", True, r"steps must be a valid integer, got True"),
        ("device", "gpu", r"device must be 'auto', 'cpu', 'cuda' or 'mps', got 'gpu'"),
        pytest.param(
            "device",
            "cuda",
            r"device 'cuda' is absent",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_the_elbo_notebook_refuses_bad_parameters_by_name(name, value, message):
    with pytest.raises(ValueError, match=message):
        set_up("elbo", **{name: value})


def test_the_elbo_notebook_takes_numbers_that_yaml_reads_as_text():
    assert set_up("elbo", learning_rate="1e-3")["config"].learning_rate == 0.001


def set_up(name, **changes):
    """The parameters and set-up cells of a notebook with some parameters changed, as papermill would."""
    (experiment,) = (e for e in EXPERIMENTS if e.name == name)
    parameters, setup = code(experiment)[:2]
    namespace: dict = {"__name__": "notebook"}
    with mpl.rc_context():
        exec(parameters.source, namespace)
        namespace |= changes
        exec(setup.source, namespace)
    return namespace
