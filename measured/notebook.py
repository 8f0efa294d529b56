"""Notebooks as they lie on disk; nbformat would take seconds to import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as JSON. ValueError: it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["cells"], content["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no notebook ({type(error).__name__}: {error}); restore it from git") from None
    return content


def shown(notebook: Mapping[str, Any], mime: str) -> list[Any]:
    """What the cells of a notebook displayed under this MIME type."""
    return [
        output["data"][mime]
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if mime in output.get("data", ())
    ]
