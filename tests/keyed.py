"""The key of a notebook's code, given as its cells."""

import itertools
import linecache

from measured.record import code_key

NUMBERS = itertools.count()


def cell(source: str, namespace: dict | None = None) -> dict:
    """Execute a cell as IPython does, with its source at hand; returns the notebook's variables."""
    namespace = {"__name__": "notebook", "In": []} if namespace is None else namespace
    name = f"<cell {next(NUMBERS)}>"
    namespace["In"].append(source)
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), namespace)
    return namespace


def cell_key(*cells: str) -> str:
    notebook = cell(cells[0])
    for source in cells[1:]:
        cell(source, notebook)
    return code_key(notebook["compute"])
