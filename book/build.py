"""Build the book: run its notebooks, put all that its pages need into _build/<profile>/, call Sphinx.

    python book/build.py [--profile quick|full] [--jobs 2]

_build/<profile>/ is a staged copy of the repository; tracked files are never written. A notebook runs again
only if something changed that its results depend on; where only its prose did, its outputs join the new text.
"""

import argparse
import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from sphinx_external_toc.parsing import parse_toc_yaml

from measured.claims import ledger

Notebook = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
TOP = ("_config.yml", "_toc.yml", "README.md", "CONTRIBUTING.md")  # the files beside book/ that pages are made of
DOCSTRING_OWNERS = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
FRONT = (
    '<!doctype html><meta charset="utf-8"><title>VAEs, Measured</title><meta http-equiv="refresh" content="0; url={}">'
)


# Notebooks as JSON: nbformat takes seconds to import


def read_notebook(path: Path) -> Notebook:
    return json.loads(path.read_text("utf-8"))


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])  # a string, or a list of lines


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


# What a notebook's results depend on


def syntax(source: str) -> str:
    """The code's syntax tree without its docstrings: equal for equal behaviour, whatever the comments say."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCSTRING_OWNERS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


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


def content_key(root: Path, name: str, profile: str) -> str:
    """Changes with whatever can change the outputs of a notebook, and with nothing else."""
    cells = code_cells(read_notebook(root / "notebooks" / f"{name}.ipynb"))
    code = [(p.relative_to(root).as_posix(), p.read_text("utf-8")) for p in sorted((root / "vae").rglob("*.py"))]
    ledger = root / "book" / "claims.yml"
    claims = yaml.safe_load(ledger.read_text("utf-8")) if ledger.exists() else []
    depends = {
        "cells": [[text(cell), sorted(tags(cell))] for cell in cells],
        "package": [[path, syntax(source)] for path, source in code],
        "claims": [claim for claim in claims if claim.get("notebook") == name],
        "versions": [sys.version, version("torch"), (root / "constraints.txt").read_text("utf-8")],
    }
    if profile != "quick":
        settings = yaml.safe_load((root / "profiles" / f"{profile}.yaml").read_text("utf-8")) or {}
        depends["parameters"] = settings.get(name)
        depends["records"] = fingerprint(root / "results" / name)
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()


def graft(executed: Notebook, source: Notebook) -> Notebook:
    """The source's text with the outputs of its execution; papermill's injected parameters stay in view."""
    ran = iter(code_cells(executed))
    cells = []
    for cell in source["cells"]:
        if cell["cell_type"] == "code":
            done = next(ran)
            if "injected-parameters" in tags(done):
                cells.append(done)
                done = next(ran)
            if text(cell) != text(done):
                sys.exit("no book: a notebook was edited while it ran; once more, please")
            cell = cell | {"outputs": done["outputs"], "execution_count": done["execution_count"]}
        cells.append(cell)
    return source | {"cells": cells, "metadata": executed["metadata"] | source["metadata"]}


# Files: written whole or not at all, and only where something changed


def write(path: Path, content: bytes) -> None:
    """Leaves an equal file alone, so that Sphinx sees by the time stamps what changed."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def read(key: Path) -> str:
    return key.read_text() if key.exists() else ""


def mirror(source: Path, target: Path) -> None:
    """Makes the folder `target` equal to `source`."""
    wanted = {target / file.relative_to(source): file for file in files_in(source)}
    for staged, file in wanted.items():
        write(staged, file.read_bytes())
    for file in files_in(target):
        if file not in wanted:
            file.unlink()


def stage(root: Path, build: Path, notebooks: list[str]) -> None:
    """Everything that the pages are made of, as Sphinx will read it."""
    for name in TOP:
        write(build / name, (root / name).read_bytes())
    mirror(root / "book", build / "book")
    for old in (build / "notebooks").glob("*.ipynb"):
        if old.stem not in notebooks:
            old.unlink()
    shutil.rmtree(build / "results", ignore_errors=True)  # a part may be gone
    for name in notebooks:
        run = build / "runs" / name
        page = graft(read_notebook(run / f"{name}.ipynb"), read_notebook(root / "notebooks" / f"{name}.ipynb"))
        write(build / "notebooks" / f"{name}.ipynb", json.dumps(page, indent=1, ensure_ascii=False).encode())
        for part in run.iterdir():
            if part.is_dir():
                mirror(part, build / "results" / name / part.name)


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
    """Leaves each notebook's outputs in build/runs/<name>. Where one fails, its page goes and the build ends."""
    keys = {name: content_key(root, name, profile) for name in names}
    stamps = {name: build / "runs" / f"{name}.key" for name in names}
    stale = [name for name in names if read(stamps[name]) != keys[name]]
    stale += [name for name in names if name not in stale and not (build / "runs" / name).exists()]
    for name in stale:
        stamps[name].unlink(missing_ok=True)
    command = [sys.executable, "-m", "vae", "run", "--profile", profile, "--out", str(build / "runs")]
    environment = os.environ | {"VAE_RECORDS": "compute" if profile == "quick" else "published"}
    failed = run_all({name: [*command, name] for name in stale}, jobs, environment)
    for name in stale:
        if name not in failed:
            write(stamps[name], keys[name].encode())
    for name in failed:
        (build / "html" / "notebooks" / f"{name}.html").unlink(missing_ok=True)
    if failed:
        sys.exit(f"no book: {', '.join(failed)} failed (see above); its page was removed")


# Sphinx


def render(root: Path, build: Path, pages: list[str], profile: str) -> None:
    """Builds all pages beside the old ones and swaps them in only if there was no warning."""
    html, fresh, old = build / "html", build / "html.new", build / "html.old"
    # Beside what is staged, the API page shows vae/ and the scoreboard the verdicts of the other profile.
    staged = [build / name for name in (*TOP, "book", "notebooks", "results")]
    tools = [build / "book" / "_ext", root / "constraints.txt"]
    made_from = fingerprint(*staged, *tools, root / "vae", root / "notebooks", root / "results")
    made_with = fingerprint(*tools)
    html_key, reading_key = build / "html.key", build / "doctrees" / "made_with"
    if all((html / f"{page}.html").exists() for page in pages) and read(html_key) == made_from:
        return

    from jupyter_book.sphinx import build_sphinx  # slow to import
    from sphinx.util.console import nocolor

    if not sys.stderr.isatty():
        nocolor()
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    # Sphinx reads changed pages only; after a failure all of them, or the warnings of the others would be lost.
    read_all = read(reading_key) != made_with
    reading_key.unlink(missing_ok=True)
    status = build_sphinx(
        build,
        fresh,
        path_config=build / "_config.yml",
        confoverrides={"vae_profile": profile, "latex_individualpages": False},
        doctreedir=build / "doctrees",
        noconfig=True,
        force_all=True,  # sidebars and glued numbers show what stands on other pages
        freshenv=read_all,
        warningiserror=True,
        keep_going=True,
        quiet=True,
    )
    missing = [page for page in pages if not (fresh / f"{page}.html").exists()]
    if status:
        sys.exit("no book: Sphinx warned or stopped (see above)")
    if missing:
        sys.exit(f"no book: no page came out for {', '.join(missing)}")
    write(fresh / "index.html", FRONT.format(f"{pages[0]}.html").encode())
    write(reading_key, made_with.encode())
    if html.exists():
        html.rename(old)
    fresh.rename(html)
    write(html_key, made_from.encode())
    shutil.rmtree(old, ignore_errors=True)


def build_book(root: Path, profile: str, jobs: int) -> Path:
    known = ["quick", *sorted(p.stem for p in (root / "profiles").glob("*.yaml"))]
    if profile not in known:
        sys.exit(f"profile must be one of {', '.join(known)}, got {profile!r}")
    build = root / "_build" / profile
    build.mkdir(parents=True, exist_ok=True)
    pages = list(parse_toc_yaml(root / "_toc.yml"))
    names = [Path(page).name for page in pages if (root / f"{page}.ipynb").exists()]
    if absent := sorted({claim.notebook for claim in ledger(root).values()} - set(names)):
        sys.exit(f"no book: book/claims.yml has claims of {', '.join(absent)}, which _toc.yml lacks; add notebooks/...")
    try:
        with FileLock(build / ".lock", timeout=0):
            execute(root, build, names, profile, jobs)
            stage(root, build, names)
            render(root, build, pages, profile)
    except Timeout:
        sys.exit(f"another build is at work in {build}; wait for it to end")
    return build / "html" / "index.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", default="quick", help="quick computes; full shows the committed records")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    page = build_book(ROOT, arguments.profile, arguments.jobs)
    print(f"The book is at {page.relative_to(ROOT)} ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
