"""Models of one sweep by their water level: on a rate-distortion curve, against a spectrum, and what they decode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from measured.figures.chooser.shell import Chooser, Stop, choose, number
from measured.figures.style import BLUE, INK, RED, SKY

DRAWN = 64  # eigenvalues at most


class Frame(NamedTuple):
    """One stop of the slider: one model of a sweep, measured on one set of data.

    label: the value of what the slider moves ("0.4"). level: the water level beta * sigma^2, in units of the data's
    variance. kl: (Z,) nats, each latent's, mean over data, in any order; their sum is the rate. distortion: squared
    error summed over pixels, mean over data. active: how many latents are in use. images: (n, H, W) decoded, shown
    clipped to [0, 1].
    """

    label: str
    level: float
    kl: np.ndarray
    distortion: float
    active: int
    images: np.ndarray


def water_levels(
    frames: Sequence[Frame],
    originals: np.ndarray,
    eigenvalues: np.ndarray,
    curve: np.ndarray,
    *,
    symbol: str,
    curve_name: str,
    latents: str = "latents",
) -> Chooser:
    """A slider over a sweep: the point on the rate-distortion curve, the spectrum above water, the decoded images.

    frames: 2 to 24 of them, in the order of the slider. originals: (n, H, W), the images that each frame decodes, 0
    white to 1 black; n of 4 to 10 fit a phone. eigenvalues: (X,) of the data's 1/N covariance, in any order; of those
    drawn are the ones that some water reaches, 64 at most. curve: (m, 2), distortion and rate of what the points
    are held against, distortion increasing. symbol: what the slider moves ("β"). curve_name: what the
    curve is ("Gaussian source"). latents: what is counted ("latents", "directions").

    Through each frame's point runs a line of slope -1/(2 level), the one on which R + D/(2 level) is constant: a curve
    that dips below it has a better model for that level.

    ValueError: a wrong shape, too few or too many frames, a curve that does not increase, a level that is not positive,
    anything not finite.
    """
    _check(frames, originals, eigenvalues, curve)
    spectrum = np.maximum(-np.sort(-eigenvalues), 0.0)
    levels = [frame.level for frame in frames]
    points = np.array([[frame.distortion, frame.kl.sum()] for frame in frames])
    right, top = 1.06 * max(points[:, 0].max(), curve[-1, 0]), 1.06 * points[:, 1].max() or 1.0
    drawn = spectrum[: min(DRAWN, max(8, int((spectrum > min(levels) / 3).sum())))]
    bottom, surface = min(levels) / 2, 1.6 * max(*levels, spectrum[0])
    deepest = 1.05 * max(float(frame.kl.max()) for frame in frames) or 1.0

    def draw(frame: Frame) -> list[Figure]:
        here = (frame.distortion, float(frame.kl.sum()))
        ax = (plot := Figure(figsize=(3.6, 3.4))).subplots()
        ax.plot(*curve.T, color=INK, label=curve_name)
        ax.plot(*points.T, "o", mfc="white", mec=INK, label="the sweep")
        ax.axline(here, slope=-0.5 / frame.level, color=RED, ls="--", lw=1.4, label="equal R + D/(2T)")
        ax.plot(*here, "o", color=RED, mec=INK, ms=9)
        ax.set(xlim=(0, right), ylim=(0, top), xlabel="distortion (squared error, summed)", ylabel="rate, nats")
        ax.legend(loc="upper right")

        above, below = (bars := Figure(figsize=(3.6, 3.4))).subplots(2, 1, height_ratios=(3, 2))
        edges, dry = np.arange(len(drawn) + 1) + 0.5, int((drawn > frame.level).sum())
        above.stairs(drawn[dry:], edges[dry:], baseline=bottom, fill=True, color="#cfcfcf")
        above.stairs(drawn[:dry], edges[: dry + 1], baseline=bottom, fill=True, color=BLUE)
        above.axhspan(bottom, frame.level, color=SKY, alpha=0.2, lw=0)
        above.axhline(frame.level, color=RED)
        above.text(edges[-1], frame.level, " T", va="center", color=RED)
        above.set(yscale="log", ylim=(bottom, surface), ylabel="variance of data")
        above.minorticks_off()
        above.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        costs = -np.sort(-frame.kl)[: len(drawn)]
        below.stairs(costs, edges[: len(costs) + 1], fill=True, color=BLUE)
        below.set(ylim=(0, deepest), ylabel="KL, nats", xlabel=f"principal direction (of {len(spectrum)}); latent")
        for part in (above, below):
            part.set_xlim(edges[0], edges[-1])
            part.grid(axis="x", visible=False)
        return [plot, bars, _strip("decoded", frame.images), _strip("data", originals)]

    stops = [Stop(f"{symbol} = {f.label}", partial(draw, f), _said(f, symbol, latents)) for f in frames]
    note = "Variances are pale below the water level T. KL: what each latent costs, the dearest first."
    title = f"Rate, distortion and water level, by {symbol}"
    return choose(stops, title=title, legend=symbol, first=(len(stops) - 1) // 2, note=note)


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return number(value, max(0, 2 - math.floor(math.log10(abs(value))))) if value else "0"


def _strip(name: str, images: np.ndarray) -> Figure:
    """Images side by side."""
    strip = np.concatenate([np.pad(image, ((0, 0), (0, 1))) for image in images], 1)[:, :-1]
    figure = Figure(figsize=(3.6, 2.7 * strip.shape[0] / strip.shape[1] + 0.1))
    figure.set_layout_engine("none")
    ax = figure.add_axes((0.25, 0, 0.75, 1))
    ax.imshow(1 - strip.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="none")
    ax.text(-0.02, 0.5, name, ha="right", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return figure


def _said(frame: Frame, symbol: str, latents: str) -> str:
    rate = float(frame.kl.sum())
    level = "" if symbol == "T" else f"water level T {digits(frame.level)}, "
    return (
        f"{level}rate {number(rate, 2)} nats, {number(rate / math.log(2), 2)} bits, "
        f"distortion {digits(frame.distortion)}, active {latents} {frame.active} of {len(frame.kl)}"
    )


def _check(frames: Sequence[Frame], originals: np.ndarray, eigenvalues: np.ndarray, curve: np.ndarray) -> None:
    arrays = {"originals": (originals, 3), "eigenvalues": (eigenvalues, 1), "curve": (curve, 2)}
    for i, f in enumerate(frames):
        own = {"level": (f.level, 0), "kl": (f.kl, 1), "distortion": (f.distortion, 0), "images": (f.images, 3)}
        arrays |= {f"frames[{i}].{name}": (np.asarray(value), axes) for name, (value, axes) in own.items()}
    for name, (array, axes) in arrays.items():
        if array.ndim != axes or not array.size:
            raise ValueError(f"{name} must have {axes} axes and some entries, got shape {array.shape}; reshape it")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}; leave it out")
    if originals.min() < 0 or originals.max() > 1:
        raise ValueError(f"originals must lie in [0, 1], got [{originals.min():g}, {originals.max():g}]; rescale them")
    if not eigenvalues.max() > 0:
        raise ValueError(f"eigenvalues must have one above zero, got {eigenvalues.max():g} at most; pass a spectrum")
    if curve.shape[1] != 2 or len(curve) < 2 or (np.diff(curve[:, 0]) <= 0).any():
        raise ValueError(f"curve must be (m, 2) with distortion increasing, got shape {curve.shape}; sort its rows")
    for i, f in enumerate(frames):
        if f.images.shape != originals.shape:
            raise ValueError(
                f"frames[{i}].images must have shape {originals.shape}, as originals, got {f.images.shape}"
            )
        if not f.level > 0:
            raise ValueError(f"frames[{i}].level must be above zero, got {f.level}; pass beta times sigma^2")
