"""Every small change that might be made to a module: what `mutants.py` plants at random."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

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


def mutations(source: str) -> list[Mutation]:
    """In the order of the source; some change nothing that anybody could notice."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    text = source.encode()
    found = []
    for node in code_of(ast.parse(source)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        right = text[begin:end].decode()
        for variant in variants(node):
            wrong = ast.unparse(variant)
            if isinstance(variant, ast.expr):
                wrong = f"({wrong})"
            mutated = (text[:begin] + wrong.encode() + text[end:]).decode()
            found.append(Mutation(node.lineno, right, wrong, mutated))
    return found


def code_of(tree: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """The nodes inside functions, but for what's only said: types, messages, assertions."""
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
