"""The ledger: each claim, the criterion that decides it, and what was measured."""

from __future__ import annotations

import html
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from measured.config import Config, nearest
from measured.notebook import read_notebook, shown
from measured.quantity import (
    Measured,
    Outcome,
    Verdict,
    all_of,
    by_seed,
    derived,
    each,
    mean,
    measure,
    of_rows,
    paired,
    relative,
    worst,
)
from measured.record.paths import project_root

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MIME",
    "Claim",
    "Judgement",
    "Measured",
    "Outcome",
    "Source",
    "Verdict",
    "all_of",
    "as_json",
    "by_seed",
    "derived",
    "each",
    "judge",
    "ledger",
    "mean",
    "measure",
    "named",
    "number_of",
    "of_rows",
    "outcome_of",
    "paired",
    "relative",
    "verdicts",
    "verdicts_in",
    "worst",
]

MIME = "application/vnd.measured.verdicts+json"
Source = Literal["chapter", "literature", "ours"]
Criterion = Callable[["pd.DataFrame", SimpleNamespace], Verdict]  # of the table and the parameters
Text = Annotated[str, Field(min_length=1)]


class Stored(BaseModel):
    """A verdict as it lies in a file."""

    model_config = ConfigDict(extra="forbid")

    value: float
    se: float
    outcome: Outcome
    condition: str = ""
    of: str = ""
    n: int = 0
    unit: str = ""
    limit: float | None = None
    side: Literal["at most", "at least"] | None = None
    reason: str | None = None

    def verdict(self) -> Verdict:
        return Verdict(**self.model_dump())


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

    def outcomes(self) -> pd.DataFrame:
        """The outcomes alone, which another machine gives, too."""
        import pandas as pd

        return pd.DataFrame({"outcome": {name: verdict.outcome for name, verdict in self.verdicts.items()}})


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


def named(*criteria: Criterion) -> dict[str, Criterion]:
    """Criteria by the ids of their claims: functions are called as the claims are, with _ for -."""
    return {criterion.__name__.replace("_", "-"): criterion for criterion in criteria}


def judge(
    experiment: str,
    criteria: Mapping[str, Criterion],
    table: pd.DataFrame,
    config: Config,
    *,
    root: Path | None = None,
) -> Judgement:
    """Apply each criterion(table, parameters) to `table` and to what `config` holds, as attributes; in a notebook, show
    the verdicts. `criteria` has exactly the ledger's claims
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
    parameters = SimpleNamespace(**config.parameters())
    verdicts = {name: _checked(name, criteria[name](table, parameters)) for name in claims}
    _show(claims, verdicts)
    return Judgement(experiment, verdicts)


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


def as_json(found: Mapping[str, Verdict]) -> dict[str, dict[str, Any]]:
    """Verdicts as results/ and notebooks store them."""
    return {name: verdict.as_json() for name, verdict in found.items()}


def outcome_of(verdict: Verdict) -> str:
    """The outcome in words, with its condition or its reason."""
    reason = f"({verdict.reason})" if verdict.reason else ""
    return " ".join(filter(None, [verdict.outcome, verdict.condition, reason]))


def number_of(verdict: Verdict | Measured) -> str:
    """The deciding number with its error, and what it is of: two digits of the error, the value to the same place."""
    places = 1 - math.floor(math.log10(verdict.se)) if verdict.se else 0
    if 0 < places <= 6:
        text = f"{verdict.value:.{places}f} ± {verdict.se:.{places}f}"
    else:
        text = f"{verdict.value:.4g}" + (f" ± {verdict.se:.2g}" if verdict.se else "")
    return f"{text}, {verdict.of}" if verdict.of else text


def _checked(name: str, verdict: Verdict) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise ValueError(
            f"the criterion of {name!r} must return a Verdict, got {verdict!r}; "
            "make it by at_most or at_least of a Measured"
        )
    value, se, outcome, condition = float(verdict.value), float(verdict.se), verdict.outcome, verdict.condition
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
    return replace(verdict, value=value, se=se)


def _parsed(text: str, file: Path) -> dict[str, Verdict]:
    try:
        stored = TypeAdapter(dict[str, Stored]).validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(
            f"{file} holds a malformed verdict, {_where(*problem['loc'])}: {problem['msg']}; run the experiment again"
        ) from None
    return {name: one.verdict() for name, one in stored.items()}


def _where(*loc: str | int) -> str:
    return " ".join(f"entry {at + 1}" if isinstance(at, int) else str(at) for at in loc) or "as a whole"


def _show(claims: Mapping[str, Claim], found: Mapping[str, Verdict]) -> None:
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        rows = [(name, outcome_of(verdict), number_of(verdict)) for name, verdict in found.items()]
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
