"""The book asks nothing of the network: what would is taken out, and the build fails if anything is left."""

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

LOADING = re.compile(r"<(?:script|img|iframe|source|object|link)\b[^>]*>", re.IGNORECASE)
NOT_LOADED = re.compile(r"<link[^>]*\brel=['\"]?(?:canonical|next|prev|index|search|author|license)\b", re.IGNORECASE)
EXTERNAL = re.compile(r"\b(?:src|href|data|srcset)=['\"]?\s*((?:https?:)?//[^'\"\s>]+)", re.IGNORECASE)
IN_CSS = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)


def external_loads(page: str) -> list[str]:
    """The external addresses that a browser would fetch to show this page."""
    tags = " ".join(tag for tag in LOADING.findall(page) if not NOT_LOADED.match(tag))
    return EXTERNAL.findall(tags) + IN_CSS.findall(page)


def refuse_external_loads(app: Sphinx, exception: Exception | None) -> None:
    if exception:
        return
    for file in sorted(Path(app.outdir).rglob("*.html")):
        if found := external_loads(file.read_text("utf-8")):
            raise ExtensionError(f"{file.name} would load {', '.join(found)}; ship the file in book/_static instead")


def silence_thebe(app: Sphinx) -> None:
    """Jupyter Book loads sphinx_thebe, which names a CDN on every page (twice: an error in the console)."""
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)


def setup(app: Sphinx) -> dict[str, Any]:
    silence_thebe(app)
    app.connect("build-finished", refuse_external_loads, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
