"""A run's table, arrays and provenance on disk, found again by everything that can change them."""

from vae.record.keys import code_key, key
from vae.record.memo import combined, compute_or_load
from vae.record.paths import cache_root, project_root
from vae.record.result import Result
from vae.record.store import Record, read, write

__all__ = [
    "Record",
    "Result",
    "cache_root",
    "code_key",
    "combined",
    "compute_or_load",
    "key",
    "project_root",
    "read",
    "write",
]
