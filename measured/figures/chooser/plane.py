"""Posteriors in the plane of two latents, each with three Gaussians, to choose from by their images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from measured.figures.chooser.shell import Chooser, Stop, choose, number
from measured.figures.style import BLUE, GREEN, RED

MASSES = (0.99, 0.9, 0.5)  # of the posterior, in its regions of highest density
SHADES = ("#ececec", "#d2d2d2", "#b2b2b2")
ELLIPSE = 0.9  # of each Gaussian
RADIUS = float(np.sqrt(-2 * np.log(1 - ELLIPSE)))  # standard deviations, in two dimensions
ROLES = {"encoder": ("encoder", RED, "-"), "diagonal": ("best diagonal", BLUE, "--"), "full": ("best full", GREEN, ":")}


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

    images: (n, H, W), 0 white to 1 black, n from 2 to 24. labels: n short names, read out by screen readers: "a 7"; a
    name that comes again is numbered. z1, z2: (n, G1), (n, G2), increasing, each image's own window, which holds the
    posterior and has some 60 points or more across it. log_joint: (n, G1, G2), entry [i, a, b] at (z1[i, a], z2[i, b]),
    up to a constant per image. log_p: (n,) nats. encoder, diagonal, full: q(z|x), the best Gaussian with a diagonal
    covariance, and the best with any. The plot is cropped to what there is to see. Numbers are printed as they are,
    negative gaps too.

    ValueError: a wrong shape, too many images, a grid that does not increase or cuts the posterior, a covariance that
    is not positive definite, anything not finite (log_joint may be -inf).
    """
    guesses = {"encoder": encoder, "diagonal": diagonal, "full": full}
    _check(labels, z1, z2, log_joint, log_p, guesses)
    below = np.stack([log_p - q.elbo for q in guesses.values()], 1)

    def draw(i: int) -> Figure:
        figure = Figure(figsize=(3.6, 4.5))
        plane(figure.subplots(), z1[i], z2[i], log_joint[i], [(q.mean[i], q.covariance[i]) for q in guesses.values()])
        lines = [
            Line2D([], [], color=color, ls=line, label=f"{name}: {number(value, 3)}")
            for (name, color, line), value in zip(ROLES.values(), below[i], strict=True)
        ]
        figure.legend(handles=lines, loc="outside lower left", title="ELBO below ln p(x), nats", alignment="left")
        return figure

    stops = []
    for i, label in enumerate(labels):
        again = list(labels[:i]).count(label)
        losses = ", ".join(f"{name} {number(v, 3)}" for (name, *_), v in zip(ROLES.values(), below[i], strict=True))
        said = (
            f"ln p(x) = {number(log_p[i], 2)}, amortization gap {number(below[i, 0] - below[i, 1], 3)}, "
            f"approximation gap {number(below[i, 1], 3)} nats; ELBO below ln p(x): {losses}"
        )
        stops.append(Stop(f"{label} ({again + 1})" if again else label, partial(draw, i), said))
    masses = ", ".join(f"{share:.0%}" for share in sorted(MASSES)[:-1]) + f" and {max(MASSES):.0%}"
    note = (
        f"Grey: the likeliest {masses} of the posterior. Each ellipse holds {ELLIPSE:.0%} of its Gaussian. The "
        "amortization gap: encoder against best diagonal; the approximation gap: best diagonal against the posterior."
    )
    title = "Posteriors in the plane of two latents"
    return choose(stops, title=title, legend="Image", thumbnails=list(images), note=note)


def plane(
    ax: Axes, z1: np.ndarray, z2: np.ndarray, log_joint: np.ndarray, guesses: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    """A density (G1, G2) in grey, by the mass that its regions hold, and an ellipse for each (mean, covariance), with
    its name for a legend."""
    log_density = log_joint - log_joint.max()
    lowest = regions(z1, z2, log_density)
    for level, shade in zip(lowest, SHADES, strict=True):
        ax.contourf(z1, z2, np.maximum(log_density, -1e3).T, levels=[level, 1], colors=[shade])
    held = log_density >= lowest[0]
    points = [np.array([z[held.any(axis)][[0, -1]] for z, axis in ((z1, 1), (z2, 0))]).T]
    for (mean, covariance), (name, color, line) in zip(guesses, ROLES.values(), strict=True):
        variances, axes = np.linalg.eigh(covariance)
        width, height = 2 * RADIUS * np.sqrt(variances)
        angle = np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))
        style = {"fill": False, "edgecolor": color, "ls": line, "lw": 1.8, "label": name}
        ax.add_patch(Ellipse(tuple(mean), width, height, angle=angle, **style))
        reach = RADIUS * np.sqrt(np.diag(covariance))
        points.append(np.stack([mean - reach, mean + reach]))
    low, high = np.concatenate(points).min(0), np.concatenate(points).max(0)
    centre, half = (low + high) / 2, 0.54 * float((high - low).max())
    ax.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.set(xlabel="$z_1$", ylabel="$z_2$")


def regions(z1: np.ndarray, z2: np.ndarray, log_density: np.ndarray) -> np.ndarray:
    """The log-density above which each of MASSES lies, on the grid."""
    mass = (np.exp(log_density) * np.outer(np.gradient(z1), np.gradient(z2))).ravel()
    order = np.argsort(-log_density, axis=None)
    within = np.cumsum(mass[order]) / mass.sum()
    return log_density.ravel()[order[np.searchsorted(within, MASSES)]]


def _check(
    labels: Sequence[str],
    z1: np.ndarray,
    z2: np.ndarray,
    log_joint: np.ndarray,
    log_p: np.ndarray,
    guesses: dict[str, Gaussians],
) -> None:
    n, across, up = len(labels), *z1.shape[1:2], *z2.shape[1:2]
    wanted = {"z1": (z1, (n, across)), "z2": (z2, (n, up)), "log_p": (log_p, (n,))}
    wanted["log_joint"] = (log_joint, (n, across, up))
    for role, q in guesses.items():
        wanted |= {f"{role}.mean": (q.mean, (n, 2)), f"{role}.covariance": (q.covariance, (n, 2, 2))}
        wanted[f"{role}.elbo"] = (q.elbo, (n,))
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape} for {n} labels, got {array.shape}; see the docstring")
        bad = np.isnan(array) | (array == np.inf) if name == "log_joint" else ~np.isfinite(array)
        if bad.any():
            place = np.argwhere(bad)[0, 0]
            raise ValueError(f"{name} must be finite, got {array[bad][0]} for image {place}; leave it out")
    for name, grid in (("z1", z1), ("z2", z2)):
        if grid.shape[1] < 3 or (np.diff(grid) <= 0).any():
            raise ValueError(f"{name} must increase over 3 points or more, got {grid.shape[1]}; sort each image's grid")
    for role, q in guesses.items():
        if (least := np.linalg.eigvalsh(q.covariance)[:, 0]).min() <= 0:
            got = f"eigenvalue {least.min():g} for image {least.argmin()}"
            raise ValueError(f"{role}.covariance must be positive definite, got {got}; pass variances, not logarithms")
    for i, values in enumerate(log_joint):
        if np.isneginf(values).all():
            raise ValueError(f"log_joint must be above -inf somewhere, got -inf everywhere for image {i}; move z1, z2")
        edge = max(values[[0, -1]].max(), values[:, [0, -1]].max()) - values.max()
        if edge >= regions(z1[i], z2[i], values - values.max())[0]:
            got = f"a window that cuts its likeliest {MASSES[0]:.0%} for image {i}"
            raise ValueError(f"z1 and z2 must hold the posterior, got {got}; widen it")
