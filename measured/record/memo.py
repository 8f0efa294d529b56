"""Compute or load: the one call by which a notebook gets its numbers."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from measured.config import Config
from measured.project import modes_of, project
from measured.record.code import digest
from measured.record.keys import identity
from measured.record.paths import cache_root, check_writable, project_root
from measured.record.provenance import circumstances, peak_memory_mb
from measured.record.result import Result
from measured.record.store import Record, cache_folder, check_part, checkpoint_folder, read, write

if TYPE_CHECKING:
    import pandas as pd

MIME = "application/vnd.measured.record+json"
Compute = Callable[[Any], "Result | pd.DataFrame"]


class Staged(NamedTuple):
    """What a stage computes: a value for the parts that need it, and the table of its record."""

    value: Any
    table: pd.DataFrame


class Stage:
    """Work that several parts share, such as a trained ensemble: done when the first part that must be computed asks
    for it, with a record of its own for the time that it takes. The value is kept in memory only."""

    def __init__(self, part: str, config: Config, compute: Callable[[Any], Staged]) -> None:
        self.part, self._config, self._compute = check_part(part), config, compute
        self.wanted = identity(part, config, compute)
        self.key = _key_of(self.wanted)
        self._value: list[Any] = []

    def value(self) -> Any:
        """What the stage computes, once."""
        if not self._value:

            def table(config: Config) -> Result:
                staged = self._compute(config)
                self._value.append(staged.value)
                return Result(staged.table)

            folder = cache_folder(self.part, self.key)
            # What it left on the way stays until the whole run is done: its parts may yet be stopped.
            _show(_computed(folder, self.wanted, self._config, table, keep_unfinished=True))
        return self._value[0]


def compute_or_load(part: str, config: Config, compute: Callable[..., Any], *stages: Stage) -> Record:
    """The record of `part` ("<experiment>/<part>") for these parameters, this data and this code.

    `compute(config, *values)` gets the values of `stages`, which are part of the key. <COMMAND>_RECORDS decides:
    "auto" loads it from this machine's cache if it is there and computes it otherwise, "compute" always computes,
    "published" takes it from results/, matched by parameters and data. In a notebook it says which, in one line.
    ValueError, before `compute` is called: bad part or mode, damaged record, unwritable cache, no published record."""
    mode = modes_of(project())
    wanted = identity(check_part(part), config, compute, [stage.key for stage in stages])
    folder = cache_folder(part, _key_of(wanted))
    if mode == "published":
        record = _published(wanted)
    elif mode == "auto" and folder.exists():
        record = read(folder)
        if record.provenance["key"] != folder.name:
            raise ValueError(f"{folder} holds the record of another key; delete it and run again")
    else:
        values = [stage.value() for stage in stages]  # not within the time of this part
        record = _computed(folder, wanted, config, lambda config: compute(config, *values))
    _show(record)
    return record


def _key_of(wanted: dict[str, Any]) -> str:
    """The digest of what decides a result; a rerun with other random streams is another result."""
    run = project().environment("RUN") or "0"
    return digest(wanted if run == "0" else wanted | {"run": run})


def combined(*records: Record) -> pd.DataFrame:
    """The tables of an experiment's parts under each other, told apart by a first column `part`."""
    import pandas as pd

    tables = [record.table.copy() for record in records]
    for record, table in zip(records, tables, strict=True):
        table.insert(0, "part", record.part.rpartition("/")[2])
    return pd.concat(tables, ignore_index=True)


def _computed(
    folder: Path, wanted: dict[str, Any], config: Config, compute: Compute, *, keep_unfinished: bool = False
) -> Record:
    check_writable(folder.parent, f"choose another cache with the variable {project().variable('CACHE_DIR')}")
    unfinished = checkpoint_folder(wanted["part"], folder.name)
    start = time.perf_counter()
    outcome = compute(config.keeping_in(unfinished))  # where it goes on if this run was stopped before
    seconds = time.perf_counter() - start
    result = outcome if isinstance(outcome, Result) else Result(outcome)
    facts = {
        **wanted,
        "key": folder.name,
        "parameters": config.parameters(),
        **circumstances(config),
        "seconds": round(seconds, 3),
        "peak_memory_mb": peak_memory_mb(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record = write(folder, result.table, result.arrays, facts)
    if not keep_unfinished:
        shutil.rmtree(unfinished, ignore_errors=True)
    return replace(record, status="computed")


def _published(wanted: dict[str, Any]) -> Record:
    part, experiment = wanted["part"], wanted["part"].partition("/")[0]
    folder = project_root() / "results" / part
    remedy = f"make it with `{project().command} run {experiment} --profile full --fresh --out results`"
    if not folder.exists():
        raise ValueError(f"results/ holds no record of {part}; {remedy}")
    record = read(folder)
    there, here = record.provenance, wanted["parameters"]
    published = {name: value for name, value in there["parameters"].items() if name not in Config.NOT_IN_KEY}
    files = {where.partition("[")[0] for where in wanted["data"]}  # wherever they are
    differ = [
        f"{name} is {published.get(name)!r} there, {here.get(name)!r} here"
        for name in {**here, **published}
        if published.get(name) != here.get(name) and (name in here or name not in files)
    ]
    if there["data"] != wanted["data"]:
        differ.append("the data have another digest")
    if there["part"] != part:
        differ = [f"it is the record of {there['part']}"]
    if differ:
        raise ValueError(f"the published record of {part} is for another run: {', '.join(differ)}; {remedy}")
    return replace(record, status="published", drifted=there["code"] != wanted["code"])


def _show(record: Record) -> None:
    """One line for a reader, and everything as JSON for the page's banner and for `vae run`."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        home = project_root() if record.status == "published" else cache_root()
        about = {
            "part": record.part,
            "status": record.status,
            "drifted": record.drifted,
            "path": record.path.relative_to(home).as_posix(),
            **record.provenance,
        }
        display({"text/plain": _sentence(record), MIME: about}, raw=True)


def _sentence(record: Record) -> str:
    about = record.provenance
    effort = f"{about['seconds']:.1f} s on {about['device']}"
    if about["threads"] and about["device"] == "cpu":
        effort += f", {about['threads']} threads"
    if record.status == "computed":
        return f"{record.part}: computed here in {effort}"
    commit = about["commit"][:10] if about["commit"] else "an unknown commit"
    changes = " with uncommitted changes" if about["dirty"] else ""
    drift = "; the code has changed since" if record.drifted else ""
    source = "this machine's cache" if record.status == "loaded" else "the published results"
    return f"{record.part}: from {source} ({effort}), computed at {commit}{changes}{drift}"
