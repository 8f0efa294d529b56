"""Finished pieces of a long computation, kept until the whole is a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vae import checkpoint

if TYPE_CHECKING:  # this module is imported where torch is not needed
    from torch import Tensor


def kept(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `compute` returns: named tensors. If the computation of a record was stopped after this piece, what it had
    found, from disk; outside of `record.compute_or_load` nothing is kept.

    `name` tells this piece from the record's others, and is part of a file's name. What `compute` reads must be
    decided by the record's parameters and code, as the record is. ValueError: the file is damaged or cannot be written.
    """
    home = checkpoint.home()
    if home is None:
        return compute()
    file = home / f"{name}.safetensors"
    if file.exists():
        tensors, about = checkpoint.read(file)
        return {name: tensors[name] for name in about["order"]}
    found = compute()
    checkpoint.write(file, found, {"order": list(found)})
    return found
