"""Figures in one house style: tidy frames in, matplotlib out. No torch.

`style` has the colours, `use_style` and the axes; `marks` what is drawn on them (`curves`, `rows`, `label`); `chooser`
figures to choose from, one drawing at a time. Start in `marks`.
"""

from measured.figures.marks import SPLIT_LINES, SPLITS, curves, ellipse, label, pairs, rows, series
from measured.figures.style import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    gradient,
    log_axis,
    name_axes,
    panels,
    styled,
    use_style,
)

__all__ = [
    "BLUE",
    "CYCLE",
    "GREEN",
    "GREY",
    "INK",
    "ORANGE",
    "PURPLE",
    "RED",
    "SKY",
    "SPLITS",
    "SPLIT_LINES",
    "YELLOW",
    "curves",
    "ellipse",
    "gradient",
    "label",
    "log_axis",
    "name_axes",
    "pairs",
    "panels",
    "rows",
    "series",
    "styled",
    "use_style",
]
