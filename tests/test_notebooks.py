"""What every notebook of the book must be, and that each of its claims could have failed."""

import ast
import base64
import re

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
import yaml

from measured import claims, record
from measured import reruns as fragility
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


# A criterion sees tables only. So it can be shown tables that should make it fail.


def criteria(experiment):
    """The `criteria` cell alone, with the notebook's imports and nothing else of it; none where nothing is claimed."""
    if not cells(experiment, "criteria") and experiment.name not in {claim.notebook for claim in LEDGER.values()}:
        return {}
    imports = [
        n for c in code(experiment) for n in ast.parse(c.source).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    namespace: dict = {}
    exec(compile(ast.Module(imports, []), "imports", "exec"), namespace)
    (cell,) = cells(experiment, "criteria")
    exec(compile(cell.source, "criteria", "exec"), namespace)
    return namespace["criteria"]


def published(experiment):
    folders = sorted((ROOT / "results" / experiment.name).glob("*/record.json"))
    return record.combined(*(record.read(path.parent) for path in folders)) if folders else None


def replaced(table, values, **where):
    """The table with other values in the rows that match."""
    rows = np.logical_and.reduce([table[column].eq(value) for column, value in where.items()])
    assert rows.any(), where
    table = table.copy()
    table.loc[rows, "value"] = values(table[rows]) if callable(values) else values
    return table


def worse_at_one(table):
    """The sweep's models at beta = 1 with nine nats more of rate, and so of R + s D."""
    for quantity in ("rate", "F"):
        table = replaced(
            table,
            lambda rows: rows["value"] + 9 * (rows["beta"] == 1),
            part="sweep",
            how="sweep",
            quantity=quantity,
        )
    return table


# Claim -> what turns the true table into one that should make its criterion say "fails".
COUNTERFEITS = {
    "elbo-lower-bound": lambda t: replaced(t, lambda rows: 6 * rows["se"] + 1e-6, quantity="sampled gap minus KL"),
    "kl-pulls-to-prior": lambda t: replaced(t, lambda rows: rows["beta"], quantity="KL to prior", part="bound"),
    "gaussian-is-squared-error": lambda t: replaced(
        t, lambda rows: 1.1 * rows["value"], quantity="squared error", how="squared error"
    ),
    "linear-vae-closed-form": lambda t: replaced(t, lambda rows: rows["value"] + 0.3, quantity="KL of a latent"),
    "iwae-rate": lambda t: replaced(t, lambda rows: 10.0 * rows["se"] + 1, quantity="log p(x) - L_K, less theory"),
    "learned-variance-is-mse": lambda t: replaced(
        t, lambda rows: 1.2 * rows["value"], quantity="sigma^2", how="learned variance"
    ),
    "beta-elbo-is-a-bound": lambda t: replaced(t, 0.5, quantity="share with beta-ELBO above log p(x)"),
    "reductions-hide-betas": lambda t: replaced(t, lambda rows: rows["value"] - 1, quantity="objective"),
    "diagonal-encoder-biases": lambda t: replaced(
        t, 0.6, setting="cross loadings", quantity="cross loading", encoder="diagonal"
    ),
    "bias-survives-infinite-data": lambda t: replaced(
        t, lambda rows: rows["cross"], quantity="cross loading", encoder="diagonal", samples=1e6
    ),
    "diagonal-loss-is-amortization": lambda t: replaced(t, 1e-6, quantity="amortization gap"),
    "diagonal-loss-is-efficiency": lambda t: replaced(t, 0.5, quantity="covered", encoder="diagonal"),
    "likelihood-intervals-cover": lambda t: replaced(t, 0.5, quantity="covered", encoder="full"),
    "first-order-bias": lambda t: replaced(t, lambda rows: 2 * rows["value"], quantity="first-order bias"),
    "bias-is-low-information": lambda t: replaced(
        t, lambda rows: -rows["items"], quantity="relative bias", varied="items"
    ),
    "training-finds-the-biased-optimum": lambda t: replaced(
        t, lambda rows: 1.05 * rows["value"], part="training", quantity="cross loading", encoder="full"
    ),
    "encoder-capacity-removes-bias": lambda t: replaced(
        t, 0.5359, part="training", quantity="cross loading", encoder="diagonal, MLP"
    ),
    "importance-weights-remove-bias": lambda t: replaced(
        t, 0.5359, part="training", quantity="cross loading", bound="importance-weighted"
    ),
    "gap-collapses-factors": lambda t: replaced(t, 0.3, quantity="group loading"),
    "real-correlations-shift": lambda t: replaced(t, 0.5, part="real", quantity="factor correlation"),
    "amortization-gap-is-the-family": lambda t: replaced(
        t, lambda rows: 9 * rows["value"], quantity="amortization gap", part="capacity", encoder="linear"
    ),
    "one-pass-is-cheap": lambda t: replaced(t, 1.0, quantity="time for an image", start="encoder", evaluations=0),
    "encoder-costs-more-than-family": lambda t: replaced(t, -1.0, quantity="amortization minus approximation"),
    "overfitting-is-the-encoders": lambda t: replaced(t, 0.3, quantity="amortization gap", part="sizes"),
    "small-data-tenfold-gap": lambda t: replaced(t, 9.0, quantity="amortization gap", part="sizes"),
    "capacity-moves-one-gap": lambda t: replaced(
        t, 0.05, quantity="best from the encoder minus best without it", part="capacity"
    ),
    "covariance-halves-approximation": lambda t: replaced(
        t, lambda rows: 0.2 * rows["value"], quantity="gained by a full covariance", part="base"
    ),
    "evidence-estimators-agree": lambda t: replaced(
        t, lambda rows: rows["value"] + 0.1, quantity="annealed minus importance"
    ),
    "longer-training-widens-the-gap": lambda t: replaced(
        t, lambda rows: 10 / rows["epochs"], quantity="amortization gap", part="epochs"
    ),
    "ais-recovers-fixed-decoder": lambda t: replaced(
        t, lambda rows: rows["value"] + rows["slope"], method="annealing", quantity="gap"
    ),
    "inference-gap-grows-with-slope": lambda t: replaced(
        t, lambda rows: rows["value"] - 3 * rows["value"].max(), quantity="rise of the gap"
    ),
    "fixed-decoder-is-no-envelope": lambda t: replaced(t, 1.0, method="mean image", quantity="gap"),
    "linear-vae-is-shannons-curve": lambda t: replaced(
        t, lambda rows: rows["value"] + 0.01, quantity="rate", part="gaussian"
    ),
    "rate-ends-at-finite-beta": lambda t: replaced(t, lambda rows: 1 / rows["beta"], quantity="rate", part="gaussian"),
    "learned-variance-ends-the-sweep": lambda t: replaced(
        replaced(t, 1.0, quantity="rate", part="learned"), 0.0, quantity="gained by the second half", part="learned"
    ),
    "trained-curve-is-above-the-sources": lambda t: replaced(t, -1.0, quantity="excess", part="banana"),
    "full-covariance-narrows-the-excess": lambda t: replaced(t, 0.5, quantity="excess", part="banana"),
    "eight-points-cost-more": lambda t: replaced(t, 0.01, quantity="excess", part="circle", encoder="any network"),
    "sweep-traces-the-envelope": lambda t: worse_at_one(
        replaced(t, lambda rows: 0.001 * rows["se"], quantity="F above the longer run")
    ),
    "smooth-curve-is-converged": lambda t: replaced(t, 0.5, quantity="F above the longer run"),
    "secants-are-twice-beta-variance": lambda t: replaced(t, lambda rows: 3 * rows["value"], quantity="secant"),
    "more-beta-more-distortion": lambda t: replaced(
        t, lambda rows: 1 / rows["beta"] + rows["seed"] / 1e3, part="sweep", how="sweep", quantity="distortion"
    ),
    "training-rate-exceeds-ln-n": lambda t: replaced(t, 1.0, how="information", quantity="rate"),
    "one-network-for-all-betas": lambda t: replaced(t, 0.5, quantity="F above the dedicated model"),
    "warm-sweep-forgets-its-path": lambda t: replaced(t, 0.5, quantity="F going down minus F going up"),
    "information-fades-in-a-limit": lambda t: replaced(t, 0.0, quantity="I(x;z)", decoder="fixed"),
    "large-beta-or-noise-collapses": lambda t: replaced(t, 0.5, quantity="KL", part="threshold"),
    "collapsed-decoder-is-the-mean": lambda t: replaced(t, 0.1, quantity="variance of decoded images"),
    "collapse-at-the-variance": lambda t: replaced(
        t, lambda rows: rows["value"] + 1e-5, quantity="I(x;z)", decoder="trained"
    ),
    "latents-counted-beforehand": lambda t: replaced(t, lambda rows: rows["value"] + 0.02, quantity="KL of a latent"),
    "collapse-threshold-from-data": lambda t: replaced(
        t, lambda rows: 5 * (rows["ratio"] < 0.7), quantity="KL", part="threshold"
    ),
    "losses-decide-collapse": lambda t: replaced(t, 0.5, quantity="KL", likelihood="bernoulli"),
    "short-training-looks-collapsed": lambda t: replaced(t, 0.5, quantity="KL", likelihood="bernoulli"),
    "free-variance-is-ill-posed": lambda t: replaced(t, 0.0, quantity="gain in -ln sigma", part="sources"),
    "dirac-limit-has-no-density": lambda t: replaced(t, lambda rows: rows["steps"], quantity="ELBO, moved"),
    "divergence-slope": lambda t: replaced(t, 10.0, quantity="slope of beta-ELBO", part="sources"),
    "large-beta-bounds-it": lambda t: replaced(t, 0.5, quantity="gain in -ln sigma", part="sources"),
    "learned-variance-is-the-noise": lambda t: replaced(t, lambda rows: 1.2 * rows["value"], quantity="sigma^2"),
    "beta-biases-the-variance": lambda t: replaced(t, 0.01, quantity="sigma^2", data="curved, noisy"),
    "few-points-diverge": lambda t: replaced(t, -10.0, quantity="ELBO", data="few points"),
    "noise-free-keeps-r-latents": lambda t: replaced(t, 4.0, quantity="directions generated"),
    "dequantising-cures-integers": lambda t: replaced(t, 0.5, quantity="gain in -ln sigma", part="pixels"),
    "small-mean-kl-can-be-pruned": lambda t: replaced(
        t, -9.0, quantity="change of the ELBO", rule="mean KL", stage="pruned"
    ),
    "aggregated-kl-is-conservative": lambda t: replaced(
        t, -9.0, quantity="change of the ELBO", rule="aggregated KL", stage="pruned"
    ),
    "wide-then-pruned-is-as-good": lambda t: replaced(t, 9.0, quantity="above the pruned wide model", split="test"),
    "wide-contains-the-small": lambda t: replaced(t, 9.0, quantity="above the pruned wide model", split="train"),
    "inactive-units-can-be-pruned": lambda t: replaced(t, -9.0, quantity="above the control", rule="variance of means"),
    "excess-latents-prune-themselves": lambda t: replaced(t, lambda rows: 0.9 * rows["size"], quantity="used"),
    "lower-threshold-does-not-help": lambda t: replaced(
        t, 0.0, quantity="above the control", rule="aggregated KL, lower threshold"
    ),
    "pruning-adds-nothing-to-training": lambda t: replaced(t, 9.0, quantity="above the control", rule="mean KL"),
    "price-of-a-latent": lambda t: replaced(t, lambda rows: 99 * rows["value"], quantity="cost of removal"),
    "warm-up-mitigates-collapse": lambda t: replaced(
        t, lambda rows: rows["seed"] / 1e4, part="conditions", quantity="I(X;Z)"
    ),
    "input-skips-collapse": lambda t: replaced(t, 1.5, part="conditions", quantity="KL"),
    "remainder-decides-collapse": lambda t: replaced(t, 9.0, quantity="residual threshold"),
    "film-makes-skips-use-z": lambda t: replaced(t, 0.0, part="conditions", quantity="I(X;Z)"),
    "autoregressive-decoder-ignores-z": lambda t: replaced(t, 1.0, quantity="I(X;Z)", decoder="MADE", remedy="none"),
    "information-falls-with-what-x-tells": lambda t: replaced(t, 5.0, quantity="I(X;Z)", decoder="feature skip"),
    "kl-without-information": lambda t: replaced(t, 0.5, part="conditions", quantity="I(X;Z)"),
    "committed-rate-informs": lambda t: replaced(t, 0.0, part="conditions", quantity="I(X;Z)"),
    "free-bits-cost-likelihood": lambda t: replaced(t, 0.0, quantity="log p(x)", remedy="free bits"),
    "aggressive-encoder-pays": lambda t: replaced(
        t, lambda rows: rows["value"] - 9, quantity="log p(x)", remedy="aggressive encoder"
    ),
    "cycles-beat-one-warm-up": lambda t: replaced(t, 0.0, quantity="I(X;Z)", remedy="cyclical"),
    "skip-bound-misleads": lambda t: replaced(t, 0.0, quantity="ELBO", remedy="none"),
    "side-information-in-closed-form": lambda t: replaced(
        t, lambda rows: rows["value"] + 1e-4, part="side", quantity="KL"
    ),
    "side-information-is-first-order": lambda t: replaced(t, 0.0, part="side", quantity="KL"),
    "warm-up-chooses-between-optima": lambda t: replaced(t, 0.0, part="side", quantity="KL"),
}


@each_experiment
def test_each_claim_has_exactly_one_judge(experiment):
    mine = {name for name, claim in LEDGER.items() if claim.notebook == experiment.name}
    assert set(criteria(experiment)) == mine


def test_no_claim_is_left_to_a_notebook_that_is_not_there():
    assert {claim.notebook for claim in LEDGER.values()} <= {e.name for e in EXPERIMENTS}
    assert set(COUNTERFEITS) == set(LEDGER), "each claim needs a counterfeit table that makes it fail"


@each_experiment
def test_each_criterion_can_fail(experiment):
    table = published(experiment)
    if table is None:
        pytest.skip(f"{experiment.name} has no published record yet")
    for name, criterion in criteria(experiment).items():
        false = COUNTERFEITS[name](table)
        assert criterion(false).outcome == "fails", f"{name} does not notice a table that contradicts it"


def test_every_claim_was_judged_with_five_other_sets_of_streams():
    reruns = fragility.load(ROOT)
    assert {name: len(fragility.verdicts_of(name, reruns)) for name in LEDGER} == dict.fromkeys(LEDGER, 5)


@each_experiment
def test_published_verdicts_are_what_the_criteria_say(experiment):
    table = published(experiment)
    if table is None:
        pytest.skip(f"{experiment.name} has no published record yet")
    stored = claims.verdicts("full", ROOT)
    for name, criterion in criteria(experiment).items():
        verdict = criterion(table)
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
