"""Measured quantities and what is decided by them.

A `Measured` is one number that a page shows: what it is of, value, standard error, n, unit. Differences, ratios, means
and the worst of several are its operations; a limit makes a `Verdict` of it, by Student's t. Nothing between a table
and a verdict is done by hand, and so every verdict knows the tables that would have turned it (`Verdict.counterfeits`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from measured.tables import select

Outcome = Literal["holds", "holds if", "fails", "undecided"]
Side = Literal["at most", "at least"]
Reason = Literal["not resolved", "not converged", "not reached", "not stable"]
Move = Callable[[pd.DataFrame, float], pd.DataFrame]  # a table in which the quantity is another number

LEVEL = 0.05  # of the two-sided intervals that decide
TIGHT = 1e-3  # what a counterfeit leaves of error bars, so that nothing but its number turns the verdict


def _cannot_move(table: pd.DataFrame, target: float) -> pd.DataFrame:
    raise ValueError("this quantity was made by hand; pass move=, which makes a table in which it is another number")


@dataclass(frozen=True)
class Measured:
    """A number with its standard error: of what, from how many (`n` seeds, or data where there is one seed), in which
    unit. `df`: the degrees of freedom of `se`; infinite where it is exact (se = 0). `move(table, target)` gives the
    table that it was measured on as it would be if this number were `target`, and a thousand times better known."""

    value: float
    se: float = 0.0
    n: int = 1
    of: str = ""
    unit: str = "nats"
    df: float = math.inf
    move: Move = field(default=_cannot_move, repr=False, compare=False)

    def named(self, of: str, unit: str | None = None) -> Measured:
        """The same, called so."""
        return replace(self, of=of, unit=self.unit if unit is None else unit)

    def minus(self, other: Measured | float, of: str = "") -> Measured:
        """The difference of two that share nothing; where they share seeds or images take `paired`."""
        second = _as_measured(other)
        return self._with(
            second,
            self.value - second.value,
            1.0,
            1.0,
            lambda table, to: self.move(second._held(table), to + second.value),
            of,
        )

    def over(self, other: Measured | float, of: str = "", unit: str = "ratio") -> Measured:
        """The ratio of two that share nothing, its error to first order."""
        second = _as_measured(other)
        ratio = self.value / second.value
        found = self._with(
            second,
            ratio,
            1 / abs(second.value),
            abs(ratio / second.value),
            lambda table, to: self.move(second._held(table), to * second.value),
            of,
        )
        return replace(found, unit=unit)

    def times(self, factor: float, unit: str | None = None) -> Measured:
        """In other units."""
        return replace(
            self,
            value=self.value * factor,
            se=self.se * abs(factor),
            unit=self.unit if unit is None else unit,
            move=lambda table, to: self.move(table, to / factor),
        )

    def size(self, of: str = "") -> Measured:
        """The absolute value."""
        sign = -1.0 if self.value < 0 else 1.0
        found = replace(self, value=abs(self.value), move=lambda table, to: self.move(table, sign * max(to, 0.0)))
        return found.named(of) if of else found

    def less_change(self, before: Measured, of: str = "") -> Measured:
        """What of it is beyond what the last lengthening of a training has changed: this less |before - this|, with the
        error of this. What moves it moves both to the same, where training changes nothing any more."""
        left = self.minus(abs(before.value - self.value), of or f"{self.of}, less its last change by training")
        return replace(left, move=lambda table, to: self.move(before.move(table, to), to))

    def in_errors(self, of: str = "") -> Measured:
        """How many of its own standard errors it is from zero: of a quantity that is zero but for noise, where the
        limit is far above what noise gives (5, say), so that the number has no error itself."""
        sign = -1.0 if self.value < 0 else 1.0
        return Measured(
            abs(self.value) / self.se if self.se else math.inf if self.value else 0.0,
            n=self.n,
            of=of or self.of,
            unit="standard errors",
            move=lambda table, to: self.move(table, sign * to * TIGHT * self.se),  # which leaves TIGHT of the error
        )

    def at_most(self, limit: float, comparisons: int = 1) -> Verdict:
        """Whether it is at most `limit`, at 95 % by Student's t. `comparisons`: of how many like it this one is the
        worst, so that "fails" has to hold up at 5 % over their number."""
        return _judged(self, limit, "at most", comparisons)

    def at_least(self, limit: float, comparisons: int = 1) -> Verdict:
        """Whether it is at least `limit`; otherwise as `at_most`."""
        return _judged(self, limit, "at least", comparisons)

    def undecided(self, reason: Reason) -> Verdict:
        """No verdict, whatever the number."""
        return Verdict(self.value, self.se, "undecided", "", self.of, self.n, self.unit, reason=reason)

    def _held(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with this number where it is, and better known."""
        return table if self.move is _cannot_move else self.move(table, self.value)

    def _with(self, other: Measured, value: float, slope: float, other_slope: float, move: Move, of: str) -> Measured:
        first, second = (slope * self.se) ** 2, (other_slope * other.se) ** 2
        return Measured(
            value,
            math.sqrt(first + second),
            max(self.n, other.n),
            of or self.of,
            self.unit,
            _satterthwaite((first, self.df), (second, other.df)),
            move,
        )


def _as_measured(number: Measured | float) -> Measured:
    return number if isinstance(number, Measured) else Measured(float(number))


def _satterthwaite(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of variances, from those of each (Welch 1947; Satterthwaite 1946, eq. 17)."""
    total = sum(variance for variance, _ in parts)
    below = sum(variance**2 / df for variance, df in parts if variance and math.isfinite(df))
    return total**2 / below if below else math.inf


def measure(table: pd.DataFrame, of: str = "", **where: Any) -> Measured:
    """The mean over the rows that `where` selects: one for each seed, or one alone.

    Rows that have errors of their own are taken to share their data (images), whose error averaging over seeds does not
    reduce: se^2 is the mean of theirs plus, for two rows or more, sd^2 / rows, with the degrees of freedom of both.
    ValueError: no such row, or several of one seed.
    """
    rows = select(table, **where) if where else table
    if "seed" in rows and rows["seed"].duplicated().any():
        raise ValueError(f"where must select one row for each seed, got {len(rows)} for {where}; name more columns")
    return of_rows(rows, of)


def of_rows(rows: pd.DataFrame, of: str = "") -> Measured:
    """As `measure`, of these rows of a table."""
    values, n = rows["value"].to_numpy(float), len(rows)
    own = float((rows["se"].to_numpy(float) ** 2).mean()) if "se" in rows else 0.0
    between = float(values.var(ddof=1)) / n if n > 1 else 0.0
    data = int(rows["n"].min()) if "n" in rows else 1
    mean = float(values.mean())

    def move(table: pd.DataFrame, target: float) -> pd.DataFrame:
        moved = table.copy()
        moved.loc[rows.index, "value"] = target + TIGHT * (values - mean)
        if "se" in rows:
            moved.loc[rows.index, "se"] = TIGHT * rows["se"]
        return moved

    df = _satterthwaite((own, max(data - 1, 1)), (between, max(n - 1, 1)))
    name = of or (str(rows["quantity"].iloc[0]) if "quantity" in rows else "")
    unit = str(rows["unit"].iloc[0]) if "unit" in rows else ""
    return Measured(mean, math.sqrt(own + between), n if n > 1 else data, name, unit, df, move)


def each(table: pd.DataFrame, by: str | Sequence[str], of: str = "", **where: Any) -> list[Measured]:
    """`measure` for each value of the columns `by` among the rows that `where` selects, named by it."""
    columns = [by] if isinstance(by, str) else list(by)
    found = []
    for values, rows in select(table, **where).groupby(columns, sort=True):
        at = ", ".join(f"{name} {value}" for name, value in zip(columns, values, strict=True))
        found.append(measure(rows, f"{of or rows['quantity'].iloc[0]}, {at}"))
    return found


def by_seed(
    f: Callable[..., Any], *rows: pd.DataFrame, of: str, unit: str | None = None, by: str | Sequence[str] = "seed"
) -> Measured:
    """The mean over seeds of f, computed seed by seed from the values of several sets of rows, one row a seed each. Its
    error is that of these numbers, so that what the sets share (images, minibatches) is taken out. What would move it
    moves the first set. ValueError: the sets have other seeds."""
    keys = [by] if isinstance(by, str) else list(by)
    sets = [one.set_index(keys)["value"].sort_index() for one in rows]
    if not all(one.index.equals(sets[0].index) and one.index.is_unique for one in sets):
        raise ValueError(f"all must have the same {by}, one row each, got {[list(one.index) for one in sets]}")
    values = [one.to_numpy(float) for one in sets]
    found = np.asarray(f(*values), dtype=float)
    n = len(found)

    def move(table: pd.DataFrame, target: float) -> pd.DataFrame:
        moved, index = table.copy(), rows[0].set_index(keys).index
        for i, key in enumerate(sets[0].index):  # one by one, so that seeds hardly differ any more
            wanted, others = target + TIGHT * (found[i] - found.mean()), [v[i] for v in values[1:]]
            shift = _root(lambda x: float(f(values[0][i] + x, *others)) - wanted, abs(values[0][i]), of)  # noqa: B023
            moved.loc[rows[0].index[index == key], "value"] = values[0][i] + shift
        return moved

    se = float(found.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    named = unit if unit is not None else str(rows[0]["unit"].iloc[0]) if "unit" in rows[0] else ""
    return Measured(float(found.mean()), se, n, of, named, max(n - 1, 1), move)


def paired(first: pd.DataFrame, second: pd.DataFrame, of: str, by: str | Sequence[str] = "seed") -> Measured:
    """The mean difference of two sets of rows, seed by seed (see `by_seed`)."""
    return by_seed(np.subtract, first, second, of=of, by=by)


def relative(first: pd.DataFrame, second: pd.DataFrame, of: str, by: str | Sequence[str] = "seed") -> Measured:
    """How far the first is from the second, as a share of the second, seed by seed (see `by_seed`)."""
    return by_seed(lambda a, b: a / b - 1, first, second, of=of, unit="share", by=by)


def _root(g: Callable[[float], float], scale: float, of: str) -> float:
    """Where g is zero, searched outward from 0. ValueError: nowhere near."""
    from scipy.optimize import brentq

    with np.errstate(all="ignore"):
        here = g(0.0)
        for reach in np.geomspace(1e-4, 1e6, 41) * (scale or 1.0):
            for end in (-reach, reach):
                if math.isfinite(g(end)) and g(end) * here <= 0:
                    root = float(brentq(g, 0.0, end, xtol=1e-14 * reach))
                    if abs(g(root)) <= 1e-6 * abs(here):  # else it is a pole
                        return root
    raise ValueError(f"no change of the first quantity makes {of!r} that number; pass a Measured with its own move=")


def worst(several: Sequence[Measured], of: str = "", *, least: bool = False) -> Measured:
    """The largest of several (or the least). What would move it moves as many of them as it takes."""
    if not several:
        raise ValueError("there is nothing to take the worst of; pass one Measured or more")
    sign = -1.0 if least else 1.0
    found = max(several, key=lambda one: sign * one.value)

    def move(table: pd.DataFrame, target: float) -> pd.DataFrame:
        for one in several:
            if one is found or sign * one.value > sign * target:
                table = one.move(table, target)
        return table

    return replace(found, of=of or found.of, move=move)


def mean(several: Sequence[Measured], of: str = "") -> Measured:
    """The mean of several that share nothing."""
    if not several:
        raise ValueError("there is nothing to take the mean of; pass one Measured or more")
    m = len(several)
    value = sum(one.value for one in several) / m

    def move(table: pd.DataFrame, target: float) -> pd.DataFrame:
        for one in several:
            table = one.move(table, one.value + target - value)
        return table

    return Measured(
        value,
        math.sqrt(sum(one.se**2 for one in several)) / m,
        max(one.n for one in several),
        of or several[0].of,
        several[0].unit,
        _satterthwaite(*((one.se**2, one.df) for one in several)),
        move,
    )


def derived(f: Callable[..., float], *parts: Measured, of: str, unit: str) -> Measured:
    """f of several that share nothing, its error to first order, by central differences. What moves it moves the first.

    ValueError, when it is moved: no value of the first part gives that number.
    """
    values = [part.value for part in parts]
    value = float(f(*values))

    def at(i: int, x: float) -> float:
        return float(f(*values[:i], x, *values[i + 1 :]))

    steps = [1e-4 * part.se if part.se else 1e-6 * (abs(part.value) or 1.0) for part in parts]
    slopes = [(at(i, v + h) - at(i, v - h)) / (2 * h) for i, (v, h) in enumerate(zip(values, steps, strict=True))]
    variances = [(slope * part.se) ** 2 for slope, part in zip(slopes, parts, strict=True)]

    def move(table: pd.DataFrame, target: float) -> pd.DataFrame:
        for part in parts[1:]:
            table = part._held(table)
        return parts[0].move(table, values[0] + _root(lambda x: at(0, values[0] + x) - target, abs(values[0]), of))

    df = _satterthwaite(*((variance, part.df) for variance, part in zip(variances, parts, strict=True)))
    return Measured(value, math.sqrt(sum(variances)), max(part.n for part in parts), of, unit, df, move)


@dataclass(frozen=True)
class Verdict:
    """What a criterion found. The deciding number: its value, standard error, what it is `of`, n, unit, the limit and
    the side of it that was asked for. The outcome, for "holds if" the condition, for "undecided" the reason."""

    value: float
    se: float
    outcome: Outcome
    condition: str = ""
    of: str = ""
    n: int = 0
    unit: str = ""
    limit: float | None = None
    side: Side | None = None
    reason: Reason | None = None
    forge: Callable[[pd.DataFrame, bool], pd.DataFrame] | None = field(default=None, repr=False, compare=False)
    judge_again: Callable[[int], Verdict] | None = field(default=None, repr=False, compare=False)

    def given(self, condition: str) -> Verdict:
        """ "holds if" this was measured to be so, where it holds; with an empty condition, what it was."""
        held = self.outcome == "holds" and condition
        return replace(self, outcome="holds if", condition=condition) if held else self

    def provided(self, *gates: Verdict, reason: Reason) -> Verdict:
        """This verdict if all gates hold: that a treatment took, that a training has converged. Otherwise undecided for
        that reason, with the number of the first gate that does not."""
        for gate in gates:
            if gate.outcome not in ("holds", "holds if"):
                failed = replace(gate, outcome="undecided", condition="", reason=reason)
                return replace(failed, forge=self._through(gates), judge_again=None)
        again = self.judge_again
        return replace(
            self,
            forge=self._through(gates),
            judge_again=again and (lambda m: again(m).provided(*gates, reason=reason)),
        )

    def _through(self, gates: Sequence[Verdict]) -> Callable[[pd.DataFrame, bool], pd.DataFrame]:
        def forge(table: pd.DataFrame, good: bool) -> pd.DataFrame:
            for gate in gates:
                table = table if gate.outcome in ("holds", "holds if") else gate.forged(table, True)
            return self.forged(table, good)

        return forge

    def forged(self, table: pd.DataFrame, good: bool) -> pd.DataFrame:
        """The table as it would be if the number were just on the good, or on the other, side of the limit.
        ValueError: nobody knows how."""
        if self.forge is None:
            raise ValueError(f"the verdict on {self.of!r} has no limit from which to make a counterfeit; use at_most")
        return self.forge(table, good)

    def counterfeits(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """By the outcome that they should bring: tables in which the number lies three standard errors, or what
        Student's t asks for, to either side of its limit."""
        return {"holds": self.forged(table, True), "fails": self.forged(table, False)}

    def as_json(self) -> dict[str, Any]:
        """What is stored: everything that says something."""
        plain = replace(self, forge=None, judge_again=None)
        kept = ("value", "se", "outcome", "condition")
        return {k: v for k, v in asdict(plain).items() if k in kept or v not in (None, "") and (k, v) != ("n", 0)}


def _judged(what: Measured, limit: float, side: Side, comparisons: int) -> Verdict:
    sign = 1.0 if side == "at most" else -1.0
    if not (math.isfinite(what.value) and math.isfinite(what.se)):
        outcome: Outcome = "undecided"
    else:
        beyond = sign * (what.value - limit)  # above zero: on the wrong side
        within = _quantile(what.df, LEVEL) * what.se
        wrong = _quantile(what.df, LEVEL / comparisons) * what.se
        if beyond <= 0:
            outcome = "holds" if -beyond > within or what.se == 0 else "undecided"
        else:
            outcome = "fails" if beyond > wrong else "undecided"

    def forge(table: pd.DataFrame, good: bool) -> pd.DataFrame:
        far = max(3.0, 9.0 * _quantile(what.df, LEVEL / comparisons)) * TIGHT * what.se or TIGHT * (abs(limit) or 1.0)
        return what.move(table, limit - sign * far if good else limit + sign * far)

    return Verdict(
        what.value,
        what.se,
        outcome,
        "",
        what.of,
        what.n,
        what.unit,
        limit,
        side,
        "not resolved" if outcome == "undecided" else None,
        forge,
        lambda m: _judged(what, limit, side, m),
    )


def _quantile(df: float, level: float) -> float:
    """Of Student's t, two-sided."""
    return float(stdtrit(df if math.isfinite(df) else 1e9, 1 - level / 2))


def all_of(verdicts: Mapping[str, Verdict], *, partly: bool = False) -> Verdict:
    """One verdict on several questions, each with its name: as good as the worst of them, whose number it shows.

    A failure holds up only if it does at 5 % over the number of questions. `partly`: with some that hold and some that
    fail it "holds if", and the condition names them.
    """
    if not verdicts:
        raise ValueError("there is no verdict to join; pass one or more")
    strict = {
        name: one.judge_again(len(verdicts)) if one.judge_again and one.outcome == "fails" else one
        for name, one in verdicts.items()
    }
    by_outcome = {
        outcome: [name for name, one in strict.items() if one.outcome in outcomes]
        for outcome, outcomes in {
            "fails": ("fails",),
            "undecided": ("undecided",),
            "holds": ("holds", "holds if"),
        }.items()
    }
    worst_name = next(names[0] for names in by_outcome.values() if names)
    worst_one = strict[worst_name]

    def forge(table: pd.DataFrame, good: bool) -> pd.DataFrame:
        for one in strict.values() if good or partly else [worst_one]:
            stern = one.judge_again(len(verdicts)) if one.judge_again and not good else one
            table = stern.forged(table, good)
        return table

    of = f"{worst_one.of}, {worst_name}" if worst_one.of and worst_one.of != worst_name else worst_name
    joined = replace(worst_one, of=of, forge=forge, judge_again=None)
    if partly and by_outcome["fails"] and by_outcome["holds"]:
        words = {"holds": "asked of ", "undecided": "undecided of ", "fails": "not of "}
        condition = "; ".join(words[what] + ", ".join(by_outcome[what]) for what in words if by_outcome[what])
        return replace(joined, outcome="holds if", condition=condition, reason=None)
    conditions = dict.fromkeys(one.condition for one in strict.values() if one.condition)
    if joined.outcome in ("holds", "holds if") and conditions:
        return replace(joined, outcome="holds if", condition="; ".join(conditions))
    return joined
