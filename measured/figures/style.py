"""The house style: colours, sizes, axes.

Colours are those of Okabe & Ito (2008), told apart by colour-blind readers; lines are labelled where they end, so
that a figure needs no legend to be read; the background is white in light and dark pages alike.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
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

_OWN: dict[str, Any] = {  # over seaborn's "whitegrid"
    "savefig.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 170,
    "savefig.bbox": "tight",
    "figure.constrained_layout.use": True,
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it: the same letters on every machine
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.bottom": True,
    "ytick.left": True,
    "xtick.major.size": 3.5,
    "ytick.major.size": 3.5,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.minor.size": 2,
    "ytick.minor.size": 2,
    "xtick.minor.width": 0.6,
    "ytick.minor.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "errorbar.capsize": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "legend.title_fontsize": 10,
}


def use_style() -> None:
    """Makes the house style this process's default, for the figures of a notebook, inline ones too.

    It starts from matplotlib's own defaults: what a user's matplotlibrc or MPLBACKEND says (LaTeX, a window on a
    screen that is not there) changes no run.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")
    mpl.rcdefaults()
    sns.set_theme(style="whitegrid", palette=list(CYCLE), rc=_OWN)


@contextmanager
def styled() -> Iterator[None]:
    """The house style within the block alone: `with styled(): ...`."""
    with mpl.rc_context():
        mpl.rcdefaults()
        sns.set_theme(style="whitegrid", palette=list(CYCLE), rc=_OWN)
        yield


def panels(n: int = 1, *, width: float = 7.2, height: float = 3.9) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels side by side, in inches; always a list of axes."""
    figure, axes = plt.subplots(1, n, figsize=(width, height), squeeze=False)
    return figure, list(axes[0])


def gradient(n: int) -> list[Any]:
    """`n` ordered colours, dark to light, distinguishable in grey: for an ordered key such as beta."""
    return list(mpl.colormaps["viridis"](np.linspace(0.0, 0.88, n)))


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
