"""The picture of some stops, for whatever shows no HTML."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from measured.figures import BLUE, INK, RED, STYLE
from measured.figures.chooser.shell import reduced, tick
from measured.figures.chooser.water.sweep import Sweep, digits

SHOWN = 5  # stops


def png(sweep: Sweep) -> bytes:
    stops = sorted({round(k) for k in np.linspace(0, len(sweep.frames) - 1, min(SHOWN, len(sweep.frames)))})
    rows = 1 + len(stops)
    with mpl.rc_context(STYLE | {"savefig.bbox": None}):  # type: ignore[arg-type]
        figure = Figure(figsize=(9.0, 3.6 + 0.62 * rows), dpi=75)
        FigureCanvasAgg(figure)
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.6, 0.62 * rows))[:, 0]
        plane, spectrum = above.subplots(1, 2)
        most = sweep.limits
        plane.plot(*sweep.curve.T, color=INK, label=sweep.curve_name)
        plane.plot(*sweep.points.T, "o", mfc="white", mec=INK, label="the sweep")
        for i in stops:
            text = f"{sweep.symbol} = {sweep.frames[i].label}"
            plane.annotate(text, sweep.points[i], (7, 3), textcoords="offset points", fontsize=9, color=RED)
        plane.plot(*sweep.points[stops].T, "o", color=RED)
        plane.set(xlim=(0, most[0]), ylim=(0, most[1]), xlabel="distortion", ylabel="rate, nats")
        plane.legend(fontsize=8, loc="upper right")
        index = np.arange(1, len(sweep.drawn) + 1)
        spectrum.bar(index, np.maximum(sweep.drawn, sweep.span[0]), color=BLUE, width=0.7)
        for i in stops:
            spectrum.axhline(sweep.frames[i].level, color=RED, lw=1)
            spectrum.text(index[-1] + 0.7, sweep.frames[i].level, "T = " + digits(sweep.frames[i].level), fontsize=8)
        spectrum.set(yscale="log", ylim=sweep.span, xlim=(0.4, index[-1] + 0.6), ylabel="variance")
        spectrum.set_xlabel("principal direction")
        spectrum.grid(axis="x", visible=False)
        spectrum.yaxis.set_major_formatter(lambda value, _: tick(value))
        axes = below.subplots(rows, 2, width_ratios=(1, 2.4), squeeze=False)
        names = ["data"] + [
            f"{sweep.symbol} = {f.label}: R {f.kl.sum():.2f}, D {digits(f.distortion)}, {f.active} active"
            for f in (sweep.frames[i] for i in stops)
        ]
        strips = [sweep.originals, *(sweep.frames[i].images for i in stops)]
        for (left, right), name, images in zip(axes, names, strips, strict=True):
            left.set_axis_off()
            right.set_axis_off()
            left.text(1, 0.5, name, ha="right", va="center", fontsize=9, transform=left.transAxes)
            strip = np.concatenate([np.pad(image, ((0, 0), (0, 1))) for image in images], 1)
            right.imshow(1 - strip.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            right.set_anchor("W")
        figure.savefig(drawn := io.BytesIO(), format="png", dpi=75)
    return reduced(drawn, 48)
