"""What is seen of one image, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
from contourpy import FillType, contour_generator

from measured.figures import BLUE, GREEN, RED
from measured.figures.chooser.shell import number

MASSES = (0.99, 0.9, 0.5)  # of the posterior, in its regions of highest density
SHADES = ("#ececec", "#d2d2d2", "#b2b2b2")
ELLIPSE = 0.9  # of each Gaussian
RADIUS = float(np.sqrt(-2 * np.log(1 - ELLIPSE)))  # standard deviations, in two dimensions
ROLES = ("encoder", "diagonal", "full")
NAMES = ("encoder", "best diagonal", "best full")
COLORS = (RED, BLUE, GREEN)


class Panel(NamedTuple):
    """One image's plane, in latent units."""

    regions: list[list[np.ndarray]]  # for each of MASSES, closed outlines (points, 2); a hole runs the other way
    ellipses: list[np.ndarray]  # for each of ROLES, closed outlines (points, 2)
    centre: np.ndarray  # (2,) of the square that is shown
    half: float  # of its side
    cut: bool  # the window's edge runs through the outermost region


class Facts(NamedTuple):
    """What is said of one image, in nats."""

    label: str
    log_p: float
    below: tuple[float, ...]  # how far the ELBO of each of ROLES is below log p(x)
    amortization: float
    approximation: float


def panel(
    z1: np.ndarray, z2: np.ndarray, log_joint: np.ndarray, guesses: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Panel:
    log_density = log_joint - log_joint.max()
    mass = (np.exp(log_density) * np.outer(np.gradient(z1), np.gradient(z2))).ravel()
    order = np.argsort(-log_density, axis=None)
    within = np.cumsum(mass[order]) / mass.sum()
    drawn = np.maximum(log_density, -1e3)  # no outline runs there, and arithmetic with -inf would
    contours = contour_generator(z1, z2, drawn.T, fill_type=FillType.OuterOffset)
    levels = [log_density.ravel()[order[np.searchsorted(within, share)]] for share in MASSES]
    regions = []
    for level in levels:
        points, offsets = cast(tuple[list[np.ndarray], list[np.ndarray]], contours.filled(level, np.inf))
        regions.append([p[a:b] for p, o in zip(points, offsets, strict=True) for a, b in pairwise(o)])
    edge = max(log_density[[0, -1]].max(), log_density[:, [0, -1]].max())
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = RADIUS * np.stack([np.cos(turn), np.sin(turn)])
    ellipses = [mean + (np.linalg.cholesky(covariance) @ circle).T for mean, covariance in guesses]
    seen = np.concatenate([ring for rings in regions for ring in rings] + ellipses)
    low, high = seen.min(0), seen.max(0)
    return Panel(regions, ellipses, (low + high) / 2, 0.54 * float((high - low).max()), bool(edge >= levels[0]))


def sentence(facts: Facts) -> str:
    return (
        f"{facts.label}: ln p(x) = {number(facts.log_p, 2)}, amortization gap {number(facts.amortization, 3)}, "
        f"approximation gap {number(facts.approximation, 3)} nats"
    )
