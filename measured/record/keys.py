"""A record's key: a hash of everything that can change its result, and of nothing else.

That is the parameters, the content of the data and files that they name, and the code that `compute` reaches (see
`code`). Libraries' versions are recorded, not hashed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from measured.config import Config
from measured.record.code import code_key, digest


def identity(part: str, config: Config, compute: Callable, before: Sequence[str] = ()) -> dict[str, Any]:
    """What the key hashes: part, parameters that count, digests of the data that these name, code; `before`: the keys
    of the stages that it is given."""
    code = code_key(compute, type(config))
    return {
        "part": part,
        "parameters": config.key_parameters(),
        "data": config.data_digests(),
        "code": digest([code, *before]) if before else code,
    }


def key(part: str, config: Config, compute: Callable) -> str:
    """The key under which the record of `part` is stored."""
    return digest(identity(part, config, compute))
