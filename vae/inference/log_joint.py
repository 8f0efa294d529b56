"""A decoder as per-datum inference sees it: log p(x, z) as a function of z, with x inside.

`log_joint(z)` takes z (S, B, Z) and returns nats (S, B): sample s of datum b, whose x the function has closed over. No
datum's value may depend on another's z. Whose decoder it is and what it is made of does not matter, as long as PyTorch
can differentiate it in z.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vae.gaussian import LOG_2PI, DiagonalGaussian, FullGaussian, Gaussian
from vae.models.vae import Model, check_generative

LogJoint = Callable[[Tensor], Tensor]

# Rows (samples x data) in one call of a log_joint: more is no faster on a CPU, where buffers should fit the caches.
ROWS = {"cpu": 2**13, "cuda": 2**18}


def of(model: Model, x: Tensor) -> LogJoint:
    """log p(x|z) + log N(z; 0, I) of a `VAE`, or of anything else with its `log_lik`: x (B, X).

    ValueError: the model's decoder reads x itself, so that it has no p(x) whose log could be asked for.
    """
    check_generative(model, "have a log p(x, z)")
    return lambda z: model.log_lik(x, z) - 0.5 * (z.square() + LOG_2PI).sum(-1)


def whole(name: str, value: int, least: int, remedy: str) -> None:
    """Raises ValueError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}; {remedy}")


def chunked(chunk: int | None) -> None:
    """Raises ValueError unless `chunk` is None or a number of samples."""
    if chunk is not None:
        whole("chunk", chunk, 1, "leave it out to let the size decide")


def checked(name: str, q: Gaussian) -> Gaussian:
    """q with a scale of its own for each of the B data, detached; ValueError unless it is a Gaussian over (B, Z)."""
    if not isinstance(q, DiagonalGaussian | FullGaussian):
        raise ValueError(f"{name} must be a DiagonalGaussian or a FullGaussian, got {type(q).__name__}; pass one")
    mean, scale = q[0].detach(), q[1].detach()
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
    for field, tensor in zip(q._fields, (mean, scale), strict=True):
        bad = (~tensor.isfinite()).flatten(1).any(1)
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


def probe(log_joint: LogJoint, q: Gaussian, *, differentiable: bool = True) -> None:
    """ValueError unless log_joint is (1, B) and finite at the means of q, and so is its gradient if it needs one."""
    z = q.mean[None]
    if differentiable:
        value, gradient = value_and_gradient(log_joint, z)
    else:
        with torch.no_grad():
            value, gradient = _call(log_joint, z), torch.zeros_like(z)
    for found, bad in (
        (f"{value[0, ~value[0].isfinite()][:3].tolist()}", ~value[0].isfinite()),
        ("a gradient that is not", (~gradient[0].isfinite()).any(-1)),
    ):
        if bad.any():
            raise ValueError(
                f"log_joint must be finite at the mean of q, and its gradient with it, got {found} for {named(bad)}; "
                "check x, the decoder and where q lies"
            )


def values(log_joint: LogJoint, z: Tensor, chunk: int | None = None) -> Tensor:
    """log_joint at z (S, B, Z), nats (S, B), `chunk` samples at a time, without autograd; NaN is refused."""
    with torch.no_grad():
        value = torch.cat([_call(log_joint, part) for part in z.split(_chunk(z, chunk))])
    refuse_nan(value)
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


def value_and_gradient(log_joint: LogJoint, z: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """log_joint at z (S, B, Z) and its gradient in z, nats (S, B) and (S, B, Z); what is not finite is passed on."""
    found, slopes = [], []
    for part in z.detach().split(_chunk(z, chunk)):
        with torch.enable_grad():
            leaf = part.requires_grad_()
            value = _call(log_joint, leaf)
            if not value.requires_grad:
                raise ValueError(
                    "log_joint must be differentiable in z, got a result without a gradient; "
                    "compute it in PyTorch from z itself, without no_grad or detach"
                )
            slopes.append(torch.autograd.grad(value.sum(), leaf)[0])
        found.append(value.detach())
    return torch.cat(found), torch.cat(slopes)


def _call(log_joint: LogJoint, z: Tensor) -> Tensor:
    value = log_joint(z)
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != tuple(z.shape[:2]):
        raise ValueError(
            f"log_joint must return shape {tuple(z.shape[:2])} for z of shape {tuple(z.shape)}, got {shape}; "
            "sum over pixels, keep samples and data"
        )
    return value


def rows(device: torch.device) -> int:
    """How many rows to evaluate at a time on a device."""
    return ROWS.get(device.type, ROWS["cpu"])


def _chunk(z: Tensor, chunk: int | None) -> int:
    return chunk if chunk is not None else max(1, rows(z.device) // z.shape[1])


def named(bad: Tensor) -> str:
    """The data that a mask (B,) picks, in words."""
    rows = bad.nonzero().flatten().tolist()
    return f"datum {rows[0]}" if len(rows) == 1 else f"data {rows[:5]}{' and more' if len(rows) > 5 else ''}"
