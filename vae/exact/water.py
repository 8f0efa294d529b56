"""The linear VAE's optimum while the level beta sigma^2 rises over the data's spectrum: reverse water-filling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vae.check import Numbers, floats, positive, rows, tensors, whole
from vae.exact.linear_gaussian import PrincipalAxes, linear_vae
from vae.exact.shannon import gaussian_rate_distortion


def linear_decoded(axes: PrincipalAxes, x: Numbers, levels: Sequence[float]) -> Tensor:
    """Data x (N, X) as the best linear VAE of the data with these principal axes decodes its posterior means, a latent
    for each direction, at each level: (S, N, X), float64. Along an axis of eigenvalue lambda the share 1 - level /
    lambda of a datum is kept, or nothing.
    """
    values, vectors, mean = tensors("axes", axes)
    at = floats("levels", [positive("levels", level) for level in levels]).double()
    kept = (1 - at[:, None] / values.clamp(min=1e-12)).clamp(min=0)
    return mean + ((rows("x", x, len(mean)).double() - mean) @ vectors * kept[:, None]) @ vectors.mT


def rising_water(axes: PrincipalAxes, images: Numbers, stops: int) -> dict[str, np.ndarray]:
    """For a slider, from a level at which nearly all directions are encoded to beyond collapse: "level" (S,), each
    latent's "kl" (S, X), nats, "distortion" and how many are "active" (S,), the images (N, X) in [0, 1] "decoded"
    (S, N, X) as bytes; the "images" themselves as bytes, the "eigenvalues" (X,), and Shannon's "curve" for a Gaussian
    source with them, distortion and rate (80, 2).
    """
    values, top = axes.eigenvalues, float(axes.eigenvalues[0])
    levels = np.geomspace(top / 400, 1.15 * top, whole("stops", stops, 2))
    optima = [linear_vae(values, 1.0, level, len(values)) for level in levels]
    curve = gaussian_rate_distortion(values, theta=np.geomspace(levels[0], top, 80))
    shown = rows("images", images, len(values)).double()
    return {
        "level": levels,
        "kl": torch.stack([optimum.kl for optimum in optima]).float().numpy(),
        "distortion": np.array([optimum.distortion for optimum in optima]),
        "active": np.array([optimum.active for optimum in optima]),
        "decoded": _bytes(linear_decoded(axes, shown, levels.tolist())),
        "images": _bytes(shown),
        "eigenvalues": values.numpy(),
        "curve": torch.stack([curve.distortion, curve.rate], 1).numpy(),
    }


def _bytes(x: Tensor) -> np.ndarray:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
