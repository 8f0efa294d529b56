"""The code that a function reaches, by content: what a record's key hashes of it.

Reached are the definitions (functions, classes, constants) of the notebook and of the project's science package that
can be got to from `compute` by name. Each counts as its syntax tree, without docstrings, comments, annotations and the
text of raised errors. In it a name that is another definition's stands for that definition's content, whatever module
it is in and by whatever alias it is called, and the name of anything imported from elsewhere for what it imports. So
moving or renaming a module, another way of importing or another error message change nothing, and a changed constant,
function, default, method or class does. We write the trees down ourselves, because Python's own dump differs from one
version to the next.

What is read is the source. Where a module is used as a value (`getattr(module, name)`), all of it counts; where
functions of a module alter one of its variables, such as a registry, whoever reads the variable reaches all of the
module; and what importing a module does to the world counts with everything in it. Not seen: names put together from
text, and a registry that another module fills, unless that one is imported as well.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from measured.config import Config
from measured.project import project
from measured.record import cells, source, syntax
from measured.record.source import Name

MACHINERY = Path(__file__).parents[1]
EFFECTS = "<what importing it does>"
CELLS = "<all cells of the notebook>"


class Live(NamedTuple):
    """A function or class that a cell of the notebook has defined; itself, not what it may equal."""

    obj: Any

    def __hash__(self) -> int:
        return id(self.obj)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Live) and self.obj is other.obj


class Assigned(NamedTuple):
    """A name of the notebook to which a cell has assigned code, such as `mapped = torch.vmap(f)`."""

    variable: str


Target = source.Target | Live | Assigned
Known = Mapping[str, tuple[Target, ...]]
Node = tuple[Any, list[Hashable]]  # a definition's tree, in which references are numbered, and what they refer to


def digest(value: Any) -> str:
    """SHA-256 of `value` as JSON has it, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_key(compute: Callable, parameters: type[Config] = Config) -> str:
    """Hash of the code that `compute` reaches, the methods of `parameters` that it calls included. ValueError: it is no
    plain function; it reads a variable of the notebook, which the key could not see; a module's file is newer than what
    this Python has loaded."""
    compute = inspect.unwrap(compute)
    if not isinstance(compute, FunctionType) or compute.__name__ == "<lambda>":
        raise ValueError(f"compute must be a function written with def, got {compute!r}; wrap it in one")
    start = Live(compute)
    with source.counting(*source.packages()):
        return _Walk(compute.__module__, compute.__globals__, start, cells.methods(parameters)).key(start)


def reached_by_sources(notebooks: Mapping[str, Sequence[str]], packages: Sequence[str]) -> dict[str, str]:
    """Of each notebook, by name, a hash of its code cells and of all that they reach of these packages, by content,
    without a kernel: what can change the outputs. ValueError: a module is not there, or newer than what this Python has
    loaded."""
    described: dict[Any, Node] = {}
    with source.counting(*packages):
        walks = {name: _Walk("", {"In": list(cells)}, CELLS, {}, described) for name, cells in notebooks.items()}
    return {name: walk.key(CELLS) for name, walk in walks.items()}


class _Walk:
    """The notebook's definitions by their live values, the package's by their source."""

    def __init__(
        self,
        home: str,
        namespace: dict[str, Any],
        start: Hashable,
        methods: Mapping[str, Any],
        described: dict[Any, Node] | None = None,  # of the package, by walks at the same time
    ) -> None:
        self.home, self.namespace = home, namespace
        described = {} if described is None else described
        self.cells = cells.cells_of(self.namespace, self.home)
        self.left_out, self.root = source.left_out(), project().root
        self.nodes: dict[Any, Node] = {}
        self.attributes: set[str] = set()  # that are looked up anywhere
        queue: list[Any] = [start]
        while queue:
            while queue:
                node = queue.pop()
                if node not in self.nodes:
                    self.nodes[node] = described.get(node) or self._node(node)
                    if isinstance(node, Name):
                        described[node] = self.nodes[node]
                    queue += self.nodes[node][1]
            called = [Live(f) for name, f in methods.items() if name in self.attributes]
            queue = [node for node in (*called, *self._effects()) if node not in self.nodes]

    def key(self, start: Hashable) -> str:
        """Nodes are told apart by their trees, then by what they refer to, and so on until that tells no more of them
        apart. So recursion needs no case of its own."""
        trees = {node: digest(tree) for node, (tree, _) in self.nodes.items()}
        told, before = dict(trees), 0
        while len(set(told.values())) > before:
            before = len(set(told.values()))
            told = {node: digest([trees[node], [told[r] for r in refers]]) for node, (_, refers) in self.nodes.items()}
        return digest([told[start], sorted(set(told.values()))])

    # nodes

    def _effects(self) -> list[Name]:
        """What importing does, of the modules that were reached and of those imported with them."""
        reached = {node.module for node in self.nodes if isinstance(node, Name)}
        modules = source.imported_with(reached | self.cells.opened)
        return [Name(each, EFFECTS) for each in sorted(modules) if source.effects(each)]

    def _node(self, node: Any) -> Node:
        if node == CELLS:
            trees, imported = [syntax.plain(cell) for cell in self.namespace["In"]], self.cells.imported
            return self._described(trees, lambda names: {name: imported[name] for name in names & imported.keys()})
        if isinstance(node, Live):
            inside, reader = cells.closure(node.obj), node.obj.__qualname__
            tree = cells.tree_of(node.obj, self.cells)
            return self._described([tree], lambda names: self._seen_from_notebook(names, reader, inside))
        if isinstance(node, Assigned):
            name = node.variable
            return self._described(self.cells.bound[name], lambda names: self._seen_from_notebook(names, name, {}))
        module = source.module(node.module)
        if node.name is None:  # used as a value, which may be asked for anything
            names = sorted(module.defined.keys() | module.imported.keys())
            homes = [(name, home) for name in names for home in source.homes(Name(node.module, name))]
            inner = [(each.rpartition(".")[2], Name(each, None)) for each in source.submodules(node.module)]
            ours = [(name, at) for name, at in (*homes, *inner) if isinstance(at, Name) and at not in self.left_out]
            return [name for name, _ in ours], [at for _, at in ours]

        def known(names: frozenset[str]) -> Known:
            return {
                name: (*([Name(node.module, name)] if name in module.defined else ()), *module.imported.get(name, ()))
                for name in names & (module.defined.keys() | module.imported.keys())
            }

        statements = source.effects(node.module) if node.name == EFFECTS else module.defined[node.name]
        tree, refers = self._described(statements, known, module.package)
        if node.name in module.altered:
            others = [Name(node.module, name) for name in sorted(module.defined) if name != node.name]
            refers = [*refers, *(other for other in others if other not in self.left_out)]
        return tree, refers

    def _described(
        self, statements: Sequence[ast.AST], known: Callable[[frozenset[str]], Known], package: str = ""
    ) -> Node:
        trees, refers = [], list[Hashable]()
        for statement in statements:
            names = dict(known(syntax.looked_up(statement)))
            for name, targets in source.imports(statement, package).items():
                names[name] = tuple(dict.fromkeys((*names.get(name, ()), *targets)))
            trees.append(self._tree(statement, names, refers))
        return trees, refers

    def _tree(self, node: Any, names: Known, refers: list[Hashable]) -> Any:
        """A syntax tree as JSON: no positions, imports or empty fields (new Pythons add some)."""
        if isinstance(node, list):
            return [self._tree(each, names, refers) for each in node if not isinstance(each, syntax.IMPORTS)]
        if not isinstance(node, ast.AST):
            return node
        if isinstance(node, ast.Constant):
            return ["Constant", type(node.value).__name__, repr(node.value)]
        if isinstance(node, ast.Name | ast.Attribute) and (reference := self._reference(node, names, refers)):
            return reference
        if isinstance(node, ast.Attribute):
            self.attributes.add(node.attr)
        fields = {field: value for field, value in ast.iter_fields(node) if value not in (None, [])}
        return [type(node).__name__, {field: self._tree(value, names, refers) for field, value in fields.items()}]

    # references

    def _reference(self, node: ast.Name | ast.Attribute, names: Known, refers: list[Hashable]) -> Any:
        """What stands for a name that is not the tree's own: ["of", number] or ["from", path], and attributes of it."""
        attributes: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            attributes.insert(0, root.attr)
            root = root.value
        if not isinstance(root, ast.Name) or root.id not in names:
            return None
        self.attributes |= set(attributes)
        found = []
        for end, rest in [pair for target in names[root.id] for pair in _ends(target, attributes)]:
            if isinstance(end, str):
                reference: Any = ["from", _elsewhere(end, self.root)]
            elif end in self.left_out:
                reference = ["left out"]
            else:
                refers += [end] if end not in refers else []
                reference = ["of", refers.index(end)]
            for attribute in rest:
                reference = ["Attribute", reference, attribute]
            found += [reference] if reference not in found else []
        return found[0] if len(found) == 1 else ["any", found]

    def _constant(self, name: str, value: Any) -> Name | None:
        """The package's constant of that name, where nobody kept the cells that say what was imported: a kernel that is
        told to store no history, as nbval's is."""
        if any(self.namespace.get("In", ())):
            return None
        ours = sorted(filter(source.is_ours, sys.modules))
        return next((Name(module, name) for module in ours if vars(sys.modules[module]).get(name) is value), None)

    def _seen_from_notebook(self, names: frozenset[str], reader: str, inside: Mapping[str, Any]) -> Known:
        """What names are in the notebook, or `inside` the closure of what reads them. ValueError: one is a variable."""
        known: dict[str, tuple[Target, ...]] = {}
        for name in sorted(names):
            value: Any = inside[name] if name in inside else self.namespace.get(name)
            if name not in inside and name not in self.namespace or name.startswith("__") and name.endswith("__"):
                continue  # a builtin, or an error that compute will meet
            if isinstance(value, type) and issubclass(value, Config):  # its values count, and methods that are called
                known[name] = (f"{MACHINERY.name}.Config",)
            elif name not in inside and cells.gives(self.cells.imported.get(name, ()), value):
                known[name] = self.cells.imported[name]
            elif name not in inside and not cells.is_code(value) and (constant := self._constant(name, value)):
                known[name] = (constant,)
            elif not cells.is_code(value):
                raise ValueError(
                    f"{reader} reads the variable {name!r} of the notebook, which the record's "
                    "key cannot see; pass it through config, or define it inside the function"
                )
            elif name not in inside and name in self.cells.bound:
                bare = inspect.unwrap(value)
                is_def = isinstance(self.cells.bound[name][-1], syntax.DEFINITIONS)
                defined_here = isinstance(bare, FunctionType | type) and bare.__module__ == self.home
                live = [Live(bare)] if defined_here and bare.__qualname__.isidentifier() else []
                known[name] = (
                    (Live(bare),) if is_def and live and bare.__qualname__ == name else (Assigned(name), *live)
                )
            else:
                known[name] = self._by_value(value)
        return known

    def _by_value(self, value: Any) -> tuple[Target, ...]:
        """What a value is of which no cell says where it is from, such as one that a closure holds."""
        if isinstance(value, ModuleType):
            return (Name(value.__name__, None) if source.is_ours(value.__name__) else value.__name__,)
        if isinstance(value, MethodType):
            return (*self._by_value(value.__self__), value.__func__.__qualname__)
        bare = inspect.unwrap(value)
        home = getattr(bare, "__module__", None) or ""
        if source.is_ours(home):
            if at := cells.attribute_of_a_module(value, [home, *sorted(filter(source.is_ours, sys.modules))]):
                return source.homes(at)
            raise ValueError(f"{value!r} is no module's own; import what makes it, and make it inside the function")
        if home == self.home:
            return (Live(bare),)
        path = f"{home}.{getattr(bare, '__qualname__', type(bare).__name__)}"
        held = [v for v in cells.closure(bare).values() if cells.is_code(v)]  # of a library's wrapper
        ours = [v for v in held if getattr(inspect.unwrap(v), "__module__", None) == self.home]
        return (path, *(target for v in ours for target in self._by_value(v)))


def _ends(target: Target, attributes: list[str]) -> list[tuple[Target, list[str]]]:
    """As `source.ends`, of what is the notebook's too."""
    return [(target, attributes)] if isinstance(target, Live | Assigned) else [*source.ends(target, attributes)]


def _elsewhere(path: str, root: Path) -> str:
    """A dotted path, without the modules if it is of this machinery. ValueError: it is of the project's, but not of its
    package."""
    top, *inner = path.split(".")
    if top == MACHINERY.name:
        folder = MACHINERY
        while len(inner) > 1 and ((folder / inner[0]).is_dir() or (folder / f"{inner[0]}.py").is_file()):
            folder /= inner.pop(0)
        return ".".join([top, *inner])
    file = getattr(sys.modules.get(top), "__file__", None)
    if file and file.startswith(f"{root}{os.sep}") and not Path(file).is_relative_to(sys.prefix):
        raise ValueError(f"{path} is in {file}, which the record's key cannot see; move it into {project().package}")
    return path
