"""The picture of all images, for whatever shows no HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from measured.figures import STYLE
from measured.figures.chooser.plane import COLORS, NAMES, SHADES, Facts, Panel
from measured.figures.chooser.shell import reduced, ticks


def png(panels: Sequence[Panel], facts: Sequence[Facts]) -> bytes:
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE | {"savefig.bbox": None}):  # type: ignore[arg-type]
        figure = Figure(figsize=(2.4 * columns, 2.65 * rows + 0.4), dpi=75)
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        for ax in grid.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, panel, fact in zip(grid.flat, panels, facts, strict=False):
            for rings, shade in zip(panel.regions, SHADES, strict=True):
                path = Path.make_compound_path(*(Path(ring, closed=True) for ring in rings))
                ax.add_patch(PathPatch(path, color=shade, lw=0))
            for ring, color, style in zip(panel.ellipses, COLORS, ("-", "--", ":"), strict=True):
                ax.plot(*ring.T, color=color, ls=style, lw=1.5)
            (x, y), half = panel.centre, panel.half
            ax.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
            ax.set_xticks(ticks(x - half, x + half))
            ax.set_yticks(ticks(y - half, y + half))
            ax.tick_params(labelsize=8)
            gaps = f"amort. {fact.amortization:.3f}, approx. {fact.approximation:.3f}"
            ax.set_title(f"{fact.label}\n{gaps}", fontsize=8.5, fontweight="normal")
        lines = grid.flat[0].get_lines()
        figure.legend(lines, NAMES, loc="outside lower center", ncols=3, fontsize=9)
        figure.savefig(drawn := io.BytesIO(), format="png", dpi=75)
    return reduced(drawn)
