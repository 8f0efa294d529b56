"""A notebook as its executed cells and its live values have it."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from types import FunctionType, GenericAlias, ModuleType, UnionType
from typing import Any, NamedTuple

import numpy as np

from measured.config import Config
from measured.record import syntax
from measured.record.source import Name, Target, imports, opened


class Cells(NamedTuple):
    """What the executed cells say: what each imported name stands for, the modules that they import, and the statements
    that bound each name last."""

    imported: dict[str, tuple[Target, ...]]
    opened: set[str]
    bound: dict[str, list[ast.stmt]]


def cells_of(namespace: Mapping[str, Any], module: str) -> Cells:
    """Those of the notebook with these variables; of a module that is no notebook its source, as one cell."""
    sources = list(namespace.get("In", ()))
    if not sources and module in sys.modules:
        with suppress(OSError, TypeError):
            sources = [inspect.getsource(sys.modules[module])]
    package = module.rpartition(".")[0]
    cells = Cells({}, set(), {})
    for cell in sources:
        try:
            statements = syntax.plain(cell).body
        except SyntaxError:
            continue
        for statement in statements:
            if not isinstance(statement, syntax.DEFINITIONS):
                cells.imported.update(imports(statement, package))
                cells.opened.update(opened(statement, package))
            for name in syntax.bound(statement):
                before = cells.bound.get(name, []) if name in syntax.looked_up(statement) else []  # f = torch.vmap(f)
                cells.bound[name] = [*before, statement]
    return cells


def tree_of(obj: Any, cells: Cells) -> ast.Module:
    """The syntax tree of a notebook's function or class. Python 3.11 cannot find the source of a notebook's class; the
    executed cells can. ValueError: nobody can."""
    try:
        return syntax.plain(textwrap.dedent(inspect.getsource(obj)))
    except (OSError, TypeError, SyntaxError):
        last = cells.bound.get(obj.__qualname__, [None])[-1]
        if isinstance(last, ast.ClassDef):
            return ast.Module([last], [])
    raise ValueError(f"the source of {obj.__qualname__} cannot be found; define it with def or class in a cell")


def gives(targets: tuple[Target, ...], value: Any) -> bool:
    """Whether an import gives this value: nothing else has been assigned to the name since."""
    for target in targets:
        path = target if isinstance(target, str) else ".".join(filter(None, target))
        steps = path.split(".")
        for cut in range(len(steps), 0, -1):
            if (found := sys.modules.get(".".join(steps[:cut]))) is not None:
                with suppress(AttributeError):
                    for attribute in steps[cut:]:
                        found = getattr(found, attribute)
                    if found is value:
                        return True
    return False


def attribute_of_a_module(value: Any, modules: list[str]) -> Name | None:
    """The first of these modules that has the value, and by what name."""
    for module in modules:
        for name, there in vars(sys.modules[module]).items() if module in sys.modules else ():
            if there is value:
                return Name(module, name)
    return None


def is_code(value: Any) -> bool:
    """Modules, classes, functions and type hints: what stays as it is while a notebook runs."""
    value = inspect.unwrap(value)
    if inspect.isroutine(value):  # a method of an instance carries the instance along
        return isinstance(getattr(value, "__self__", None), ModuleType | type | None)
    return (
        isinstance(value, ModuleType | type | np.ufunc | GenericAlias | UnionType) or type(value).__module__ == "typing"
    )


def closure(obj: Any) -> dict[str, Any]:
    """What a function closes over."""
    values = {}
    if isinstance(obj, FunctionType):
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            with suppress(ValueError):  # a cell may still be empty
                values[name] = cell.cell_contents
    return values


def methods(parameters: type[Config]) -> dict[str, FunctionType]:
    """The methods and properties of a notebook's own class of parameters, by name; validators are none."""
    validators = parameters.__pydantic_decorators__
    found = {}
    for owner in reversed(parameters.__mro__):
        if issubclass(owner, Config) and owner is not Config:
            for name, value in vars(owner).items():
                f = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
                if isinstance(f, FunctionType) and not name.startswith("__"):
                    found[name] = inspect.unwrap(f)
    return {n: f for n, f in found.items() if n not in validators.field_validators | validators.model_validators}
