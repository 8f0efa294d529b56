"""A record's key: a hash of everything that can change its result, and of nothing else.

That is the parameters, the declared digest of the data, and code: the notebook's `compute`, what it reaches in
the notebook, and every module of this package that it reaches. Code counts as its syntax tree without docstrings,
so that comments and layout may change freely; we write the tree down ourselves, because Python's own dump differs
from one version of Python to the next. Libraries' versions are recorded, not hashed."""

from __future__ import annotations

import ast
import dis
import hashlib
import importlib.util
import inspect
import json
import pkgutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType, GenericAlias, MethodType, ModuleType, UnionType
from typing import Any

import numpy as np

from vae.config import Config

PACKAGE = "vae"
_STARTED = time.time()


def digest(value: Any) -> str:
    """SHA-256 of `value` as JSON has it, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def identity(part: str, config: Config, compute: Callable) -> dict[str, Any]:
    """What the key hashes: part, parameters that count, data (null for an experiment without), code."""
    data = None
    if name := getattr(config, "dataset", None):
        from vae.data import declared_digest

        data = declared_digest(name)
    return {"part": part, "parameters": config.key_parameters(), "data": data, "code": code_key(compute)}


def key(part: str, config: Config, compute: Callable) -> str:
    """The key under which the record of `part` is stored."""
    return digest(identity(part, config, compute))


def code_key(compute: Callable) -> str:
    """Hash of the code that `compute` reaches. ValueError: it is no plain function; it reads a variable of the
    notebook, which the key could not see; a module's file is newer than what this Python has loaded."""
    compute = inspect.unwrap(compute)
    if not isinstance(compute, FunctionType) or compute.__name__ == "<lambda>":
        raise ValueError(f"compute must be a function written with def, got {compute!r}; wrap it in one")
    defined: dict[str, Any] = {}
    modules: set[str] = set()
    _reach(compute, compute, defined, modules)
    files = {name: _tree(ast.parse(_path(name).read_bytes())) for name in _imported(modules)}
    return digest([defined, files])


def _reach(obj: Any, compute: FunctionType, defined: dict[str, Any], modules: set[str]) -> None:
    """Collect into `defined` and `modules` the code that a module, class or function brings with it."""
    obj = inspect.unwrap(obj)
    obj = obj.__self__ if isinstance(obj, MethodType) else obj
    home = obj.__name__ if isinstance(obj, ModuleType) else getattr(obj, "__module__", None) or ""
    if home.partition(".")[0] == PACKAGE:
        modules.add(home)
        for inner in pkgutil.walk_packages(getattr(obj, "__path__", ()), f"{home}."):
            modules.add(inner.name)  # `import vae` and then vae.any.module: all of it
    elif home == compute.__module__:
        _reach_definition(obj, compute, defined, modules)
    elif isinstance(obj, FunctionType):  # a library's wrapper closing over our function
        for value in _closure(obj).values():
            if getattr(value, "__module__", None) == compute.__module__ and _is_code(value):
                _reach(value, compute, defined, modules)


def _reach_definition(obj: Any, compute: FunctionType, defined: dict[str, Any], modules: set[str]) -> None:
    if obj.__qualname__ in defined or isinstance(obj, type) and issubclass(obj, Config):
        return
    tree = _definition(obj, compute.__globals__)
    defined[obj.__qualname__] = _tree(tree)
    visible = dict(compute.__globals__)
    if isinstance(obj, FunctionType):
        visible |= _closure(obj)
    for name in _global_names(compile(tree, "<definition>", "exec")):
        if name not in visible:  # a builtin, or an error that compute will meet
            continue
        if not _is_code(visible[name]):
            raise ValueError(
                f"{obj.__qualname__} reads the variable {name!r} of the notebook, which the record's "
                "key cannot see; pass it through config, or define it inside the function"
            )
        _reach(visible[name], compute, defined, modules)


def _closure(function: FunctionType) -> dict[str, Any]:
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a cell may still be empty
            values[name] = cell.cell_contents
    return values


def _is_code(value: Any) -> bool:
    """Modules, classes, functions and type hints: what stays as it is while a notebook runs."""
    value = inspect.unwrap(value)
    if inspect.isroutine(value):  # a method of an instance carries the instance along
        return isinstance(getattr(value, "__self__", None), ModuleType | type | None)
    return (
        isinstance(value, ModuleType | type | np.ufunc | GenericAlias | UnionType) or type(value).__module__ == "typing"
    )


def _definition(obj: Any, namespace: dict[str, Any]) -> ast.Module:
    """The syntax tree of a function or class. Python 3.11 cannot find the source of a notebook's class; the
    history of executed cells can."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(obj)))
    except (OSError, TypeError, SyntaxError):
        for source in reversed(namespace.get("In", [])):
            try:
                cell = ast.parse(source)
            except SyntaxError:
                continue
            for node in cell.body:
                if isinstance(node, ast.ClassDef) and node.name == obj.__qualname__:
                    return ast.Module([node], [])
    raise ValueError(f"the source of {obj.__qualname__} cannot be found; define it with def or class in a cell")


def _global_names(code: CodeType) -> Iterator[str]:
    """Names that a definition looks up outside itself, in decorators, defaults and inner functions too."""
    instructions = list(dis.get_instructions(code))
    local = {i.argval for i in instructions if i.opname == "STORE_NAME"}
    for i in instructions:
        if i.opname == "LOAD_GLOBAL" or i.opname == "LOAD_NAME" and i.argval not in local:
            if not i.argval.startswith("__"):
                yield i.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _global_names(inner)


def _tree(node: Any) -> Any:
    """A syntax tree as JSON: no positions, no docstrings, no empty fields (new Pythons add some)."""
    if isinstance(node, ast.Constant):
        return ["Constant", type(node.value).__name__, repr(node.value)]
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            fields["body"] = node.body[1:] if _is_docstring(node.body[:1]) else node.body
        return [type(node).__name__, {k: _tree(v) for k, v in fields.items() if v not in (None, [])}]
    return [_tree(item) for item in node] if isinstance(node, list) else node


def _is_docstring(first: list[ast.stmt]) -> bool:
    return (
        bool(first)
        and isinstance(first[0], ast.Expr)
        and isinstance(first[0].value, ast.Constant)
        and isinstance(first[0].value.value, str)
    )


def _imported(start: set[str]) -> list[str]:
    """The modules of this package that `start` brings in by the import statements in their files, itself too."""
    found, queue = set(), list(start)
    while queue:
        name = queue.pop()
        if name in found:
            continue
        found.add(name)
        path = _path(name)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                queue += [alias.name for alias in node.names if alias.name.partition(".")[0] == PACKAGE]
            elif isinstance(node, ast.ImportFrom):
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if base.partition(".")[0] == PACKAGE:
                    inner = [f"{base}.{alias.name}" for alias in node.names]
                    queue += [name if _exists(name) else base for name in inner]
    return sorted(found)


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False


def _path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"the source of module {name!r} cannot be found; reinstall the package")
    path = Path(spec.origin)
    if name in sys.modules and path.stat().st_mtime > _STARTED:
        raise ValueError(
            f"{path} changed after this Python started, which may still run the old code; restart the kernel"
        )
    return path
