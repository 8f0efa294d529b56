"""The code that a function reaches, by content: what a record's key hashes of it.

Reached are the definitions (functions, classes, constants) of the notebook and of the project's science package that
can be got to from `compute` by name. Each counts as its syntax tree, in which

- docstrings, comments, layout, annotations, import statements and the text of raised errors are left out;
- the name of another definition is replaced by that definition's own name and content, whatever module it is
  in and by whatever alias it is called, and the name of anything imported from elsewhere by what it imports.

So moving or renaming a module, another way of importing, a new mirror or another error message change nothing, and a
changed constant, function, default, method or class does. We write the trees down ourselves, because Python's own dump
differs from one version of Python to the next.

What is read is the source: a name that is put together at run time (`getattr(module, name)`) is not followed further
than the module that it is looked up in, all of which then counts.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import importlib.util
import inspect
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, GenericAlias, MethodType, ModuleType, UnionType
from typing import Any, NamedTuple

import numpy as np

from measured.config import Config
from measured.project import project

_STARTED = time.time()


class Name(NamedTuple):
    """A definition of the package: the module that holds it and its name there; no name: the whole module."""

    module: str
    name: str | None


def digest(value: Any) -> str:
    """SHA-256 of `value` as JSON has it, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_key(compute: Callable) -> str:
    """Hash of the code that `compute` reaches. ValueError: it is no plain function; it reads a variable of the
    notebook, which the key could not see; a module's file is newer than what this Python has loaded."""
    return digest(reached(compute))


def reached(compute: Callable) -> list[Any]:
    """All that `code_key` hashes: [name, tree] of each definition, sorted."""
    compute = inspect.unwrap(compute)
    if not isinstance(compute, FunctionType) or compute.__name__ == "<lambda>":
        raise ValueError(f"compute must be a function written with def, got {compute!r}; wrap it in one")
    walk = _Walk(compute)
    walk.value(compute)
    while walk.queue:
        walk.definition(walk.queue.pop())
    return sorted(walk.found.values(), key=lambda entry: json.dumps(entry, sort_keys=True))


class _Walk:
    """The notebook's definitions by their live values, the package's by their source."""

    def __init__(self, compute: FunctionType) -> None:
        self.compute, self.package = compute, project().package
        self.found: dict[Any, Any] = {}  # of the notebook by qualified name, of the package by Name
        self.queue: list[Name] = []
        self.left_out = {tuple(entry.split(":")) for entry in project().not_in_key}
        for module, name in self.left_out:
            if module.partition(".")[0] == self.package and name not in _module(module).defined:
                raise ValueError(f"not_in_key in pyproject.toml names {module}:{name}, which is not there; correct it")

    def value(self, obj: Any) -> None:
        """Collect what a module, class or function brings with it."""
        obj = inspect.unwrap(obj)
        obj = obj.__self__ if isinstance(obj, MethodType) else obj
        home = obj.__name__ if isinstance(obj, ModuleType) else getattr(obj, "__module__", None) or ""
        if self._ours(home):
            if name := None if isinstance(obj, ModuleType) else obj.__qualname__.partition(".")[0]:
                self._wanted(Name(home, name))
        elif home == self.compute.__module__:
            self._of_notebook(obj)
        elif isinstance(obj, FunctionType):  # a library's wrapper closing over our function
            for value in _closure(obj).values():
                if getattr(value, "__module__", None) == self.compute.__module__ and _is_code(value):
                    self.value(value)

    def _ours(self, module: str) -> bool:
        return module.partition(".")[0] == self.package

    def _of_notebook(self, obj: Any) -> None:
        if obj.__qualname__ in self.found or isinstance(obj, type) and issubclass(obj, Config):
            return
        tree = _untyped(_source_of(obj, self.compute.__globals__))
        visible = dict(self.compute.__globals__)
        if isinstance(obj, FunctionType):
            visible |= _closure(obj)
        known: dict[str, Any] = {}
        self.found[obj.__qualname__] = None  # so that recursion ends
        for name in set(_global_names(compile(tree, "<definition>", "exec"))):
            if name not in visible:  # a builtin, or an error that compute will meet
                continue
            value = visible[name]
            if not _is_code(value):
                raise ValueError(
                    f"{obj.__qualname__} reads the variable {name!r} of the notebook, which the record's "
                    "key cannot see; pass it through config, or define it inside the function"
                )
            if isinstance(value, ModuleType):
                known[name] = Name(value.__name__, None) if self._ours(value.__name__) else value.__name__
            else:
                bare = inspect.unwrap(value)
                home = getattr(bare, "__module__", None) or ""
                if self._ours(home) and not isinstance(bare, MethodType):
                    known[name] = Name(home, bare.__qualname__.partition(".")[0])
                self.value(value)
        self.found[obj.__qualname__] = [obj.__qualname__, self._tree(tree, known, _imports(tree, "", self.package))]

    def definition(self, name: Name) -> None:
        """Collect one definition of the package, and queue what it names."""
        if name in self.found:
            return
        self.found[name] = None
        module = _module(name.module)
        trees = []
        for statement in module.defined[str(name.name)]:
            outer = set(_global_names(compile(ast.Module([statement], []), "<definition>", "exec")))
            known = {each: module.known[each] for each in outer & module.known.keys()}
            trees.append(self._tree(statement, known, _imports(statement, module.package, self.package)))
        self.found[name] = [name.name, trees]

    def _wanted(self, name: Name) -> Name | str | None:
        """Queue a definition, following re-exports to where it is defined; None where it is left out of keys. What the
        package only passes on from elsewhere is a dotted path."""
        home = _home(name)
        if isinstance(home, str):
            return home
        if (home.module, home.name) in self.left_out:
            return None
        if home.name is None:
            for each in _module(home.module).defined:
                self._wanted(Name(home.module, each))
        else:
            self.queue.append(home)
        return home

    def _tree(self, node: Any, known: Mapping[str, Any], inner: Mapping[str, Any]) -> Any:
        """A syntax tree as JSON: no positions, docstrings, imports or empty fields (new Pythons add some)."""
        names = {**known, **inner}

        def of(node: Any) -> Any:
            if isinstance(node, list):
                return [of(item) for item in node if not isinstance(item, ast.Import | ast.ImportFrom)]
            if not isinstance(node, ast.AST):
                return node
            if isinstance(node, ast.Constant):
                return ["Constant", type(node.value).__name__, repr(node.value)]
            if isinstance(node, ast.Name | ast.Attribute) and (reference := self._reference(node, names)):
                return reference
            fields = dict(ast.iter_fields(node))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                fields["body"] = node.body[1:] if _is_docstring(node.body[:1]) else node.body
            if isinstance(node, ast.Raise):
                fields = {"exc": _without_text(node.exc)}
            return [type(node).__name__, {k: of(v) for k, v in fields.items() if v not in (None, [])}]

        return of(node)

    def _reference(self, node: ast.Name | ast.Attribute, known: Mapping[str, Any]) -> Any:
        """What stands for a name that is not the tree's own: ["of", name, shallow content] or ["from", path]."""
        path, root = [], node
        while isinstance(root, ast.Attribute):
            path.append(root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id not in known:
            return None
        at: Any = known[root.id]
        path.reverse()
        while isinstance(at, Name) and at.name is None and path:  # a module, and what is looked up in it
            at = _member(at.module, path.pop(0))
        if isinstance(at, str):
            reference: Any = ["from", at]
        else:
            home = self._wanted(at)
            if isinstance(home, str):
                reference = ["from", home]
            else:
                reference = ["of", at.name] if home is None or home.name is None else ["of", home.name, _shallow(home)]
        for attribute in path:
            reference = ["Attribute", reference, attribute]
        return reference


class _Module(NamedTuple):
    """A module's source: the statements that define or alter each name, and what each name in it stands for."""

    package: str
    defined: dict[str, list[ast.stmt]]
    known: dict[str, Any]


def _module(name: str) -> _Module:
    path = _path(name)
    return _parsed(name, path, path.stat().st_mtime_ns)


@cache
def _parsed(name: str, path: Path, _changed: int) -> _Module:
    science = project().package
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    defined: dict[str, list[ast.stmt]] = {}
    tree = _untyped(ast.parse(path.read_bytes()))
    statements = [s for s in tree.body if not isinstance(s, ast.Import | ast.ImportFrom)]
    loose = []
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.setdefault(statement.name, []).append(statement)
        elif not _is_docstring([statement]):
            targets = _targets(statement)
            for target in targets:
                defined.setdefault(target, []).append(statement)
            if not targets:
                loose.append(statement)
    for statement in loose:  # a call that registers or alters something
        for used in {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)} & defined.keys():
            defined[used].append(statement)
    known = _imports(ast.Module(_top_level_imports(path), []), package, science)
    return _Module(package, defined, known | {each: Name(name, each) for each in defined})


def _untyped(tree: ast.Module) -> ast.Module:
    """The tree without annotations, which change no result; what they annotate stays."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.copy_location(ast.Constant(None), node.annotation)
    return tree


def _top_level_imports(path: Path) -> list[ast.stmt]:
    """Import statements outside of functions and classes, those under `if TYPE_CHECKING` and in `try` too."""
    found, queue = [], list(ast.parse(path.read_bytes()).body)
    while queue:
        statement = queue.pop(0)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found.append(statement)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            queue += [s for s in ast.iter_child_nodes(statement) if isinstance(s, ast.stmt)]
    return found


def _targets(statement: ast.stmt) -> set[str]:
    """The names that a module-level statement assigns to, or changes an entry of."""
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            root: ast.expr = node
            while isinstance(root, ast.Subscript | ast.Attribute):
                root = root.value
            names |= {root.id} if isinstance(root, ast.Name) else set()
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def _imports(tree: ast.AST, package: str, science: str) -> dict[str, Any]:
    """What the import statements of a tree bind: a Name where it is the project's, else the dotted path."""
    bound: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                path = alias.name if alias.asname else alias.name.partition(".")[0]
                bound[alias.asname or path] = Name(path, None) if path.partition(".")[0] == science else path
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                ours = base.partition(".")[0] == science
                bound[alias.asname or alias.name] = _member(base, alias.name) if ours else f"{base}.{alias.name}"
    return bound


def _member(module: str, name: str) -> Name:
    """What `module.name` is: a module of the package, or a definition."""
    inner = f"{module}.{name}"
    is_package = _path(module).name == "__init__.py"
    if is_package and name not in _module(module).defined and _exists(inner):
        return Name(inner, None)
    return Name(module, name)


def _home(name: Name) -> Name | str:
    """Where a name is defined: re-exports are followed, out of the package too. ValueError: it is nowhere."""
    for _ in range(20):
        if name.name is None:
            return name
        module = _module(name.module)
        if name.name in module.defined:
            return name
        onward = module.known.get(name.name)
        if isinstance(onward, str):
            return onward
        if onward is None:
            raise ValueError(
                f"{name.module}.{name.name} cannot be found in its source; define it with def, class or an assignment"
            )
        name = onward
    raise ValueError(f"{name.module}.{name.name} is re-exported in a circle; import it from where it is defined")


@cache
def _shallow_of(name: Name, _changed: int) -> str:
    trees = [ast.unparse(_bare(statement)) for statement in _module(name.module).defined[str(name.name)]]
    return digest(trees)[:16]


def _shallow(name: Name) -> str:
    """Tells definitions of one name from each other, when a tree refers to them."""
    return _shallow_of(name, _path(name.module).stat().st_mtime_ns)


def _bare(statement: ast.stmt) -> ast.AST:
    """A definition's outline, the names of its arguments or of a class's methods: enough to tell two of one name apart,
    and nothing that an import or an error message changes."""
    match statement:
        case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args):
            return ast.Tuple(
                [ast.Constant(a.arg) for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]], ast.Load()
            )
        case ast.ClassDef(body=body):
            return ast.Tuple([ast.Constant(n.name) for n in body if isinstance(n, ast.FunctionDef)], ast.Load())
        case _:
            return ast.Constant(type(statement).__name__)


def _without_text(exc: ast.expr | None) -> ast.expr | None:
    """A raised exception without its words; arguments that are no text stay."""
    if not isinstance(exc, ast.Call):
        return exc
    kept = [a for a in exc.args if not any(isinstance(n, ast.JoinedStr | ast.Constant) for n in _strings(a))]
    return ast.Call(exc.func, kept, exc.keywords)


def _strings(node: ast.expr) -> Iterator[ast.expr]:
    """The node, and the sides of a sum: where text that is put together has its literals."""
    match node:
        case ast.BinOp(left=left, right=right):
            yield from (*_strings(left), *_strings(right))
        case ast.Call(func=ast.Attribute(value=value)):
            yield from _strings(value)
        case ast.Constant(value=str()) | ast.JoinedStr():
            yield node


def _is_docstring(first: list[ast.stmt]) -> bool:
    return (
        bool(first)
        and isinstance(first[0], ast.Expr)
        and isinstance(first[0].value, ast.Constant)
        and isinstance(first[0].value.value, str)
    )


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


def _source_of(obj: Any, namespace: dict[str, Any]) -> ast.Module:
    """The syntax tree of a notebook's function or class. Python 3.11 cannot find the source of a notebook's class; the
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
