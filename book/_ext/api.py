"""The API page leaves out what Python and pydantic write into every named tuple and model."""

from typing import Any

from sphinx.application import Sphinx


def is_boilerplate(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    return True if type(obj).__name__ == "_tuplegetter" or name == "model_config" else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-skip-member", is_boilerplate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
