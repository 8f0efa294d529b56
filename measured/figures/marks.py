"""What is drawn again and again: curves with error bars, rows of dots, names beside points. Tidy frames in.

A frame has the columns `value` and `se`, as `measured.tables` makes it; its keys are columns or, as in what `pooled`
returns, levels of the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from measured.figures.style import BLUE, INK, ORANGE, SKY

Name = tuple[str, float, float, Any]  # text, x, y, colour: what `curves` returns and `label` writes
Styles = Mapping[Any, Any]  # value of a column -> colour, or arguments of `Axes.errorbar`

SPLITS: dict[str, dict[str, Any]] = {
    "train": {"color": ORANGE, "marker": "s", "label": "training"},
    "validation": {"color": SKY, "marker": "^", "label": "validation"},
    "test": {"color": BLUE, "marker": "o", "label": "test"},
}
SPLIT_LINES: dict[str, dict[str, Any]] = {  # where colour says something else
    "train": {"linestyle": "--", "mfc": "white", "label": "training"},
    "validation": {"linestyle": ":", "mfc": "white", "label": "validation"},
    "test": {"linestyle": "-", "label": "test"},
}


def series(ax: Axes, frame: pd.DataFrame, x: str, *, color: Any = INK, **style: Any) -> None:
    """One curve: `value` against `x`, with error bars of one standard error; `style` as for `Axes.errorbar`."""
    frame = _flat(frame, x).sort_values(x, kind="stable")
    ax.errorbar(frame[x], frame["value"], frame["se"], color=color, **{"marker": "o"} | style)


def curves(
    ax: Axes,
    frame: pd.DataFrame,
    x: str,
    by: str | Sequence[str],
    styles: Styles | Sequence[Styles],
    *,
    dodge: float = 0.0,
    **style: Any,
) -> list[Name]:
    """One curve with error bars for each value of `by`, in the order of `styles`; returns their names for `label`.

    frame: one row for each point, pooled over seeds; every row is drawn. x, by: columns or levels of the index.
    styles: value of `by` -> a colour or a mapping of arguments of `Axes.errorbar`, among them `label`, which is the
    value itself unless given; a style that no row has is left out. Several columns in `by` take as many styles, which
    are laid over each other, and their labels are joined by a comma. dodge: how far each curve is moved to the right
    of the one before so that error bars do not hide each other, all of them centred: a share of x on a logarithmic axis
    (set it first), else units of x. style: of all curves. Returns (label, x, y, colour) of each curve's last point.

    >>> import pandas as pd
    >>> from measured.figures import ORANGE, SPLIT_LINES, SPLITS, curves, panels
    >>> long = [("train", "rate", 1, 3.0), ("train", "rate", 4, 1.0), ("test", "rate", 1, 2.5)]
    >>> long += [("test", "rate", 4, 0.8)]
    >>> frame = pd.DataFrame(long, columns=["split", "quantity", "beta", "value"]).assign(se=0.1)
    >>> _, (left, right) = panels(2)
    >>> names = curves(left, frame, "beta", "split", SPLITS)  # then left.legend(), or label(left, names)
    >>> names[-1]
    ('test', 4.0, 0.8, '#0072B2')
    >>> names = curves(right, frame, "beta", ["quantity", "split"], [{"rate": ORANGE}, SPLIT_LINES])
    >>> [name[0] for name in names]
    ['rate, training', 'rate, test']

    ValueError: rows of a value without a style; no row at all; several seeds at one x, which are to be pooled first.
    """
    columns = [by] if isinstance(by, str) else list(by)
    layers = [styles] if isinstance(styles, Mapping) else list(styles)
    frame = _flat(frame, x, *columns)
    if len(columns) != len(layers):
        raise ValueError(f"styles must be {len(columns)}, one for each column of by, got {len(layers)}")
    for column, layer in zip(columns, layers, strict=True):
        if strange := [value for value in frame[column].unique() if value not in layer]:
            raise ValueError(f"styles must have each {column}, got none for {strange}; add it, or select other rows")
    if frame.empty:
        raise ValueError("frame must have rows, got none; check what was selected")
    drawn: list[tuple[pd.DataFrame, dict[str, Any]]] = []
    for key in product(*layers):
        mask = np.logical_and.reduce([frame[c] == value for c, value in zip(columns, key, strict=True)])
        rows = frame[mask].sort_values(x, kind="stable")
        if "seed" in (*rows, *rows.index.names) and rows[x].duplicated().any():
            raise ValueError(f"frame must have one row for each {x} of {key}, got several seeds; pool them first")
        look = [_style(layer[value]) for layer, value in zip(layers, key, strict=True)]
        text = ", ".join(filter(None, (str(s.get("label", v)) for s, v in zip(look, key, strict=True))))
        if len(rows):
            drawn.append((rows, {"color": INK, "marker": "o"} | style | {k: v for s in look for k, v in s.items()}))
            drawn[-1][1]["label"] = text
    names = []
    for i, (rows, arguments) in enumerate(drawn):
        at, shift = rows[x].to_numpy(), dodge * (i - (len(drawn) - 1) / 2)
        if dodge:
            at = at * (1 + shift) if ax.get_xscale() == "log" else at + shift
        ax.errorbar(at, rows["value"], rows["se"], **arguments)
        seen = np.flatnonzero(~np.isnan(values := rows["value"].to_numpy(dtype=float)))
        end = seen[-1] if len(seen) else -1
        names.append((arguments["label"], _number(at[end]), float(values[end]), arguments["color"]))
    return names


def pairs(
    ax: Axes, frame: pd.DataFrame, x: str, y: str, by: str, styles: Styles, *, errors: bool = True, **style: Any
) -> None:
    """One quantity against another, with both errors: for each value of `by`, quantity `y` over quantity `x`.

    frame: what `pooled` returns, with a level `quantity`; points are paired by the other levels, in their order. by,
    styles: as in `curves`. errors: whether bars are drawn. ValueError: a value of `by` without a style.
    """
    keys = [name for name in frame.index.names if name != "quantity"]
    flat = frame.reset_index()
    wide = flat[flat["quantity"].isin([x, y])].pivot(index=keys, columns="quantity", values=["value", "se"])
    of = wide.index.get_level_values(by)
    if strange := [value for value in of.unique() if value not in styles]:
        raise ValueError(f"styles must have each {by}, got none for {strange}; add it, or select other rows")
    for value, look in styles.items():
        part = wide[of == value]
        if len(part):
            bars = {"xerr": part["se"][x], "yerr": part["se"][y]} if errors else {}
            arguments = {"color": INK, "marker": "o", "label": str(value)} | style | _style(look) | bars
            ax.errorbar(part["value"][x], part["value"][y], **arguments)


def ellipse(ax: Axes, covariance: np.ndarray, mean: Sequence[float] = (0.0, 0.0), **style: Any) -> None:
    """The one-sigma contour of a normal of two dimensions, axes of equal scale; `style` as for `Axes.plot`."""
    angle = np.linspace(0, 2 * np.pi, 200)
    edge = np.linalg.cholesky(covariance) @ np.stack([np.cos(angle), np.sin(angle)])
    ax.plot(edge[0] + mean[0], edge[1] + mean[1], **style)
    ax.set_aspect("equal")


def rows(
    ax: Axes,
    frame: pd.DataFrame,
    names: Mapping[Any, str],
    by: str | None = None,
    styles: Styles | None = None,
    *,
    exact: pd.Series | None = None,
    colors: Sequence[Any] | None = None,
    dodge: float = 0.0,
    **style: Any,
) -> None:
    """One row for each of `names`, from top to bottom, with the measured values as dots with horizontal error bars.

    frame: what `pooled` returns; its index, less `by`, is the key of a row. names: key -> what is written at the row
    ("" for nothing); a tuple where the index has several levels, in their order. by, styles: as in `curves`, several
    dots in a row, told apart by colour and marker (call `ax.legend()`). exact: by key, drawn as a grey bar. colors: one
    for each row, instead. dodge: the height between the dots of one row, of which a row has 1.

    >>> import pandas as pd
    >>> from measured.figures import BLUE, RED, panels, rows
    >>> from measured.tables import pooled
    >>> long = [("MLP", "KL", 2.0), ("MLP", "I(X;Z)", 1.5), ("MADE", "KL", 0.1), ("MADE", "I(X;Z)", 0.0)]
    >>> table = pd.DataFrame(long, columns=["decoder", "quantity", "value"]).assign(se=0.1, seed=0)
    >>> _, (ax,) = panels()
    >>> looks = {"KL": BLUE, "I(X;Z)": {"color": RED, "marker": "s", "mfc": "none"}}
    >>> rows(ax, pooled(table, ["decoder", "quantity"]), {"MLP": "MLP", "MADE": "autoregressive"}, "quantity", looks)

    ValueError: a row of `names` that the frame lacks or has twice, a value of `by` without a style, too few colors.
    """
    keys = list(names)
    if colors is not None and len(colors) != len(keys):
        raise ValueError(f"colors must be {len(keys)}, one for each row, got {len(colors)}")
    if by is None:
        parts: list[tuple[pd.DataFrame, dict[str, Any]]] = [(frame, {})]
    else:
        frame = frame.reset_index(by) if by in frame.index.names else frame
        styles = styles or {}
        if strange := [value for value in _flat(frame, by)[by].unique() if value not in styles]:
            raise ValueError(f"styles must have each {by}, got none for {strange}; add it, or select other rows")
        parts = [(frame[frame[by] == v], {"label": str(v)} | _style(s)) for v, s in styles.items()]
        parts = [(part, look) for part, look in parts if len(part)]
    for i, (part, look) in enumerate(parts):
        if lacking := [key for key in keys if key not in part.index]:
            raise ValueError(f"frame must have a row for each of names, got none for {lacking}; its index is the key")
        part = part.loc[keys]
        if len(part) != len(keys):
            raise ValueError(f"frame must have one row for each of names, got {len(part)} for {len(keys)}; pool them")
        at = np.arange(len(keys)) + dodge * (i - (len(parts) - 1) / 2)
        arguments = {"color": BLUE, "marker": "o", "linestyle": "none"} | style | look
        if colors is None:
            ax.errorbar(part["value"], at, xerr=part["se"], **arguments)
        else:
            for y, value, se, color in zip(at, part["value"], part["se"], colors, strict=True):
                ax.errorbar(value, y, xerr=se, **arguments | {"color": color})
    if exact is not None:
        for y, key in enumerate(keys):
            ax.plot([exact[key]] * 2, [y - 0.3, y + 0.3], color="#b0b0b0", lw=4, solid_capstyle="butt", zorder=1)
    ax.set_yticks(range(len(keys)), list(names.values()))
    ax.set_ylim(len(keys) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def label(ax: Axes, names: Sequence[Name], *, dx: float = 7, dy: float = 0, gap: float = 12) -> None:
    """Writes (text, x, y, colour) beside the points, off by (dx, dy) points and at least `gap` points apart.

    Call it when the axes' limits and scales are final. A point that the axes do not show, such as 0 on a logarithmic
    axis, is labelled at the nearest edge.
    """
    ax.figure.canvas.draw()  # settles the layout, from which the distances follow
    points = 72 / ax.figure.dpi
    box = ax.get_window_extent()
    placed = []
    for text, x, y, color in names:
        with np.errstate(invalid="ignore", divide="ignore"):
            place = np.asarray(ax.transData.transform((x, y)), dtype=float)
        if np.isnan(place).any():
            raise ValueError(f"names must have finite points, got ({x}, {y}) for {text!r}; leave it out")
        placed.append((np.clip(place, box.min, box.max), text, color))
    lowest = -np.inf
    for place, text, color in sorted(placed, key=lambda one: one[0][1]):
        height = place[1] * points
        lowest = max(height, lowest + gap)
        ax.annotate(
            text, tuple(ax.transAxes.inverted().transform(place)), (dx, lowest - height + dy), xycoords="axes fraction",
            textcoords="offset points", color=color, va="center", fontsize=10, annotation_clip=False,
        )  # fmt: skip


def _flat(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The frame with `columns` as columns, taken from its index where they are there."""
    if levels := [name for name in columns if name in frame.index.names and name not in frame]:
        frame = frame.reset_index(levels)
    if lacking := [name for name in (*columns, "value", "se") if name not in frame]:
        raise ValueError(f"frame must have the columns {lacking}, got {list(frame.columns)}")
    return frame


def _style(style: Any) -> dict[str, Any]:
    return dict(style) if isinstance(style, Mapping) else {"color": style}


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float, np.number)) else value
