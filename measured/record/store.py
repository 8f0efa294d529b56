"""A record on disk: table.csv, arrays.npz where figures need arrays, record.json. Written whole or not at all,
and verified byte by byte when read."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from measured.record.code import digest
from measured.record.paths import cache_root, pending

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ARRAYS_LIMIT = 2 * 2**20
FACTS = {
    "part",
    "key",
    "parameters",
    "data",
    "code",
    "commit",
    "dirty",
    "versions",
    "device",
    "processor",
    "threads",
    "seconds",
    "peak_memory_mb",
    "created",
    "files",
    "digest",
}


@dataclass(frozen=True)
class Record:
    """One part's result. `provenance` is the content of record.json; `drifted`: published, and the code has
    changed since."""

    part: str
    table: pd.DataFrame
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]
    path: Path
    status: Literal["computed", "loaded", "published"] = "loaded"
    drifted: bool = False


def check_part(part: str) -> str:
    """`part` if it reads "<experiment>/<part>". ValueError: it does not."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9_-]*", part):
        raise ValueError(
            f'part must be "<experiment>/<part>" in small letters, digits, - and _, got {part!r}; write '
            'for example "elbo/bound"'
        )
    return part


def cache_folder(part: str, key: str) -> Path:
    """Where this machine's cache holds the record of `part` with that key."""
    return cache_root() / "records" / check_part(part) / key


def checkpoint_folder(part: str, key: str) -> Path:
    """Where this machine's cache keeps what an unfinished computation of that record has trained so far."""
    return cache_root() / "checkpoints" / check_part(part) / key


def write(folder: Path, table: pd.DataFrame, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Record:
    """Store a record as `folder`, in place of an older one. `facts`: what record.json says beside its checksums.
    Returns it as read back, so that a computed record equals a loaded one. ValueError: unfit table or arrays."""
    _check_contents(table, arrays)
    with pending(folder) as new:
        table.to_csv(new / "table.csv", index=False, lineterminator="\n")
        if arrays:
            import numpy as np

            np.savez_compressed(new / "arrays.npz", **arrays)  # type: ignore[arg-type]
            if (size := (new / "arrays.npz").stat().st_size) > ARRAYS_LIMIT:
                warnings.warn(
                    f"arrays.npz takes {size / 2**20:.1f} MB, and results/ holds 2 MB at most; "
                    "keep what the figures need, in float32",
                    stacklevel=2,
                )
        files = {path.name: _sha256(path.read_bytes()) for path in sorted(new.iterdir())}
        content = {**facts, "files": files}
        (new / "record.json").write_text(json.dumps({**content, "digest": digest(content)}, indent=1) + "\n")
    return read(folder)


def read(path: Path) -> Record:
    """The record in the folder `path`, every file of it verified. ValueError naming the file: one is missing,
    damaged or was edited by hand."""
    for wait in (0.02, 0.05, 0.1):
        try:
            return _read(path)
        except ValueError:
            time.sleep(wait)  # another writer may have replaced the folder between two of our reads
    return _read(path)  # damage stays


def _read(path: Path) -> Record:
    import numpy as np
    import pandas as pd

    facts = _facts(path / "record.json")
    content = {name: _verified(path / name, sha256) for name, sha256 in facts["files"].items()}
    table = pd.read_csv(io.BytesIO(content["table.csv"]), keep_default_na=False, na_values=[""])
    arrays = {}
    if "arrays.npz" in content:
        with np.load(io.BytesIO(content["arrays.npz"]), allow_pickle=False) as stored:
            arrays = dict(stored)
    return Record(facts["part"], table, arrays, facts, path)


def _facts(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(_bytes(file))
        claimed = facts["digest"]
        true = digest({name: value for name, value in facts.items() if name != "digest"})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise _damaged(file) from None
    if claimed != true:
        raise _damaged(file)
    if facts.keys() != FACTS:
        raise ValueError(f"{file} was written by another version of this package; {_remedy(file)}")
    return facts


def _verified(file: Path, sha256: str) -> bytes:
    content = _bytes(file)
    if _sha256(content) != sha256:
        raise _damaged(file)
    return content


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{file} is missing; {_remedy(file)}") from None


def _damaged(file: Path) -> ValueError:
    return ValueError(f"{file} is damaged or was edited by hand; {_remedy(file)}")


def _remedy(file: Path) -> str:
    return f"delete {file.parent} and compute it again, or restore it from git"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_contents(table: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> None:
    import numpy as np
    import pandas as pd

    if not isinstance(table, pd.DataFrame) or table.empty:
        given = "an empty one" if isinstance(table, pd.DataFrame) else type(table).__name__
        raise ValueError(f"compute must return a DataFrame with rows, or Result(table, arrays), got {given}")
    if any(name is not None for name in table.index.names):
        raise ValueError(f"table must have no named index, got {list(table.index.names)}; call its reset_index()")
    for name, array in arrays.items():
        if np.asarray(array).dtype == object:
            raise ValueError(f"arrays[{name!r}] must hold numbers or text, got objects; convert it with numpy")


@dataclass(frozen=True)
class Cached:
    """A record of this machine's cache, as `vae records` lists it; `facts` is None where it is damaged, or where the
    run was stopped and has left its checkpoints."""

    part: str
    key: str
    path: Path
    facts: Mapping[str, Any] | None
    created: float  # seconds since 1970
    size: int  # bytes
    unfinished: bool = False


def cached() -> list[Cached]:
    """All records of the cache and all unfinished runs, sorted by part, then oldest first."""
    records = []
    for path in (cache_root() / "checkpoints").glob("*/*/*/"):
        part = f"{path.parent.parent.name}/{path.parent.name}"
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        records.append(Cached(part, path.name, path, None, path.stat().st_mtime, size, unfinished=True))
    for path in (cache_root() / "records").glob("*/*/[!.]*/"):
        try:
            facts = _facts(path / "record.json")
            created = datetime.fromisoformat(facts["created"]).timestamp()
        except ValueError:
            facts, created = None, path.stat().st_mtime
        size = sum(file.stat().st_size for file in path.iterdir())
        part = f"{path.parent.parent.name}/{path.parent.name}"
        records.append(Cached(part, path.name, path, facts, created, size))
    return sorted(records, key=lambda record: (record.part, record.created))


def discard(records: list[Cached]) -> None:
    """Delete these records, and what killed writers left behind more than an hour ago."""
    for record in records:
        shutil.rmtree(record.path)
    for path in (cache_root() / "records").glob("*/*/.*/"):
        if time.time() - path.stat().st_mtime > 3600:
            shutil.rmtree(path, ignore_errors=True)
