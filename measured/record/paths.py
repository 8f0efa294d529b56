"""Where things are: the project, the cache; how a folder is put in place, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from measured.project import project


def project_root() -> Path:
    """The folder of the project (see `measured.project`). ValueError: there is none."""
    return project().root


def cache_root() -> Path:
    """The cache of this machine: <COMMAND>_CACHE_DIR, else where the system keeps a user's caches."""
    return project().cache


def check_writable(folder: Path, remedy: str) -> None:
    """Create `folder` and try it with a file. ValueError: it cannot be written; `remedy` says what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}; {remedy}") from None


def replaced(file: Path, content: bytes) -> None:
    """Write a file under another name, then rename: whole or not at all. ValueError: it cannot be written."""
    part = file.with_name(f".{file.name[:60]}-{uuid.uuid4().hex[:8]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ValueError(f"{file} cannot be written: {error.strerror}; choose another place, or make room") from error


@contextmanager
def pending(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to fill. It becomes `target` if the block ends well; else nothing is left."""
    new = target.with_name(f".{target.name}-{uuid.uuid4().hex[:12]}")
    new.mkdir(parents=True)
    try:
        yield new
        _put_in_place(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _put_in_place(new: Path, target: Path) -> None:
    """Rename `new` to `target`. No system renames onto a full folder, so an older one steps aside first; the loop
    is for another writer who does the same (or, on Windows, a reader), and whoever comes last wins."""
    old = new.with_name(f"{new.name}-old")
    try:
        for attempts_left in reversed(range(200)):
            try:
                if target.exists():
                    target.rename(old)
                new.rename(target)
                return
            except OSError:
                if not attempts_left:
                    raise
                if target.exists():
                    shutil.rmtree(old, ignore_errors=True)
                time.sleep(0.01)
    finally:
        if old.exists() and not target.exists():  # interrupted between the two renames
            with suppress(OSError):
                old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
