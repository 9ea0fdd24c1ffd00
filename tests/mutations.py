"""Changes of a module's source: a given one to a function, or every small one that there is."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from copy import copy
from typing import Any, NamedTuple

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
}
NUMBERS = {0: 1, 1: 2}


class Mutation(NamedTuple):
    line: int
    right: str
    wrong: str
    source: str
    """The whole module, with the change."""


class Edit:
    """Replaces parts of a source text, which are given as nodes of its tree."""

    def __init__(self, source: str) -> None:
        self.text = source.encode()
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line.encode()))

    def span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[node.end_lineno - 1] + node.end_col_offset

    def replaced(self, node: ast.stmt | ast.expr, other: ast.stmt | ast.expr) -> Mutation:
        begin, end = self.span(node)
        wrong = ast.unparse(other)
        if isinstance(other, ast.expr):
            wrong = f"({wrong})"
        else:
            wrong = textwrap.indent(wrong, " " * node.col_offset).lstrip()
        mutated = (self.text[:begin] + wrong.encode() + self.text[end:]).decode()
        return Mutation(node.lineno, self.text[begin:end].decode(), wrong, mutated)


# Given changes. In a pattern, a name that begins with an underscore stands for any expression, the
# same one wherever it's named again (`_` for a different one each time); `...` for any body.


def change(source: str, function: str, right: str, wrong: str) -> Mutation:
    """The one place in a function, given by its qualified name, that matches a pattern, changed.

    Neither the layout nor the names of locals count. Raises `LookupError` unless it's one place.
    """
    pattern = parse(right)
    scope = find_function(ast.parse(source), function)
    found = []
    for node in ast.walk(scope):
        names: dict[str, ast.AST] = {}
        if isinstance(node, ast.stmt | ast.expr) and matches(pattern, node, names):
            found.append((node, names))
    if len(found) != 1:
        raise LookupError(f"{function} has {len(found)} places like: {right}")
    ((node, names),) = found
    return Edit(source).replaced(node, Filled(names).visit(parse(wrong)))


def parse(code: str) -> ast.stmt | ast.expr:
    (statement,) = ast.parse(code).body
    is_expression = isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Await)
    return statement.value if is_expression else statement


def find_function(tree: ast.AST, qualified_name: str) -> ast.AST:
    for name in qualified_name.split("."):
        inner = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [each for each in tree.body if isinstance(each, inner) and each.name == name]
        if not found:
            raise LookupError(f"there's no {qualified_name}")
        tree = found[-1]  # behind its overloads
    return tree


def matches(pattern: Any, node: Any, names: dict[str, ast.AST]) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id.startswith("_"):
        if not isinstance(node, ast.expr):
            return False
        known = node if pattern.id == "_" else names.setdefault(pattern.id, node)
        return ast.unparse(known) == ast.unparse(node)
    if isinstance(pattern, list):
        if len(pattern) == 1 and is_ellipsis(pattern[0]):
            return True
        return len(pattern) == len(node) and all(
            matches(*pair, names) for pair in zip(pattern, node, strict=True)
        )
    if not isinstance(pattern, ast.AST):
        return pattern == node
    return type(pattern) is type(node) and all(
        matches(getattr(pattern, field, None), getattr(node, field, None), names)
        for field in pattern._fields
        if field not in ("ctx", "type_comment", "kind")
    )


def is_ellipsis(node: object) -> bool:
    return isinstance(node, ast.Expr) and ast.unparse(node) == "..."


class Filled(ast.NodeTransformer):
    """Puts in for the names of a pattern what they stood for."""

    def __init__(self, names: dict[str, ast.AST]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.names.get(node.id, node)


# All small changes.


def mutations(source: str) -> list[Mutation]:
    """In the order of the source; some make no difference that a test could see."""
    edit = Edit(source)
    return [
        edit.replaced(node, variant)
        for node in code_of(ast.parse(source))
        for variant in variants(node)
    ]


def code_of(tree: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """The nodes inside functions, but for types, messages and assertions."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            overloads = any(ast.unparse(each) == "overload" for each in function.decorator_list)
            if not overloads and function.name != "__repr__":
                for statement in function.body:
                    yield from inside(statement)


def inside(node: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    said = ast.Assert | ast.Raise | ast.AnnAssign | ast.JoinedStr
    if isinstance(node, said | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    if isinstance(node, ast.stmt | ast.expr):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from inside(child)


def variants(node: ast.stmt | ast.expr) -> Iterator[ast.stmt | ast.expr]:
    """What may stand in place of a node."""
    match node:
        case ast.Expr(ast.Constant()):
            pass  # a docstring
        case ast.Expr() | ast.Assign() | ast.Delete():
            yield ast.Pass()
        case ast.AugAssign(op=ast.Add() | ast.Sub()):
            yield ast.Pass()
            yield changed(node, op=SWAPPED[type(node.op)]())
        case ast.Compare(ops=[op]):
            yield changed(node, ops=[SWAPPED[type(op)]()])
        case ast.BoolOp():
            yield changed(node, op=SWAPPED[type(node.op)]())
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            yield changed(node, op=SWAPPED[type(node.op)]())
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.IfExp():
            yield changed(node, body=node.orelse, orelse=node.body)
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int()) if node.value in NUMBERS:
            yield ast.Constant(NUMBERS[node.value])


def changed(node: ast.AST, **fields: object) -> ast.AST:
    other = copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
