"""The API page: docstrings are plain text with `code` in it, and what Python and pydantic add is left out."""

import re
from typing import Any

from sphinx.application import Sphinx

CODE_OR_MARKUP = re.compile(r"`([^`]+)`(?=(\w?))|([*|_\\])")


def is_boilerplate(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """The fields of named tuples, and pydantic's settings."""
    return True if type(obj).__name__ == "_tuplegetter" or name == "model_config" else None


def plain(text: str) -> str:
    """`text` so that reStructuredText shows it as it stands: |x| is no substitution, *args no emphasis."""

    def shown(found: re.Match[str]) -> str:
        code, next_letter, mark = found.groups()
        return f"``{code}``" + ("\\ " if next_letter else "") if code else f"\\{mark}"

    return CODE_OR_MARKUP.sub(shown, text)


def as_plain_text(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    in_example = False  # which stands as it is, up to an empty line
    for i, line in enumerate(lines):
        in_example = line.lstrip().startswith(">>>") or in_example and bool(line.strip())
        lines[i] = line if in_example else plain(line)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-skip-member", is_boilerplate)
    app.connect("autodoc-process-docstring", as_plain_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
