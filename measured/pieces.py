"""Finished pieces of a long computation, kept until the whole is a record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from measured.record.paths import replaced


def kept(place: Path | None, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What `compute` returns: named arrays or tensors. If the computation of a record was stopped after this piece,
    what it had found, from disk; where `place` is None nothing is kept.

    `place` is `config.unfinished(name)`, with another name for each piece of a part. What `compute` reads must be
    decided by the record's parameters and code, as the record is. ValueError: the file is damaged or cannot be written.
    """
    from safetensors.numpy import load, save

    if place is None:
        return dict(compute())
    for file in place.parent.glob("*.piece"):
        name, digest, _ = file.name.rsplit(".", 2)
        if name != place.name:
            continue
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{file} is damaged; delete it, and what it held is computed again")
        return {_name(key): _value(key, array) for key, array in sorted(load(content).items())}
    found = dict(compute())
    content = save({_key(i, name, value): _array(value) for i, (name, value) in enumerate(found.items())})
    replaced(place.with_name(f"{place.name}.{hashlib.sha256(content).hexdigest()}.piece"), content)
    return found


def _array(value: Any) -> np.ndarray:
    plain = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    return np.ascontiguousarray(plain).reshape(plain.shape)  # which would turn a number into a list of one


def _key(number: int, name: str, value: Any) -> str:
    """Order, kind and name, all of which come back."""
    return f"{number:04}|{'tensor' if hasattr(value, 'detach') else 'array'}|{name}"


def _name(key: str) -> str:
    return key.split("|", 2)[2]


def _value(key: str, array: np.ndarray) -> Any:
    if key.split("|", 2)[1] == "array":
        return array
    import torch  # which whoever stored a tensor has

    return torch.from_numpy(array)
