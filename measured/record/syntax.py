"""Syntax trees of Python without what changes no result, and the names in them."""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from functools import cache
from types import CodeType
from typing import Any

DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
IMPORTS = ast.Import | ast.ImportFrom
ALTERING = frozenset(
    "add append appendleft clear discard extend insert pop popitem register remove reverse setdefault sort update"
    .split()
)  # fmt: skip


def plain(source: str | bytes) -> ast.Module:
    """The tree of some source without docstrings, comments, annotations, imports for these, and the text of raised
    errors and assertions. A field of a class keeps its place, without its type."""
    return ast.fix_missing_locations(_Plain().visit(ast.parse(source)))


class _Plain(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                field.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if isinstance(node.annotation, ast.Constant) and node.annotation.value is None:  # a field
            return self.generic_visit(node)
        return self.generic_visit(ast.Assign([node.target], node.value)) if node.value else None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        node.cause = None
        if isinstance(node.exc, ast.Call):
            node.exc.args = [a for a in node.exc.args if not any(_texts(a))]
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if isinstance(node.test, ast.Name | ast.Attribute) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return [self.visit(statement) for statement in node.orelse] or None
        return self.generic_visit(node)


def _texts(node: ast.expr) -> Iterator[bool]:
    """True where an argument is text, perhaps put together by + or a method of text."""
    match node:
        case ast.BinOp(left=left, right=right):
            yield from (*_texts(left), *_texts(right))
        case ast.Call(func=ast.Attribute(value=value)):
            yield from _texts(value)
        case ast.Constant(value=str()) | ast.JoinedStr():
            yield True


@cache
def looked_up(tree: ast.AST) -> frozenset[str]:
    """Names that a definition looks up outside itself, in decorators, defaults and inner functions too."""
    body = tree if isinstance(tree, ast.Module) else ast.Module([tree], [])  # type: ignore[list-item]
    return frozenset(_looked_up(compile(body, "<definition>", "exec")))


def _looked_up(code: CodeType) -> Iterator[str]:
    stored = set()
    for i in dis.get_instructions(code):
        if i.opname == "STORE_NAME":
            stored.add(i.argval)
        elif i.opname in ("LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS") or (
            i.opname == "LOAD_NAME" and i.argval not in stored
        ):
            yield i.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _looked_up(inner)


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module or a cell defines or assigns to, not those of functions within it."""
    names: set[str] = set()
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop()
        if isinstance(node, DEFINITIONS):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            queue += ast.iter_child_nodes(node)
    return names


def altered(tree: ast.AST) -> set[str]:
    """The names whose entries, attributes or content a tree alters, and those that it declares global."""
    names = bound_globally(tree)
    for node in ast.walk(tree):
        changed: ast.AST | None = None
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            changed = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            verb = node.func.attr
            changed = node.func if verb in ALTERING or verb.endswith("_") else None
        names |= {root(changed)} if changed else set()
    return names - {""}


def bound_globally(tree: ast.AST) -> set[str]:
    """The names that functions of a tree declare global."""
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}


def root(node: ast.AST) -> str:
    """The name that an attribute, an entry or a call begins with; "" where it is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def outer_imports(tree: ast.Module) -> ast.Module:
    """The import statements that are executed with the tree: none of those in functions and classes."""
    found: list[ast.stmt] = []
    queue: list[ast.AST] = [*tree.body]
    while queue:
        node = queue.pop(0)
        if isinstance(node, IMPORTS):
            found.append(node)
        elif isinstance(node, ast.stmt | ast.excepthandler) and not isinstance(node, DEFINITIONS):
            queue += ast.iter_child_nodes(node)
    return ast.Module(found, [])


def does_something(statement: ast.stmt) -> bool:
    """Whether a statement that binds no name does anything when a module is imported, other than importing."""
    if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
        return False
    doing = ast.Expr | ast.Assign | ast.AugAssign | ast.Delete | ast.Assert
    return any(isinstance(node, doing) for node in ast.walk(statement))
