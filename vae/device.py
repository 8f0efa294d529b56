"""Where to compute."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import torch
from pydantic import AfterValidator

from vae.check import nearest

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def resolve_device(name: str) -> torch.device:
    """The device meant by `name`: "auto" is CUDA where there is one, else the CPU; never MPS, which lacks
    float64, unless it is asked for. ValueError: unknown name, or hardware that is not there."""
    if name not in get_args(DeviceName):
        raise ValueError(f"device {name!r} is unknown; {nearest(name, get_args(DeviceName))}")
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    if name == "cuda" and not cuda or name == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device {name!r} is absent: PyTorch {torch.__version__} sees none on this machine; "
            "use 'auto' or 'cpu', or install a build of PyTorch that supports it"
        )
    return torch.device(name)


def _available(name: str) -> str:
    resolve_device(name)
    return name


Device = Annotated[DeviceName, AfterValidator(_available)]  # a parameter that must be called `device`
