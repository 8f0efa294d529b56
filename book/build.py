"""Build the book: run its notebooks, put all that its pages need into _build/<profile>/, call Sphinx.

    python book/build.py [--profile quick|full] [--jobs 2]

_build/<profile>/ is a staged copy of the repository; tracked files are never written. A notebook runs again
only if something changed that its outputs depend on; where only its prose did, its outputs join the new text.
Those in notebooks/ are experiments; those in book/ compute nothing, and show what results/ holds.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from execution import execute, execute_readings, files_in, fingerprint, graft, read, write
from filelock import FileLock, Timeout
from sphinx_external_toc.parsing import parse_toc_yaml

from measured.claims import ledger
from measured.notebook import read_notebook

ROOT = Path(__file__).resolve().parent.parent
TOP = ("_config.yml", "_toc.yml", "README.md", "CONTRIBUTING.md")  # the files beside book/ that pages are made of
FRONT = (
    '<!doctype html><meta charset="utf-8"><title>VAEs, Measured</title><meta http-equiv="refresh" content="0; url={}">'
)


class Pages(NamedTuple):
    """The pages of the contents, and which of them are notebooks: by name, experiments and readings of results/."""

    all: list[str]
    experiments: list[str]
    readings: list[str]


def pages_of(root: Path) -> Pages:
    pages = list(parse_toc_yaml(root / "_toc.yml"))
    notebooks = [Path(page) for page in pages if (root / f"{page}.ipynb").exists()]
    in_folder = {folder: [p.name for p in notebooks if p.parent.name == folder] for folder in ("notebooks", "book")}
    return Pages(pages, in_folder["notebooks"], in_folder["book"])


# What Sphinx reads


def contents(folder: Path) -> dict[Path, bytes]:
    """The files of a folder, by their place in it."""
    return {file.relative_to(folder): file.read_bytes() for file in files_in(folder)}


def fill(folder: Path, wanted: Mapping[Path, bytes]) -> None:
    """Makes the folder hold these files and no others."""
    for place, content in wanted.items():
        write(folder / place, content)
    for file in files_in(folder):
        if file.relative_to(folder) not in wanted:
            file.unlink()


def page(source: Path, ran: Path) -> bytes:
    """A notebook as Sphinx will read it: its text, the outputs of its execution."""
    joined = graft(read_notebook(ran), read_notebook(source))
    return json.dumps(joined, indent=1, ensure_ascii=False).encode()


def stage(root: Path, build: Path, pages: Pages) -> None:
    """Everything that the pages are made of."""
    for name in TOP:
        write(build / name, (root / name).read_bytes())
    readings = {
        Path(f"{name}.ipynb"): page(root / "book" / f"{name}.ipynb", build / "read" / f"{name}.ipynb")
        for name in pages.readings
    }
    fill(build / "book", contents(root / "book") | readings)
    experiments = {
        Path(f"{name}.ipynb"): page(root / "notebooks" / f"{name}.ipynb", build / "runs" / name / f"{name}.ipynb")
        for name in pages.experiments
    }
    fill(build / "notebooks", experiments)
    tables = {
        Path(name, place): content
        for name in pages.experiments
        for place, content in contents(build / "runs" / name).items()
        if len(place.parts) > 1
    }
    fill(build / "results", tables)


# Sphinx


def render(root: Path, build: Path, pages: list[str], profile: str) -> None:
    """Builds all pages beside the old ones and swaps them in only if there was no warning."""
    html, fresh, old = build / "html", build / "html.new", build / "html.old"
    # Beside what is staged, the API page shows the packages and the scoreboard the verdicts of the other profile.
    staged = [build / name for name in (*TOP, "book", "notebooks", "results")]
    tools = [build / "book" / "_ext", root / "constraints.txt"]
    made_from = fingerprint(*staged, *tools, *(root / name for name in ("vae", "measured", "notebooks", "results")))
    made_with = fingerprint(*tools)
    html_key, doctrees_key = build / "html.key", build / "doctrees" / "made_with"
    if all((html / f"{page}.html").exists() for page in pages) and read(html_key) == made_from:
        return

    from jupyter_book.sphinx import build_sphinx  # slow to import
    from sphinx.util.console import nocolor

    if not sys.stderr.isatty():
        nocolor()
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    # Sphinx reads changed pages only; after a failure all of them, or the warnings of the others would be lost.
    read_all = read(doctrees_key) != made_with
    doctrees_key.unlink(missing_ok=True)
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
    write(doctrees_key, made_with.encode())
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
    pages = pages_of(root)
    if absent := sorted({claim.notebook for claim in ledger(root).values()} - set(pages.experiments)):
        sys.exit(f"no book: book/claims.yml has claims of {', '.join(absent)}, which _toc.yml lacks; add notebooks/...")
    try:
        with FileLock(build / ".lock", timeout=0):
            execute(root, build, pages.experiments, profile, jobs)
            execute_readings(root, build, pages.readings)
            stage(root, build, pages)
            render(root, build, pages.all, profile)
    except Timeout:
        sys.exit(f"another build is at work in {build}; wait for it to end")
    return build / "html" / "index.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", default="quick", help="quick computes; full shows the committed records")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time (default 2)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.chdir(ROOT)  # from where notebooks find benchmarks/, which is not installed
    start = time.monotonic()
    try:
        front = build_book(ROOT, arguments.profile, arguments.jobs)
    except ValueError as error:
        sys.exit(f"no book: {error}")
    print(f"The book is at {front.relative_to(ROOT)} ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
