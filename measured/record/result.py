"""What a notebook's `compute` returns. Alone in its file: every record's key reaches it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Result(NamedTuple):
    """A long table, and the arrays that figures need (2 MB at most)."""

    table: pd.DataFrame
    arrays: Mapping[str, np.ndarray] = MappingProxyType({})
