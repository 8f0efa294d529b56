"""A decoder as per-datum inference sees it: log p(x, z) as a function of z, with x inside.

`log_joint(z)` takes z (S, B, Z) and returns nats (S, B): sample s of datum b, whose x the function has closed over. No
datum's value may depend on another's z. Whose decoder it is and what it is made of does not matter, as long as PyTorch
can differentiate it in z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vae.check import tensor
from vae.gaussian import LOG_2PI, Gaussian
from vae.inference import checks
from vae.models.vae import Model, check_generative

LogJoint = Callable[[Tensor], Tensor]

# Rows (samples x data) in one call of a log_joint: more is no faster on a CPU, where buffers should fit the caches.
ROWS = {"cpu": 2**13, "cuda": 2**18}


def of(model: Model, x: Any) -> LogJoint:
    """log p(x|z) + log N(z; 0, I) of a `VAE`, or of anything else with its `log_lik`: x (B, X), a tensor or an array.

    ValueError: the model's decoder reads x itself, so that it has no p(x) whose log could be asked for.
    """
    check_generative(model, "have a log p(x, z)")
    data = tensor("x", x)
    return lambda z: model.log_lik(data, z) - 0.5 * (z.square() + LOG_2PI).sum(-1)


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
                f"log_joint must be finite at the mean of q, and its gradient with it, got {found} for "
                f"{checks.named(bad)}; check x, the decoder and where q lies"
            )


def values(log_joint: LogJoint, z: Tensor, chunk: int | None = None) -> Tensor:
    """log_joint at z (S, B, Z), nats (S, B), `chunk` samples at a time, without autograd; NaN is refused."""
    with torch.no_grad():
        value = torch.cat([_call(log_joint, part) for part in z.split(_chunk(z, chunk))])
    checks.refuse_nan(value)
    return value


def value_and_gradient(log_joint: LogJoint, z: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
    """log_joint at z (S, B, Z) and its gradient in z, nats (S, B) and (S, B, Z); what is not finite is passed on."""
    found, slopes = [], []
    for part in z.detach().split(_chunk(z, chunk)):
        with torch.enable_grad():
            leaf = part.requires_grad_()
            value = _call(log_joint, leaf)
            slopes.append(torch.autograd.grad(value.sum(), leaf)[0])
        found.append(value.detach())
    return torch.cat(found), torch.cat(slopes)


def _call(log_joint: LogJoint, z: Tensor) -> Tensor:
    return checks.returned("log_joint", log_joint(z), z)


def rows(device: torch.device) -> int:
    """How many rows to evaluate at a time on a device."""
    return ROWS.get(device.type, ROWS["cpu"])


def _chunk(z: Tensor, chunk: int | None) -> int:
    return chunk if chunk is not None else max(1, rows(z.device) // z.shape[1])
