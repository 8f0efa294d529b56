"""Where things are: the project, the cache; how a folder is put in place, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_dir


def project_root() -> Path:
    """The folder that holds pyproject.toml and notebooks/: the package's own, else the nearest from the working
    folder upward. ValueError: there is none."""
    package, here = Path(__file__).absolute().parents[2], Path.cwd()
    for folder in (package, here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise ValueError(f"no folder with pyproject.toml and notebooks/ at {here} or above; go to a clone of the project")


def cache_root() -> Path:
    """The cache of this machine: VAE_CACHE_DIR, else where the system keeps a user's caches."""
    return Path(os.environ.get("VAE_CACHE_DIR") or user_cache_dir("vae-measured")).expanduser().absolute()


def check_writable(folder: Path, remedy: str) -> None:
    """Create `folder` and try it with a file. ValueError: it cannot be written; `remedy` says what to do."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror}; {remedy}") from None


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
