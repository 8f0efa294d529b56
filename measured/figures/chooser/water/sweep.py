"""What is seen of a sweep, and what is said of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from measured.figures.chooser.shell import number

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


class Sweep(NamedTuple):
    frames: tuple[Frame, ...]
    originals: np.ndarray
    eigenvalues: np.ndarray  # largest first
    curve: np.ndarray
    symbol: str
    curve_name: str
    latents: str

    @property
    def points(self) -> np.ndarray:
        """(n, 2): distortion and rate of each frame."""
        return np.array([[frame.distortion, frame.kl.sum()] for frame in self.frames])

    @property
    def limits(self) -> tuple[float, float]:
        """The largest distortion and rate to draw: all points are seen, and the curve as far as they go."""
        distortion, rate = self.points.max(0)
        return 1.06 * max(distortion, float(self.curve[-1, 0])), 1.06 * float(rate) or 1.0

    @property
    def drawn(self) -> np.ndarray:
        """The eigenvalues that are drawn: those of some height beside the lowest water, and at least eight."""
        lowest = min(frame.level for frame in self.frames)
        seen = max(8, int((self.eigenvalues > lowest / 3).sum()))
        return np.maximum(self.eigenvalues[: min(seen, DRAWN)], 0.0)

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest variance to draw."""
        levels = [frame.level for frame in self.frames]
        return min(levels) / 2, 1.6 * max(*levels, float(self.eigenvalues[0]))

    @property
    def deepest(self) -> float:
        """The largest KL of any latent, nats."""
        return max(float(frame.kl.max()) for frame in self.frames) or 1.0


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    return number(value, max(0, 2 - math.floor(math.log10(abs(value)))))


def facts(sweep: Sweep, frame: Frame) -> dict[str, str]:
    """What is said of a frame, by name."""
    rate = float(frame.kl.sum())
    found = {} if sweep.symbol == "T" else {"water level T": digits(frame.level)}
    return found | {
        "rate": f"{number(rate, 2)} nats, {number(rate / math.log(2), 2)} bits",
        "distortion": digits(frame.distortion),
        f"active {sweep.latents}": f"{frame.active} of {len(frame.kl)}",
    }


def sentence(sweep: Sweep, frame: Frame) -> str:
    said = ", ".join(f"{name} {value}" for name, value in facts(sweep, frame).items())
    return f"{sweep.symbol} = {frame.label}: {said}"
