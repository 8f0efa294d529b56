"""What is wrong with an argument, told before any work starts: its name, its value, a remedy.

Each returns its argument as what it should be, NumPy's numbers and arrays turned into Python's and PyTorch's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Numbers = Tensor | ArrayLike  # what is taken where numbers are: a tensor, an array, nested numbers, one number
Parts = TypeVar("Parts", bound=tuple)


def whole(name: str, value: Any, least: int = 1, remedy: str = "pass a positive integer") -> int:
    """`value` as an int. ValueError unless it is an integer, NumPy's included, of at least `least`."""
    found = integer(value)
    if found is None or found < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}; {remedy}")
    return found


def integer(value: Any) -> int | None:
    """`value` as an int, or None if it is no integer: a bool, a float or text."""
    try:
        return None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        return None


def number(name: str, value: Any, must: str, good: Callable[[float], bool], remedy: str) -> float:
    """`value` as a float. ValueError, saying what it must, unless it is a number and `good`."""
    try:
        found = None if isinstance(value, bool | np.bool_ | str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or not good(found):
        raise ValueError(f"{name} must {must}, got {value!r}; {remedy}")
    return found


def finite(name: str, value: Any, remedy: str = "pass a number") -> float:
    """`value` as a float. ValueError unless it is finite."""
    return number(name, value, "be finite", math.isfinite, remedy)


def positive(name: str, value: Any, remedy: str = "pass a number above zero") -> float:
    """`value` as a float. ValueError unless it is positive and finite."""
    return number(name, value, "be positive and finite", lambda v: math.isfinite(v) and v > 0, remedy)


def not_negative(name: str, value: Any, remedy: str = "pass zero or more") -> float:
    """`value` as a float. ValueError unless it is finite and at least zero."""
    return number(name, value, "be finite and not negative", lambda v: math.isfinite(v) and v >= 0, remedy)


def one_of(name: str, value: Any, options: Iterable[str]) -> str:
    """`value` itself. ValueError unless it is one of the options."""
    *others, last = map(repr, options)
    if not isinstance(value, str) or repr(value) not in (*others, last):
        of = "them" if len(others) > 1 else "the two"
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}; pass one of {of}")
    return value


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: what it probably meant, then what there is."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1, cutoff=0.4)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(known) or 'none'}"


def tensor(name: str, value: Any, dtype: torch.dtype | None = None, like: Tensor | None = None) -> Tensor:
    """A tensor of what is given: a tensor, an array, a frame or nested numbers, in `dtype`, or with the dtype and on
    the device of `like`. Data are not copied where that can be avoided. ValueError: it holds something else."""
    if like is not None:
        dtype = like.dtype
    if not isinstance(value, Tensor) and hasattr(value, "__array__"):
        # PyTorch takes an array neither backwards nor, without a warning, if it is read-only.
        value = np.require(value, requirements=["C", "W"])
    try:
        found = torch.as_tensor(value, dtype=dtype, device=None if like is None else like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be a tensor, an array or nested numbers, got {type(value).__name__} ({error}); convert it"
        ) from None
    return found


def floats(name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """As `tensor`, and integers as float64 where there is nothing to be like."""
    found = tensor(name, value, like=like)
    return found if found.is_floating_point() else found.double()


def tensors(name: str, parts: Parts) -> Parts:
    """A named tuple of tensors, such as a posterior: its tensors, arrays or numbers as floating-point tensors."""
    return type(parts)(*(floats(f"{name}.{field}", part) for field, part in zip(parts._fields, parts, strict=True)))  # type: ignore[attr-defined]


def rows(name: str, value: Any, columns: int | None = None, like: Tensor | None = None) -> Tensor:
    """Data as a tensor (N, X), whatever it holds: this can be asked within `torch.vmap`. ValueError: another shape."""
    found = tensor(name, value, like=like)
    shape = tuple(found.shape)
    if len(shape) != 2:
        flat = f"flatten images to ({shape[0]}, {math.prod(shape[1:])}): {name}.reshape(len({name}), -1)"
        raise ValueError(
            f"{name} must be of shape (N, X), got {shape}; {flat if len(shape) > 2 else 'give each datum one row'}"
        )
    if columns is not None and shape[1] != columns:
        raise ValueError(f"{name} must have the {columns} columns of the model, got shape {shape}; pass its data")
    return found


def finite_rows(name: str, value: Any) -> Tensor:
    """As `rows`. ValueError too if they hold NaN or infinity."""
    found = rows(name, value)
    if not found.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity; remove what is missing, or fill it")
    return found
