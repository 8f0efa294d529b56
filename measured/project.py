"""The project that measures: what its pyproject.toml says of itself under [tool.measured].

[tool.measured]
package = "vae"                          # its science: the code that counts for a record's key
command = "vae"                          # its command line; its environment variables begin with VAE_
versions = ["torch", "numpy"]            # distributions whose versions a record names, beside its own
check = "vae.environment:check"          # called before a run: ValueError if it cannot be (optional)
not_in_key = ["vae.data.images:REGISTRY"]  # definitions that a record's key leaves out (optional)
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir
from pydantic import BaseModel, ConfigDict, ValidationError


class Project(BaseModel):
    """What [tool.measured] says; `distribution` is the name under [project], `root` the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    distribution: str
    package: str
    command: str
    versions: tuple[str, ...] = ()
    check: str = ""
    not_in_key: tuple[str, ...] = ()

    def variable(self, name: str) -> str:
        """The environment variable of that name: "RECORDS" is VAE_RECORDS where the command is vae."""
        return f"{self.command.upper().replace('-', '_')}_{name}"

    def environment(self, name: str) -> str | None:
        """What that variable says, None where it is unset or empty."""
        return os.environ.get(self.variable(name)) or None

    def check_environment(self) -> None:
        """ValueError: one of the project's own settings is odd."""
        if self.check:
            module, _, name = self.check.partition(":")
            check: Callable[[], Any] = getattr(import_module(module), name)
            check()

    @property
    def cache(self) -> Path:
        """The cache of this machine: <COMMAND>_CACHE_DIR, else where the system keeps a user's caches."""
        return Path(self.environment("CACHE_DIR") or user_cache_dir(self.distribution)).expanduser().absolute()


def project(root: Path | None = None) -> Project:
    """The project in `root`; without it, that of the working folder or the nearest above, else the one that this
    package was installed from. ValueError: there is none, or its table is malformed."""
    here = Path.cwd()
    folders = [root] if root else [here, *here.parents, Path(__file__).absolute().parents[1]]
    for folder in folders:
        if (file := folder / "pyproject.toml").is_file() and (found := _read(file, file.stat().st_mtime_ns)):
            return found
    raise ValueError(f"no pyproject.toml with [tool.measured] at {folders[0]} or above; go to a clone of the project")


@lru_cache
def _read(file: Path, _changed: int) -> Project | None:
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    table = content.get("tool", {}).get("measured")
    if table is None:
        return None
    try:
        return Project(root=file.parent, distribution=content["project"]["name"], **table)
    except (ValidationError, KeyError, TypeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ("project",), "msg": repr(error)}
        where = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{file}: [tool.measured] {where}: {problem['msg']}; see measured/project.py") from None


def modes_of(project: Project) -> str:
    """<COMMAND>_RECORDS: where records come from, "auto", "compute" or "published". ValueError: another word."""
    from measured.config import nearest

    modes = ("auto", "compute", "published")
    mode = project.environment("RECORDS") or "auto"
    if mode not in modes:
        raise ValueError(f"{project.variable('RECORDS')} {mode!r} is unknown; {nearest(mode, modes)}")
    return mode
