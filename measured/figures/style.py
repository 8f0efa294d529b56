"""House style for figures: tidy frames in, matplotlib out. Never imports torch.

Colours are those of Okabe & Ito (2008), told apart by colour-blind readers; lines are labelled where they end, so
that a figure needs no legend to be read; the background is white in light and dark pages alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, INK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#1a1a1a",
    "#767676",
)
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, INK)

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 170,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "errorbar.capsize": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


def use_style() -> None:
    """Makes the house style this process's default, for the figures of a notebook, inline ones too."""
    mpl.rcParams.update(STYLE)  # type: ignore[arg-type]


def panels(n: int = 1, *, width: float = 7.2, height: float = 3.9) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels side by side, in inches; always a list of axes."""
    figure, axes = plt.subplots(1, n, figsize=(width, height), squeeze=False)
    return figure, list(axes[0])


def gradient(n: int) -> list[Any]:
    """`n` ordered colours, dark to light, distinguishable in grey: for an ordered key such as beta."""
    return list(mpl.colormaps["viridis"](np.linspace(0.0, 0.88, n)))


def series(ax: Axes, frame: pd.DataFrame, x: str, *, color: Any = INK, **style: Any) -> None:
    """`value` against column `x`, with error bars of one standard error; `style` as for `Axes.errorbar`."""
    frame = frame.sort_values(x)
    ax.errorbar(frame[x], frame["value"], frame["se"], color=color, **{"marker": "o"} | style)


def label(
    ax: Axes, names: Sequence[tuple[str, float, float, Any]], *, dx: float = 7, dy: float = 0, gap: float = 12
) -> None:
    """Writes (text, x, y, colour) beside the points, off by (dx, dy) points and at least `gap` points apart.

    Call it when the axes' limits are final.
    """
    ax.figure.canvas.draw()  # settles the layout, from which the distances follow
    points = 72 / ax.figure.dpi
    lowest = -np.inf
    for text, x, y, color in sorted(names, key=lambda name: name[2]):
        height = float(ax.transData.transform((x, y))[1]) * points
        lowest = max(height, lowest + gap)
        ax.annotate(
            text, (x, y), (dx, lowest - height + dy), textcoords="offset points", color=color, va="center", fontsize=10,
            annotation_clip=False,
        )  # fmt: skip


def dots(
    ax: Axes, frame: pd.DataFrame, exact: pd.Series | None, rows: Mapping[str, str], *, colors: Sequence[Any]
) -> None:
    """One row for each of `rows` (key -> name): the measured `value` with its error as a dot, `exact` as a grey bar."""
    for y, (key, color) in enumerate(zip(rows, colors, strict=True)):
        if exact is not None:
            ax.plot([exact[key]] * 2, [y - 0.3, y + 0.3], color="#b0b0b0", lw=4, solid_capstyle="butt")
        ax.errorbar(frame["value"][key], y, xerr=frame["se"][key], marker="o", color=color)
    ax.set_yticks(range(len(rows)), list(rows.values()))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def log_axis(ax: Axes, axis: str, ticks: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers at `ticks`."""
    getattr(ax, f"set_{axis}scale")("log")
    target = getattr(ax, f"{axis}axis")
    target.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    target.set_minor_locator(NullLocator())
    getattr(ax, f"set_{axis}ticks")(list(ticks))


def name_axes(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Axis labels, with units, and a title that says what is seen."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title)


def select(table: pd.DataFrame, **where: Any) -> pd.DataFrame:
    """The rows of a tidy table with the given values; a list selects several, None the rows that have none.

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
