"""What is wrong with an argument, told before any work starts: its name, its value, a remedy."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole(name: str, value: Any, least: int, remedy: str) -> int:
    """`value` as an int. ValueError unless it is an integer, NumPy's included, of at least `least`."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}; {remedy}")
    return number


def positive(name: str, value: float, remedy: str = "pass a number above zero") -> float:
    """`value` as a float. ValueError unless it is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}; {remedy}")
    return float(value)


def tensor(value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of what is given: a tensor, an array or nested numbers. Data are not copied where that can be
    avoided."""
    return torch.as_tensor(value, dtype=dtype)


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: what it probably meant, then what there is."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known) or 'none'}"
