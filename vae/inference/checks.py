"""What is wrong with a posterior or with what a function of z returns, told by the argument's name and the datum's
number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae.check import tensors, whole
from vae.gaussian import DiagonalGaussian, FullGaussian, Gaussian


def chunk(value: int | None) -> int | None:
    """None, or the number of samples that it is. ValueError: it is no such number."""
    return None if value is None else whole("chunk", value, 1, "leave it out to let the size decide")


def posterior(name: str, q: Gaussian) -> Gaussian:
    """q with a scale of its own for each of the B data, detached; ValueError unless it is a Gaussian over (B, Z)."""
    if not isinstance(q, DiagonalGaussian | FullGaussian):
        raise ValueError(f"{name} must be a DiagonalGaussian or a FullGaussian, got {type(q).__name__}; pass one")
    mean, scale = (part.detach() for part in tensors(name, q))
    if mean.ndim != 2 or 0 in mean.shape:
        raise ValueError(f"{name}.mean must have shape (B, Z), got {tuple(mean.shape)}; give each datum one row")
    full = isinstance(q, FullGaussian)
    shape = (*mean.shape, mean.shape[1]) if full else tuple(mean.shape)
    try:
        scale = scale.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{name}.{q._fields[1]} must have shape {shape} to go with the means {tuple(mean.shape)}, "
            f"got {tuple(scale.shape)}; give each datum one"
        ) from None
    for field, part in zip(q._fields, (mean, scale), strict=True):
        bad = (~part.isfinite()).flatten(1).any(1)
        if bad.any():
            raise ValueError(f"{name}.{field} must be finite, got NaN or infinity for {named(bad)}; check its encoder")
    if full:
        bad = (scale.triu(1) != 0).flatten(1).any(1) | (scale.diagonal(dim1=-2, dim2=-1) <= 0).any(1)
        if bad.any():
            raise ValueError(
                f"{name}.scale_tril must be lower triangular with a positive diagonal, got another for {named(bad)}; "
                "pass torch.linalg.cholesky of the covariance"
            )
    return type(q)(mean, scale)


def returned(name: str, value: Tensor, z: Tensor) -> Tensor:
    """What the function `name` returned for z (S, B, Z). ValueError unless it is (S, B), with a gradient if z asks for
    one.
    """
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != tuple(z.shape[:2]):
        raise ValueError(
            f"{name} must return shape {tuple(z.shape[:2])} for z of shape {tuple(z.shape)}, got {shape}; "
            "sum over pixels, keep samples and data"
        )
    if torch.is_grad_enabled() and z.requires_grad and not value.requires_grad:
        raise ValueError(
            f"{name} must be differentiable in z, got a result without a gradient; "
            "compute it in PyTorch from z itself, without no_grad or detach"
        )
    return value


def refuse_nan(value: Tensor) -> None:
    """ValueError if values of log_joint (S, B) are NaN or plus infinity. Minus infinity is a density of zero."""
    bad = (value.isnan() | (value == math.inf)).any(0)
    if bad.any():
        raise ValueError(
            f"log_joint must not be NaN or +inf, got {value[:, bad].sum(0)[:3].tolist()} for {named(bad)}; "
            "check the decoder far from the mean of q"
        )


def refuse_empty(log_w: Tensor) -> None:
    """ValueError if all of a datum's log-weights (S, B) are minus infinity."""
    empty = (log_w == -math.inf).all(0)
    if empty.any():
        raise ValueError(
            f"log_joint must be above -inf somewhere, got -inf at all {len(log_w)} samples of {named(empty)}; "
            "check x and where q lies"
        )


def named(bad: Tensor) -> str:
    """The data that a mask (B,) picks, in words."""
    rows = bad.nonzero().flatten().tolist()
    return f"datum {rows[0]}" if len(rows) == 1 else f"data {rows[:5]}{' and more' if len(rows) > 5 else ''}"
