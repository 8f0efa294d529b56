"""Figures to choose from: one image or one model of a sweep at a time, by mouse, finger or keyboard. No torch.

They are HTML and CSS alone: no script, nothing fetched, so they work from a file, in a stored notebook and without a
kernel. Choices are form elements, which browsers let people reach by keyboard and read out. A browser that cannot hide
what is not chosen, or a viewer that strips styles, shows one after another; where there is no HTML at all (and, for the
slider, on paper) a picture stands in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from measured.figures.chooser.page import html
from measured.figures.chooser.picture import png
from measured.figures.chooser.plane import MASSES, ROLES, Facts, panel, sentence
from measured.figures.chooser.shell import Chooser
from measured.figures.chooser.water import Frame, water_levels
from measured.figures.chooser.water.sweep import digits

__all__ = ["Chooser", "Frame", "Gaussians", "digits", "posteriors", "water_levels"]

MOST = 12  # images: more are a table's work, and the page stays light


class Gaussians(NamedTuple):
    """One two-dimensional Gaussian for each of n images, and the ELBO that it attains."""

    mean: np.ndarray  # (n, 2)
    covariance: np.ndarray  # (n, 2, 2)
    elbo: np.ndarray  # (n,) nats


def posteriors(
    images: np.ndarray,
    labels: Sequence[str],
    z1: np.ndarray,
    z2: np.ndarray,
    log_joint: np.ndarray,
    log_p: np.ndarray,
    *,
    encoder: Gaussians,
    diagonal: Gaussians,
    full: Gaussians,
) -> Chooser:
    """The posteriors of n images in a plane of latents, each with three Gaussians and what they lose, in nats.

    images: (n, H, W), 0 white to 1 black, n at most 12. labels: n short names, read out by screen readers: "a 7".
    z1, z2: (n, G1), (n, G2), increasing, each image's own window, which holds the posterior and has some 60 points or
    more across it. log_joint: (n, G1, G2), entry [i, a, b] at (z1[i, a], z2[i, b]), up to a constant per
    image. log_p: (n,) nats. encoder, diagonal, full: q(z|x), the best Gaussian with a diagonal covariance, and the
    best with any. The plot is cropped to what there is to see. Numbers are printed as they are, negative gaps too.

    ValueError: a wrong shape, more than 12 images, a grid that does not increase or cuts the posterior, a covariance
    that is not positive definite, anything not finite (log_joint may be -inf).
    """
    guesses = (encoder, diagonal, full)
    _check(images, labels, z1, z2, log_joint, log_p, guesses)
    panels, facts = [], []
    for i, label in enumerate(labels):
        drawn = panel(z1[i], z2[i], log_joint[i], [(q.mean[i], q.covariance[i]) for q in guesses])
        if drawn.cut:
            raise ValueError(
                "z1 and z2 must hold the posterior, got a window that cuts "
                f"its likeliest {MASSES[0]:.0%} for image {i}; widen it"
            )
        panels.append(drawn)
        elbo = [float(q.elbo[i]) for q in guesses]
        below = tuple(float(log_p[i]) - value for value in elbo)
        facts.append(Facts(label, float(log_p[i]), below, elbo[1] - elbo[0], below[1]))
    picture = png(panels, facts)
    return Chooser(html(images, panels, facts, picture), picture, "\n".join(map(sentence, facts)))


def _check(
    images: np.ndarray,
    labels: Sequence[str],
    z1: np.ndarray,
    z2: np.ndarray,
    log_joint: np.ndarray,
    log_p: np.ndarray,
    guesses: Sequence[Gaussians],
) -> None:
    n = len(images)
    if images.ndim != 3 or not 1 <= n <= MOST:
        raise ValueError(f"images must have shape (n, H, W), n from 1 to {MOST}, got {images.shape}; pass some of them")
    if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got [{images.min():g}, {images.max():g}]; rescale them")
    if len(labels) != n:
        raise ValueError(f"labels must be {n}, one for each image, got {len(labels)}; name each")
    wanted = {"z1": (z1, (n, *z1.shape[1:2])), "z2": (z2, (n, *z2.shape[1:2])), "log_p": (log_p, (n,))}
    wanted["log_joint"] = (log_joint, (n, *z1.shape[1:2], *z2.shape[1:2]))
    for role, q in zip(ROLES, guesses, strict=True):
        wanted |= {f"{role}.mean": (q.mean, (n, 2)), f"{role}.covariance": (q.covariance, (n, 2, 2))}
        wanted[f"{role}.elbo"] = (q.elbo, (n,))
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape} for {n} images, got {array.shape}; see the docstring")
        bad = np.isnan(array) | (array == np.inf) if name == "log_joint" else ~np.isfinite(array)
        if bad.any():
            raise ValueError(
                f"{name} must be finite, got {array[bad][0]} for image {np.argwhere(bad)[0, 0]}; leave it out"
            )
    if (bad := np.isneginf(log_joint).all((1, 2))).any():
        first = np.flatnonzero(bad)[0]
        raise ValueError(
            f"log_joint must be above -inf somewhere, got -inf everywhere for image {first}; move its window"
        )
    for name, grid in (("z1", z1), ("z2", z2)):
        if grid.shape[1] < 3 or (np.diff(grid) <= 0).any():
            raise ValueError(f"{name} must increase over 3 points or more, got {grid.shape[1]}; sort each image's grid")
    for role, q in zip(ROLES, guesses, strict=True):
        if (bad := (lowest := np.linalg.eigvalsh(q.covariance)[:, 0]) <= 0).any():
            found = f"eigenvalue {lowest[bad][0]:g} for image {np.flatnonzero(bad)[0]}"
            raise ValueError(
                f"{role}.covariance must be positive definite, got {found}; pass variances, not logarithms"
            )
