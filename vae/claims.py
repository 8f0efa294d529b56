"""The ledger: each claim, the criterion that decides it, and what was measured."""

from __future__ import annotations

import html
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vae.config import nearest
from vae.record.paths import project_root

if TYPE_CHECKING:
    import pandas as pd

MIME = "application/vnd.vae.verdicts+json"
Outcome = Literal["holds", "holds if", "fails", "undecided"]
Source = Literal["chapter", "literature", "ours"]
Text = Annotated[str, Field(min_length=1)]


class Verdict(NamedTuple):
    """What a criterion found: the deciding number, its standard error, the outcome; for "holds if" the condition; where
    a criterion asks several things, what the number is `of`.
    """

    value: float
    se: float
    outcome: Outcome
    condition: str = ""
    of: str = ""


class Claim(BaseModel):
    """An entry of book/claims.yml. `cite`: a key of the bibliography."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$")]
    statement: Text
    source: Source
    criterion: Text
    notebook: Text
    cite: str | None = None


@dataclass(frozen=True)
class Judgement:
    """The verdicts of one experiment, by claim id."""

    experiment: str
    verdicts: Mapping[str, Verdict]


def ledger(root: Path | None = None) -> dict[str, Claim]:
    """All claims by id, in the order of book/claims.yml. ValueError: one line for each problem with the file."""
    file = (root or project_root()) / "book" / "claims.yml"
    try:
        claims = TypeAdapter(list[Claim]).validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{file} is missing; restore it from git") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from None
    except ValidationError as error:
        raise ValueError(
            "\n".join(f"{file}, {_where(*e['loc'])}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        ) from None
    ids = [claim.id for claim in claims]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"{file} has two claims with the id {', '.join(map(repr, twice))}; rename one")
    return dict(zip(ids, claims, strict=True))


def judge(
    experiment: str,
    criteria: Mapping[str, Callable[[pd.DataFrame], Verdict]],
    table: pd.DataFrame,
    *,
    root: Path | None = None,
) -> Judgement:
    """Apply each criterion to `table`; in a notebook, show the verdicts. `criteria` has exactly the ledger's claims
    for that notebook. ValueError: it has others, or a verdict is malformed."""
    claims = {name: claim for name, claim in ledger(root).items() if claim.notebook == experiment}
    if missing := claims.keys() - criteria.keys():
        raise ValueError(
            f"criteria lacks {', '.join(sorted(missing))}, which book/claims.yml leaves to "
            f"{experiment!r}; add a criterion or remove the claim"
        )
    for name in criteria.keys() - claims.keys():
        raise ValueError(
            f"criteria has {name!r}, which book/claims.yml does not leave to {experiment!r}; {nearest(name, claims)}"
        )
    verdicts = {name: _checked(name, criteria[name](table)) for name in claims}
    _show(claims, verdicts)
    return Judgement(experiment, verdicts)


def at_most(value: float, se: float, limit: float) -> Outcome:
    """Whether a measured value stays within a limit: "undecided" if the limit lies within two standard errors."""
    if not (math.isfinite(value) and math.isfinite(se)) or abs(value - limit) <= 2 * se:
        return "undecided"
    return "holds" if value <= limit else "fails"


def verdicts_in(notebook: Path) -> dict[str, Verdict]:
    """The verdicts stored in a notebook's outputs; none if it was never executed. ValueError: it is no notebook, or
    what a failed run left."""
    content = read_notebook(notebook)
    if content["metadata"].get("papermill", {}).get("exception"):
        raise ValueError(f"{notebook} is what a failed run left; run it again")
    return {
        name: verdict
        for found in shown(content, MIME)
        for name, verdict in _parsed(json.dumps(found), notebook).items()
    }


def verdicts(profile: str, root: Path | None = None) -> dict[str, Verdict]:
    """All verdicts there are: "quick" from the committed notebooks, any other profile from results/."""
    root = root or project_root()
    if profile == "quick":
        found = [verdicts_in(path) for path in sorted((root / "notebooks").glob("*.ipynb"))]
    else:
        found = [
            _parsed(path.read_text(encoding="utf-8"), path)
            for path in sorted((root / "results").glob("*/verdicts.json"))
        ]
    return {name: verdict for several in found for name, verdict in several.items()}


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as it lies on disk; nbformat would take seconds to import. ValueError: it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["cells"], content["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no notebook ({type(error).__name__}: {error}); restore it from git") from None
    return content


def shown(notebook: Mapping[str, Any], mime: str) -> list[Any]:
    """What the cells of a notebook displayed under this MIME type."""
    return [
        output["data"][mime]
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if mime in output.get("data", ())
    ]


def as_json(found: Mapping[str, Verdict]) -> dict[str, dict[str, float | str]]:
    """Verdicts as results/ and notebooks store them."""
    stored = {name: verdict._asdict() for name, verdict in found.items()}
    return {name: {k: v for k, v in fields.items() if k != "of" or v} for name, fields in stored.items()}


def measured(verdict: Verdict) -> str:
    """The deciding number with its error, and what it is of: two digits of the error, the value to the same place."""
    places = 1 - math.floor(math.log10(verdict.se)) if verdict.se else 0
    if 0 < places <= 6:
        number = f"{verdict.value:.{places}f} ± {verdict.se:.{places}f}"
    else:
        number = f"{verdict.value:.4g}" + (f" ± {verdict.se:.2g}" if verdict.se else "")
    return f"{number}, {verdict.of}" if verdict.of else number


def _checked(name: str, verdict: Verdict) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise ValueError(
            f"the criterion of {name!r} must return a Verdict, got {verdict!r}; "
            "write Verdict(value, se, outcome, condition)"
        )
    value, se, outcome, condition, of = verdict
    value, se = float(value), float(se)
    if outcome not in get_args(Outcome):
        raise ValueError(f"the outcome of {name!r} {outcome!r} is unknown; {nearest(outcome, get_args(Outcome))}")
    if not (math.isfinite(value) and math.isfinite(se) and se >= 0):
        raise ValueError(
            f"{name!r} must have a finite value and a finite se >= 0, got {value} and {se}; where they "
            "cannot be measured the table lacks something"
        )
    if (outcome == "holds if") != bool(condition):
        raise ValueError(
            f'{name!r} must have a condition exactly if it "holds if", got {outcome!r} and {condition!r}; '
            "say what was measured"
        )
    return Verdict(value, se, outcome, condition, of)


def _parsed(text: str, file: Path) -> dict[str, Verdict]:
    try:
        return TypeAdapter(dict[str, Verdict]).validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(
            f"{file} holds a malformed verdict, {_where(*problem['loc'])}: {problem['msg']}; run the experiment again"
        ) from None


def _where(*loc: str | int) -> str:
    return " ".join(f"entry {at + 1}" if isinstance(at, int) else str(at) for at in loc) or "as a whole"


def _show(claims: Mapping[str, Claim], found: Mapping[str, Verdict]) -> None:
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        rows = [
            (name, f"{verdict.outcome} {verdict.condition}".strip(), measured(verdict))
            for name, verdict in found.items()
        ]
        display({"text/plain": _aligned(rows), "text/html": _html(claims, rows), MIME: as_json(found)}, raw=True)


def _aligned(rows: list[tuple[str, str, str]]) -> str:
    width = max((len(name) for name, _, _ in rows), default=0)
    return "\n".join(f"{name:{width}}  {outcome}  ({number})" for name, outcome, number in rows)


def _html(claims: Mapping[str, Claim], rows: list[tuple[str, str, str]]) -> str:
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(text)}</td>"
            for text in (claims[name].statement, outcome, number, claims[name].criterion)
        )
        + "</tr>"
        for name, outcome, number in rows
    )
    head = "".join(f"<th>{title}</th>" for title in ("Claim", "Verdict", "Measured", "Criterion"))
    return f'<table class="verdicts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
