"""The machinery of measured claims: parameters, records, tables, verdicts, figures. It knows nothing of the science.

A project tells it in `[tool.measured]` of its pyproject.toml which package holds the science (see `project`). Start in
`experiment` (what a notebook declares, how it is run) or `record` (how a result is computed once and found again).
"""

from measured.config import Config

__all__ = ["Config"]
