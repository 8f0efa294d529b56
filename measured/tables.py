"""Long tables: one row for each measured number, with its keys, standard error, n and unit.

The columns are keys of the caller's own (beta, seed, ...), then split, quantity, value, se, n, over, unit, as far as
they apply. `over` says what the error is over: "images", "seeds", "images and seeds", or "exact" where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

Keys = Mapping[str, Any]


class Table:
    """A long table that grows by rows. `add` and `row` return nothing; `frame()` is the whole, in the order of adding.

    >>> table = Table(split="test")
    >>> table.add([{"beta": 1.0}, {"beta": 4.0}], {"rate": np.array([[1.0, 3.0], [0.5, 0.5]])})
    >>> table.frame()[["beta", "quantity", "value", "se", "n"]].values.tolist()
    [[1.0, 'rate', 2.0, 1.0, 2], [4.0, 'rate', 0.5, 0.0, 2]]
    """

    def __init__(self, **columns: Any) -> None:
        self._columns, self._frames = columns, list[pd.DataFrame]()

    def add(self, keys: Keys | Sequence[Keys], values: Mapping[str, Any], **columns: Any) -> None:
        """Rows for one member (`keys` a mapping) or E of them, by quantity: a value of shape (E, N) as its mean over N
        with the standard error of that mean; one of shape (E,) as exact (se 0, n 1); for one member (N,) or ().

        `columns`: further columns, such as split and unit; those of the table are their defaults, and "nats" the
        unit's, "images" that of `over`.
        """
        members = [keys] if isinstance(keys, Mapping) else keys
        if isinstance(keys, Mapping):
            values = {name: value[None] if hasattr(value, "ndim") else [value] for name, value in values.items()}
        self._frames.append(tidy(members, values, **{"split": ""} | self._columns | columns))

    def row(self, quantity: str, value: float, se: float = 0.0, n: int = 1, **columns: Any) -> None:
        """One row as it stands: value, standard error, n, and everything else by name."""
        rest = {"split": "", "over": "images" if n > 1 else "exact", "unit": "nats"} | self._columns | columns
        self._frames.append(
            pd.DataFrame([rest | {"quantity": quantity, "value": float(value), "se": float(se), "n": n}])
        )

    def frame(self) -> pd.DataFrame:
        """All rows so far. ValueError: there is none."""
        if not self._frames:
            raise ValueError("the table has no rows; add some")
        return pd.concat(self._frames, ignore_index=True)


def tidy(
    members: Sequence[Keys],
    values: Mapping[str, Any],
    *,
    split: str,
    unit: str = "nats",
    over: str = "images",
    **columns: Any,
) -> pd.DataFrame:
    """The rows that `Table.add` makes: E members by quantities of shape (E, N) or (E,), arrays or tensors."""
    frames = []
    for quantity, value in values.items():
        mean, se, n = _mean_and_error(value)
        if len(mean) != len(members):
            raise ValueError(
                f"{quantity} must have shape ({len(members)},) or ({len(members)}, N), got {tuple(np.shape(value))}"
            )
        frames.append(
            pd.DataFrame(list(members)).assign(
                split=split,
                quantity=quantity,
                value=mean,
                se=se,
                n=n,
                over=over if n > 1 else "exact",
                unit=unit,
                **columns,
            )
        )
    return pd.concat(frames, ignore_index=True)


def _mean_and_error(value: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean over the last axis and its standard error, in float64. A tensor is summed by its own library, whose order of
    adding is part of the number."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double()
        spread = value.std(1).numpy() if value.ndim == 2 and value.shape[1] > 1 else None
    else:
        value = np.asarray(value, dtype=np.float64)
        spread = value.std(1, ddof=1) if value.ndim == 2 and value.shape[1] > 1 else None
    if value.ndim not in (1, 2):
        raise ValueError(f"a quantity must have shape (E,) or (E, N), got {tuple(value.shape)}; reduce the other axes")
    n = value.shape[1] if value.ndim == 2 else 1
    mean = np.asarray(value.mean(1) if value.ndim == 2 else value)
    return mean, np.zeros_like(mean) if spread is None else spread / math.sqrt(n), n


def select(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows of a long table with the given values; a list selects several, None the rows that have none.

    No such row is an error, not an empty figure.
    """
    mask = np.ones(len(table), dtype=bool)
    for column, wanted in where.items():
        several = isinstance(wanted, Iterable) and not isinstance(wanted, str)
        if wanted is None:
            mask &= table[column].isna()
        else:
            mask &= table[column].isin(list(wanted) if several else [wanted])
    if not mask.any():
        raise ValueError(
            f"where must select rows of the table, got {where}, which selects none; check names and values"
        )
    return table[mask]


def groups(table: pd.DataFrame, by: str | Sequence[str], **where: Any) -> dict[Any, pd.DataFrame]:
    """The rows that `where` selects by their value of the column `by`, ascending; several columns make tuples. Rows
    that have none are left out."""
    return dict(list(select(table, **where).groupby(by if isinstance(by, str) else list(by))))


def over_seeds(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean of `value` over seeds within each group of `by`, se = sd / sqrt(seeds) (NaN for one seed), n = seeds."""
    grouped = table.groupby(list(by), sort=False, dropna=False)["value"]
    out = grouped.agg(value="mean", sd="std", n="count").reset_index()
    return out.assign(se=out["sd"] / np.sqrt(out["n"]), over="seeds").drop(columns="sd")


def pooled(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean of `value` over seeds within each group of `by`, indexed by `by`; se of images and of seeds, n = seeds.

    Seeds evaluated on the same images share those images' error, which averaging over seeds does not reduce: se^2 is
    the mean of the rows' se^2 plus, for two seeds or more, sd^2 / seeds. With one seed the error is that of its images.
    """
    seeds = over_seeds(table, by).set_index(list(by))
    images = table.assign(square=table["se"] ** 2).groupby(list(by), sort=False, dropna=False)["square"].mean()
    between = seeds["se"].where(seeds["n"] > 1, 0.0)
    found = seeds.assign(se=np.sqrt(images.to_numpy() + between**2), over="images and seeds")
    return found[["value", "se", "n", "over"]]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its cells as they are, for a notebook's `IPython.display.Markdown`."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def scaled(table: pd.DataFrame, factor: float | np.ndarray) -> pd.DataFrame:
    """Value and error in other units: `scaled(shares, 100)` are percent."""
    return table.assign(value=table["value"] * factor, se=table["se"] * np.abs(factor))
