"""A run's table, arrays and provenance on disk, found again by everything that can change them."""

from measured.record.code import code_key
from measured.record.keys import key
from measured.record.memo import Stage, Staged, combined, compute_or_load
from measured.record.paths import cache_root, project_root
from measured.record.result import Result
from measured.record.store import Record, read, write

__all__ = [
    "Record",
    "Result",
    "Stage",
    "Staged",
    "cache_root",
    "code_key",
    "combined",
    "compute_or_load",
    "key",
    "project_root",
    "read",
    "write",
]
