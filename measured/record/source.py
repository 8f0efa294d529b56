"""The science package as its source has it: what each module defines, imports, and does when it is imported."""

from __future__ import annotations

import ast
import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import NamedTuple

from measured.project import project
from measured.record import syntax

_STARTED = time.time()
_counted: ContextVar[tuple[str, ...]] = ContextVar("_counted", default=())


class Name(NamedTuple):
    """A definition of the package: the module that holds it and its name there; no name: the whole module."""

    module: str
    name: str | None


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Target = Name | str  # what a name stands for; the dotted path of what is not the package's


class Module(NamedTuple):
    """A module: the statements that define or alter each name; what each imported name may stand for, and the modules
    imported; the statements that do something else to the world, and definitions with a decorator of ours, which may;
    the names that functions of the module alter."""

    package: str
    defined: dict[str, list[ast.stmt]]
    imported: dict[str, tuple[Target, ...]]
    opened: frozenset[str]
    effects: list[ast.stmt]
    decorated: list[Definition]
    altered: frozenset[str]


def packages() -> tuple[str, ...]:
    """The packages whose code counts: the project's science, unless `counting` says otherwise."""
    return _counted.get() or (project().package,)


@contextmanager
def counting(*names: str) -> Iterator[None]:
    """Within the block these packages count."""
    token = _counted.set(names)
    try:
        yield
    finally:
        _counted.reset(token)


def is_ours(path: str) -> bool:
    """Whether a module, or what is in it, is of a package that counts."""
    return path.partition(".")[0] in packages()


def module(name: str) -> Module:
    """The module of that name. ValueError: its source is not there, or newer than what this Python has loaded."""
    path = _path(name)
    if name in sys.modules and path and path.is_file() and path.stat().st_mtime > _STARTED:
        raise ValueError(
            f"{path} changed after this Python started, which may still run the old code; restart the kernel"
        )
    return unchecked(name)


def unchecked(name: str) -> Module:
    """As `module`, however new the file is."""
    path = _path(name)
    if path is None:
        raise ValueError(f"the source of module {name!r} cannot be found; reinstall the package")
    return _parsed(name, path, packages(), path.stat().st_mtime_ns)


@cache
def _parsed(name: str, path: Path, _packages: tuple[str, ...], _changed: int) -> Module:
    if path.is_dir():  # without an __init__
        return Module(name, {}, {}, frozenset(), [], [], frozenset())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = syntax.plain(path.read_bytes())
    outer = syntax.outer_imports(tree)
    imported = imports(outer, package)
    defined: dict[str, list[ast.stmt]] = {}
    effects: list[ast.stmt] = []
    decorated: list[Definition] = []
    altered: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, syntax.IMPORTS):
            continue
        names = syntax.bound(statement)
        if isinstance(statement, syntax.DEFINITIONS):
            roots = {syntax.root(each) for each in statement.decorator_list}
            if roots & defined.keys() or any(isinstance(t, Name) for each in roots for t in imported.get(each, ())):
                decorated.append(statement)
        else:
            names |= syntax.altered(statement) & defined.keys()
            effects += [statement] if not names and syntax.does_something(statement) else []
        for each in names:
            defined.setdefault(each, []).append(statement)
        for function in ast.walk(statement):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                is_global = syntax.looked_up(function) | syntax.bound_globally(function)
                altered |= syntax.altered(function) & is_global
    lasting = frozenset(altered & defined.keys())
    return Module(package, defined, imported, opened(outer, package), effects, decorated, lasting)


def effects(name: str) -> list[ast.stmt]:
    """What importing a module does other than to define its names: its loose statements, and what is decorated by
    something that keeps it, such as a registry."""
    there = unchecked(name)
    kept = [s for s in there.decorated if any(_keeps(each, there, name) for each in s.decorator_list)]
    return [*there.effects, *kept]


def _keeps(decorator: ast.expr, there: Module, name: str) -> bool:
    """Whether a decorator alters a variable of its module, or is a method of one (`f.register`)."""
    steps: list[str] = []
    at = decorator.func if isinstance(decorator, ast.Call) else decorator
    while isinstance(at, ast.Attribute):
        steps.insert(0, at.attr)
        at = at.value
    if not isinstance(at, ast.Name):
        return True
    targets = [Name(name, at.id)] if at.id in there.defined else there.imported.get(at.id, ())
    for home, rest in [end for target in targets for end in ends(target, steps)]:
        if isinstance(home, Name):
            module = unchecked(home.module)
            alters = any(syntax.altered(each) & module.altered for each in module.defined.get(home.name or "", ()))
            if rest or alters:
                return True
    return False


def imports(tree: ast.AST, package: str) -> dict[str, tuple[Target, ...]]:
    """What the import statements of a tree, wherever in it, bind. ValueError: a star."""
    bound: dict[str, tuple[Target, ...]] = {}
    for node in ast.walk(tree):
        found: dict[str, Target] = {}
        if isinstance(node, ast.Import):
            for alias in node.names:
                path = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or path] = Name(path, None) if is_ours(path) else path
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            for alias in node.names:
                if alias.name == "*" and is_ours(base):
                    raise ValueError(f"`from {base} import *` hides what is used; name what you import")
                path = f"{base}.{alias.name}"
                found[alias.asname or alias.name] = Name(base, alias.name) if is_ours(base) else path
        for name, target in found.items():
            bound[name] = tuple(dict.fromkeys((*bound.get(name, ()), target)))
    return bound


def opened(tree: ast.AST, package: str) -> frozenset[str]:
    """The modules, of the package or not, that the import statements of a tree import, and names that may be some."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _base(node: ast.ImportFrom, package: str) -> str:
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def homes(target: Target) -> tuple[Target, ...]:
    """Where a name is defined: re-exports are followed, out of the package too. Several where it depends, as after an
    import in a `try`. ValueError: nowhere."""
    found: list[Target] = []
    queue, seen = [target], set()
    while queue:
        at = queue.pop(0)
        if at in seen:
            continue
        seen.add(at)
        if isinstance(at, str) or at.name is None:
            found.append(at)
            continue
        there, inner = module(at.module), f"{at.module}.{at.name}"
        onward = tuple(each for each in there.imported.get(at.name, ()) if each != at)  # a submodule, imported
        queue += onward
        if at.name in there.defined:
            found.append(at)
        elif not onward and _path(inner) is not None:
            found.append(Name(inner, None))
        elif not onward and at.name.startswith("__"):
            found.append(at.name)
        elif not onward:
            raise ValueError(f"{inner} cannot be found in its source; define it with def, class or an assignment")
    if not found:
        raise ValueError(f"{target} is re-exported in a circle; import it from where it is defined")
    return tuple(found)


def ends(target: Target, attributes: list[str]) -> list[tuple[Target, list[str]]]:
    """What a name and attributes of it come to: where it is defined, and the attributes that are left."""
    found: list[tuple[Target, list[str]]] = []
    for home in homes(target):
        if isinstance(home, str):
            found.append((".".join([home, *attributes]), []))
        elif home.name is None and attributes:
            found += ends(Name(home.module, attributes[0]), attributes[1:])
        else:
            found.append((home, attributes))
    return found


def submodules(name: str) -> list[str]:
    """The modules right within a package; none in a module."""
    path = _path(name)
    if path is None or path.is_file() and path.name != "__init__.py":
        return []
    folder = path if path.is_dir() else path.parent
    inner = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    return [f"{name}.{each}" for each in sorted(inner - {"__init__", "__main__"})]


def imported_with(modules: set[str]) -> set[str]:
    """These modules of the package, and all that Python imports with them."""
    found: set[str] = set()
    queue = sorted(modules)
    while queue:
        name = queue.pop()
        if name in found or not is_ours(name) or _path(name) is None:
            continue
        found.add(name)
        queue.append(name.rpartition(".")[0])
        queue += unchecked(name).opened
    return found


def left_out() -> set[Name]:
    """What the project leaves out of keys. ValueError: it is not there."""
    found = set()
    for entry in project().not_in_key:
        there, _, name = entry.partition(":")
        if not is_ours(there) or _path(there) is None or name not in unchecked(there).defined:
            raise ValueError(f"not_in_key in pyproject.toml names {entry!r}, which is not there; write module:NAME")
        found.add(Name(there, name))
    return found


@cache
def _installed(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec and spec.origin else None


def _beside(name: str) -> Path | None:
    """What lies in the project's folder and is not installed, as benchmarks/."""
    folder = project().root / name
    return next((path for path in (folder / "__init__.py", folder.with_suffix(".py")) if path.exists()), None)


def _path(name: str) -> Path | None:
    """The file of a module, or the folder of a package without a file; None where there is neither."""
    top, *inner = name.split(".")
    path = _installed(top) or _beside(top)
    if not inner or path is None:
        return path
    if path.name != "__init__.py":
        return None
    base = path.parent.joinpath(*inner)
    return next((p for p in (base / "__init__.py", base.with_name(f"{base.name}.py"), base) if p.exists()), None)
