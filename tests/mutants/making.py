"""Mutants of a module: every function of it with one small change."""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.helpers import ensure_type

from tests.mutants.operators import is_words, replacements


@dataclass(frozen=True)
class Mutant:
    """One change of one function.

    Attributes
    ----------
    function : str
        Its qualified name.
    diff : str
        The lines that differ, `- ` before and `+ ` after, without their indentation: it stays the
        same when the function moves.
    source : str
        The function with the change, alone in its module and classes.
    """

    module: str
    function: str
    diff: str
    source: str


def mutants(path: Path, *, module: str) -> Iterator[Mutant]:
    """All mutants of a file that differ from it and from each other, in the order of the code."""
    tree = cst.parse_module(path.read_text())
    for name, function in _functions(tree.body):
        before = _alone(tree, function, name=name)
        seen = {ast.dump(ast.parse(before))}
        for node in _changeable(function):
            for changed in replacements(node):
                mutated = ensure_type(function.deep_replace(node, changed), cst.FunctionDef)
                source = _alone(tree, mutated, name=name)
                try:
                    known = ast.dump(ast.parse(source))
                except SyntaxError:
                    continue
                if known not in seen:
                    seen.add(known)
                    yield Mutant(module, name, _diff(before, source), source)


def _functions(
    body: Sequence[cst.CSTNode], *, inside: str = ""
) -> Iterator[tuple[str, cst.FunctionDef]]:
    for node in body:
        if isinstance(node, cst.FunctionDef):
            yield inside + node.name.value, node
        elif isinstance(node, cst.ClassDef):
            yield from _functions(node.body.body, inside=f"{inside}{node.name.value}.")


def _changeable(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A node and what is inside it, but for words."""
    if is_words(node):
        return
    yield node
    if not isinstance(node, cst.Raise):
        for child in node.children:
            yield from _changeable(child)


def _alone(tree: cst.Module, function: cst.FunctionDef, *, name: str) -> str:
    """The source of a function inside its classes, in a module of its own."""
    text = tree.code_for_node(function.with_changes(leading_lines=(), decorators=()))
    *classes, _ = name.split(".")
    for owner in reversed(classes):
        text = f"class {owner}:\n" + textwrap.indent(text, "    ")
    return "from __future__ import annotations\n" + text


def _diff(before: str, after: str) -> str:
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))
    changed = [line for line in lines[2:] if not line.startswith("@@")]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in changed)
