"""The ledger and its judges."""

import json
import math

import nbformat
import pandas as pd
import pytest
import toy
from nbformat.v4 import new_code_cell, new_notebook, new_output

import measured
from measured.claims import (
    MIME,
    Claim,
    Measured,
    Stored,
    Verdict,
    as_json,
    judge,
    ledger,
    number_of,
    outcome_of,
    verdicts,
    verdicts_in,
)

TABLE = pd.DataFrame({"value": [1.0, 2.0]})


class Config(measured.Config):
    rate: float


CONFIG = Config(rate=2.0)
GOOD = {"id": "a-b", "statement": "It is so.", "source": "ours", "criterion": "It is > 0.", "notebook": "toy"}


def claims_file(root, *entries: dict | str):
    (root / "book").mkdir(exist_ok=True)
    lines = [entry if isinstance(entry, str) else f"- {json.dumps(entry)}" for entry in entries]
    (root / "book" / "claims.yml").write_text("\n".join(lines))
    return root


def test_the_ledger_keeps_the_order_of_its_file(tmp_path):
    second = GOOD | {"id": "a", "source": "chapter", "cite": "kingma2014"}
    assert ledger(claims_file(tmp_path, GOOD, second)) == {"a-b": Claim(**GOOD), "a": Claim(**second)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (GOOD | {"id": "A b"}, "entry 1 id: String should match pattern"),
        (
            GOOD | {"source": "chpater"},
            "entry 1 source: Input should be 'chapter', 'literature' or 'ours', got 'chpater'",
        ),
        (GOOD | {"statment": "x"}, "entry 1 statment: Extra inputs are not permitted, got 'x'"),
        ({k: v for k, v in GOOD.items() if k != "criterion"}, "entry 1 criterion: Field required"),
        (GOOD | {"statement": ""}, "entry 1 statement: String should have at least 1 character"),
        ("a: 1", "as a whole: Input should be a valid list"),
        ("- [", "is no YAML"),
    ],
)
def test_a_bad_ledger_is_refused_naming_file_and_entry(tmp_path, entry, message):
    with pytest.raises(ValueError, match=f"^{tmp_path}/book/claims.yml.*{message}"):
        ledger(claims_file(tmp_path, entry))


def test_ids_are_unique_and_the_file_is_there(tmp_path):
    with pytest.raises(ValueError, match="two claims with the id 'a-b'; rename one"):
        ledger(claims_file(tmp_path, GOOD, GOOD))
    with pytest.raises(ValueError, match=r"nowhere/book/claims.yml is missing; restore it from git"):
        ledger(tmp_path / "nowhere")


def fine(table, parameters):
    return Verdict(table.value.mean() * parameters.rate, 0.1, "holds")


def test_judges_the_notebooks_claims_and_no_others(tmp_path):
    root = claims_file(tmp_path, GOOD, GOOD | {"id": "other", "notebook": "elsewhere"})
    judgement = judge("toy", {"a-b": fine}, TABLE, CONFIG, root=root)
    assert judgement.experiment == "toy"
    assert judgement.verdicts == {"a-b": Verdict(3.0, 0.1, "holds")}
    assert type(judgement.verdicts["a-b"].value) is float  # not numpy's, which JSON would refuse
    with pytest.raises(ValueError, match="criteria lacks a-b, which book/claims.yml leaves to 'toy'; add"):
        judge("toy", {}, TABLE, CONFIG, root=root)
    with pytest.raises(ValueError, match="criteria has 'a-c', which .* not leave to 'toy'; did you mean 'a-b'?"):
        judge("toy", {"a-b": fine, "a-c": fine}, TABLE, CONFIG, root=root)


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (True, "criterion of 'a-b' must return a Verdict, got True; make it by at_most or at_least of a Measured"),
        (Verdict(1.0, 0.1, "hold"), "outcome of 'a-b' 'hold' is unknown; did you mean 'holds'?"),
        (Verdict(math.nan, 0.1, "fails"), "'a-b' must have a finite value and a finite se >= 0, got nan and 0.1"),
        (Verdict(1.0, math.inf, "fails"), "finite se >= 0, got 1.0 and inf"),
        (Verdict(1.0, -0.1, "fails"), "finite se >= 0, got 1.0 and -0.1"),
        (Verdict(1.0, 0.1, "holds if"), 'must have a condition exactly if it "holds if"'),
        (Verdict(1.0, 0.1, "holds", "beta > 1"), 'must have a condition exactly if it "holds if"'),
    ],
)
def test_a_malformed_verdict_is_refused(tmp_path, verdict, message):
    with pytest.raises(ValueError, match=message):
        judge("toy", {"a-b": lambda table, parameters: verdict}, TABLE, CONFIG, root=claims_file(tmp_path, GOOD))


def stored(path, *found: dict, **metadata: object):
    cells = [
        new_code_cell("judge()", outputs=[new_output("display_data", data={MIME: verdict, "text/plain": "-"})])
        for verdict in found
    ]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[*cells, new_code_cell("pass")], metadata=metadata), path)
    return path


FOUND = {"a-b": Verdict(1.0, 0.1, "holds if", "K > 3").as_json()}


def test_verdicts_are_found_in_stored_outputs(tmp_path):
    other = {"c": Verdict(2.0, 0.0, "fails").as_json()}
    assert verdicts_in(stored(tmp_path / "a.ipynb", FOUND, other)) == {
        "a-b": Verdict(1.0, 0.1, "holds if", "K > 3"),
        "c": Verdict(2.0, 0.0, "fails"),
    }
    assert verdicts_in(stored(tmp_path / "b.ipynb")) == {}


def test_notebooks_that_cannot_be_trusted_are_refused_by_name(tmp_path):
    (tmp_path / "text.ipynb").write_text("hello")
    (tmp_path / "list.ipynb").write_text("[]")
    for name in ("text", "list", "absent"):
        with pytest.raises(ValueError, match=f"{name}.ipynb is no notebook"):
            verdicts_in(tmp_path / f"{name}.ipynb")
    with pytest.raises(ValueError, match=r"failed.ipynb is what a failed run left; run it again"):
        verdicts_in(stored(tmp_path / "failed.ipynb", FOUND, papermill={"exception": True}))
    with pytest.raises(ValueError, match=r"odd.ipynb holds a malformed verdict, a-b outcome: Input should be 'holds'"):
        verdicts_in(stored(tmp_path / "odd.ipynb", {"a-b": {"value": 1, "se": 1, "outcome": "maybe"}}))


def test_quick_verdicts_come_from_notebooks_and_others_from_results(tmp_path, monkeypatch):
    root = toy.project(tmp_path / "root", monkeypatch)
    assert verdicts("quick") == verdicts("full") == {}
    stored(root / "notebooks" / "other.ipynb", FOUND)
    (root / "results" / "other").mkdir()
    (root / "results" / "other" / "verdicts.json").write_text(
        json.dumps({"a-b": {"value": 3, "se": 0.5, "outcome": "undecided"}})
    )
    assert verdicts("quick") == {"a-b": Verdict(1.0, 0.1, "holds if", "K > 3")}
    assert verdicts("full") == {"a-b": Verdict(3.0, 0.5, "undecided")}
    (root / "results" / "other" / "verdicts.json").write_text("{")
    with pytest.raises(ValueError, match=r"verdicts.json holds a malformed verdict.*run the experiment again"):
        verdicts("full")


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (-0.5, 0.25, "-0.50 ± 0.25"),
        (1234.5, 12.3, "1234 ± 12"),
        (123456.0, 1234.5, "1.235e+05 ± 1.2e+03"),
        (1.23456789, 0.0, "1.235"),
        (1.2e-12, 3.4e-14, "1.2e-12 ± 3.4e-14"),
    ],
)
def test_a_number_is_shown_with_its_error(value, se, text):
    assert number_of(Verdict(value, se, "holds")) == text


def test_a_number_of_one_thing_among_several_says_of_which():
    verdict = Verdict(1.23456, 0.0123, "fails", of="the smallest model")
    assert number_of(verdict) == "1.235 ± 0.012, the smallest model"
    assert as_json({"a-b": verdict, "c": Verdict(1.0, 0.0, "holds")}) == {
        "a-b": {"value": 1.23456, "se": 0.0123, "outcome": "fails", "condition": "", "of": "the smallest model"},
        "c": {"value": 1.0, "se": 0.0, "outcome": "holds", "condition": ""},
    }


def test_an_outcome_says_its_condition_or_its_reason():
    assert outcome_of(Verdict(1.0, 0.1, "holds")) == "holds"
    assert outcome_of(Verdict(1.0, 0.1, "holds if", "K > 3")) == "holds if K > 3"
    assert outcome_of(Verdict(1.0, 0.1, "undecided", reason="not reached")) == "undecided (not reached)"


@pytest.mark.parametrize(
    "verdict",
    [
        Measured(0.0, 0.25, 3, "a gap", "nats", 2.0).at_most(1.0),
        Measured(0.9, 0.25, 3, "a gap", "nats", 2.0).at_most(1.0),
        Measured(0.0, 0.0, of="a bound").at_least(0.0),
        Measured(0.0, 0.25, 3, "a gap").undecided("not converged"),
        Measured(5.0, 0.25, 3, "a gap").at_least(1.0).given("K > 3"),
        Verdict(1.0, 0.1, "fails"),
    ],
)
def test_a_verdict_comes_back_from_its_file_as_it_was(verdict):
    text = json.dumps(as_json({"a-b": verdict}))
    assert Stored(**json.loads(text)["a-b"]).verdict() == verdict
