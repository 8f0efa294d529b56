"""The book's notebooks: which of them run again, and their outputs."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from measured.experiment import RunError, executed
from measured.notebook import read_notebook
from measured.project import project
from measured.record.code import digest, reached_by_sources
from measured.record.paths import replaced

Notebook = dict[str, Any]


# What a notebook's outputs depend on


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])  # a string, or a list of lines


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def files_in(path: Path) -> list[Path]:
    """The files of a folder; a file is its own."""
    found = [path] if path.is_file() else path.rglob("*")
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts)


def fingerprint(*paths: Path) -> str:
    """Changes with any of these files and any file in these folders."""
    found = hashlib.sha256()
    for path in paths:
        for file in files_in(path):
            found.update(f"{file.relative_to(path.parent)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return found.hexdigest()


def dependencies(root: Path, folder: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """By notebook, its cells, all that they reach of the project's packages, by content, and what executes them."""
    cells = {name: code_cells(read_notebook(root / folder / f"{name}.ipynb")) for name in names}
    packages = (project(root).package, "measured", "benchmarks")
    code = reached_by_sources({name: list(map(text, some)) for name, some in cells.items()}, packages)
    versions = [sys.version, version("torch"), (root / "constraints.txt").read_text("utf-8")]
    return {
        name: {"cells": [[text(cell), sorted(tags(cell))] for cell in some], "code": code[name], "versions": versions}
        for name, some in cells.items()
    }


def experiment_keys(root: Path, names: list[str], profile: str) -> dict[str, str]:
    """By experiment, what changes with whatever can change its outputs, and with nothing else."""
    depends = dependencies(root, "notebooks", names)
    file = root / "book" / "claims.yml"
    claims = yaml.safe_load(file.read_text("utf-8")) if file.exists() else []
    for name in names:
        depends[name]["claims"] = [claim for claim in claims if claim.get("notebook") == name]
        if profile != "quick":
            settings = yaml.safe_load((root / "profiles" / f"{profile}.yaml").read_text("utf-8")) or {}
            depends[name]["parameters"] = settings.get(name)
            depends[name]["records"] = fingerprint(root / "results" / name)
    return {name: digest(each) for name, each in depends.items()}


def reading_keys(root: Path, names: list[str]) -> dict[str, str]:
    """The same of notebooks that show what results/ holds."""
    records = fingerprint(root / "results")
    return {name: digest(each | {"records": records}) for name, each in dependencies(root, "book", names).items()}


def graft(ran: Notebook, source: Notebook) -> Notebook:
    """The source's text with the outputs of its execution; papermill's injected parameters stay in view."""
    executed_cells = iter(code_cells(ran))
    cells = []
    for cell in source["cells"]:
        if cell["cell_type"] == "code":
            done = next(executed_cells)
            if "injected-parameters" in tags(done):
                cells.append(done)
                done = next(executed_cells)
            if text(cell) != text(done):
                sys.exit("no book: a notebook was edited while it ran; once more, please")
            cell = cell | {"outputs": done["outputs"], "execution_count": done["execution_count"]}
        cells.append(cell)
    return source | {"cells": cells, "metadata": ran["metadata"] | source["metadata"]}


# Files: written whole or not at all, and only where something changed


def write(path: Path, content: bytes) -> None:
    """Leaves an equal file alone, so that Sphinx sees by the time stamps what changed."""
    if not path.exists() or path.read_bytes() != content:
        replaced(path, content)


def read(key: Path) -> str:
    return key.read_text() if key.exists() else ""


# Running notebooks


def run_all(commands: dict[str, list[str]], jobs: int, environment: dict[str, str]) -> list[str]:
    """Runs the named commands, `jobs` at a time, with their progress passed through; names those that failed.

    What one writes to stderr is printed in one piece when it ends, so that no two errors mix."""
    # Runs beside each other that each take every core slow each other down, many times over.
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // max(1, jobs)))} | environment
    waiting, running, failed = deque(commands), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < max(1, jobs):
                name = waiting.popleft()
                errors = tempfile.TemporaryFile()
                running[name] = subprocess.Popen(commands[name], env=environment, stderr=errors), errors
            for name, (process, errors) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    with errors:
                        errors.seek(0)
                        print(errors.read().decode(errors="replace"), end="", file=sys.stderr, flush=True)
                    if process.returncode:
                        failed.append(name)
            time.sleep(0.1)
    finally:  # when interrupted: each run cleans up after itself if told to stop
        for process, errors in running.values():
            process.terminate()
            errors.close()
        for process, _ in running.values():
            process.wait()
    return failed


def execute(root: Path, build: Path, names: list[str], profile: str, jobs: int) -> None:
    """Leaves each experiment's outputs in build/runs/<name>. Where one fails, its page goes and the build ends."""
    keys = experiment_keys(root, names, profile)
    stamps = {name: build / "runs" / f"{name}.key" for name in names}
    stale = [name for name in names if read(stamps[name]) != keys[name] or not (build / "runs" / name).exists()]
    for name in stale:
        stamps[name].unlink(missing_ok=True)
    command = [sys.executable, "-m", "measured", "run", "--profile", profile, "--out", str(build / "runs")]
    records = project(root).variable("RECORDS")
    environment = os.environ | {records: "compute" if profile == "quick" else "published"}
    failed = run_all({name: [*command, name] for name in stale}, jobs, environment)
    for name in stale:
        if name not in failed:
            write(stamps[name], keys[name].encode())
    for name in failed:
        (build / "html" / "notebooks" / f"{name}.html").unlink(missing_ok=True)
    if failed:
        sys.exit(f"no book: {', '.join(failed)} failed (see above); its page was removed")


def execute_readings(root: Path, build: Path, names: list[str]) -> None:
    """Leaves each reading's outputs in build/read/<name>.ipynb, which takes seconds. The build ends where one fails, as
    it does where a published record is missing."""
    for name, key in reading_keys(root, names).items():
        stamp, ran = build / "read" / f"{name}.key", build / "read" / f"{name}.ipynb"
        if read(stamp) == key and ran.exists():
            continue
        stamp.unlink(missing_ok=True)
        print(f"{name}  reading results/", flush=True)
        try:
            write(ran, json.dumps(executed(root / "book" / f"{name}.ipynb")).encode())
        except RunError as error:
            (build / "html" / "book" / f"{name}.html").unlink(missing_ok=True)
            sys.exit(f"{error}\n\nno book: {name} failed; its page was removed")
        write(stamp, key.encode())
