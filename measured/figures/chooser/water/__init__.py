"""The water level as a slider: models of one sweep, from the first to the last, on a curve and against a spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from measured.figures.chooser.shell import Chooser
from measured.figures.chooser.water.page import html
from measured.figures.chooser.water.picture import png
from measured.figures.chooser.water.sweep import Frame, Sweep, sentence

__all__ = ["Frame", "water_levels"]

MOST = 24  # stops: a finger needs room for each, and the page stays light


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

    frames: 3 to 24 of them, in the order of the slider. originals: (n, H, W), the images that each frame decodes, 0
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
    sweep = Sweep(tuple(frames), originals, -np.sort(-eigenvalues), curve, symbol, curve_name, latents)
    picture = png(sweep)
    return Chooser(html(sweep, picture), picture, "\n".join(sentence(sweep, frame) for frame in frames))


def _check(frames: Sequence[Frame], originals: np.ndarray, eigenvalues: np.ndarray, curve: np.ndarray) -> None:
    if not 3 <= len(frames) <= MOST:
        raise ValueError(f"frames must be 3 to {MOST}, got {len(frames)}; leave some out, or sweep more")
    if originals.ndim != 3 or len(originals) < 1:
        raise ValueError(f"originals must have shape (n, H, W), got {originals.shape}; reshape the pixels")
    if originals.min() < 0 or originals.max() > 1:
        raise ValueError(f"originals must lie in [0, 1], got [{originals.min():g}, {originals.max():g}]; rescale them")
    if eigenvalues.ndim != 1 or not len(eigenvalues) or not eigenvalues.max() > 0:
        raise ValueError(
            f"eigenvalues must be (X,) with one above zero, got shape {eigenvalues.shape}; pass a spectrum"
        )
    if curve.ndim != 2 or curve.shape[1] != 2 or len(curve) < 2 or (np.diff(curve[:, 0]) <= 0).any():
        raise ValueError(f"curve must be (m, 2) with distortion increasing, got shape {curve.shape}; sort its rows")
    arrays = {"originals": originals, "eigenvalues": eigenvalues, "curve": curve}
    for i, frame in enumerate(frames):
        if frame.images.shape != originals.shape:
            raise ValueError(
                f"frame {i} must have images of shape {originals.shape}, as the originals, got {frame.images.shape}"
            )
        if frame.kl.ndim != 1 or not len(frame.kl):
            raise ValueError(f"frame {i} must have kl of shape (Z,), got {frame.kl.shape}; average over data")
        if not frame.level > 0:
            raise ValueError(f"frame {i} must have a level above zero, got {frame.level}; pass beta times sigma^2")
        if not 0 <= frame.active <= len(frame.kl):
            raise ValueError(f"frame {i} must have 0 to {len(frame.kl)} active, got {frame.active}; count latents")
        arrays |= {
            f"frame {i}'s {name}": np.asarray(value) for name, value in frame._asdict().items() if name != "label"
        }
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)].flat[0]}; leave it out")
    if any(a.label == b.label for a, b in pairwise(frames)):
        raise ValueError("frames must have labels that differ, got one twice in a row; print more digits")
