"""The small changes that a test should notice.

Mutmut's operators and our own, each a function from a LibCST node to the nodes that may stand in
its place. What is only words is left alone: strings, the arguments of `raise`, annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import libcst as cst
from libcst import matchers as m
from mutmut.mutation.mutators import (
    mutation_operators,
    operator_arg_removal,
    operator_assignment,
    operator_dict_arguments,
    operator_string,
)

Operator = Callable[[Any], Iterable[cst.CSTNode]]
STRINGS = (cst.SimpleString, cst.FormattedString, cst.ConcatenatedString)


def is_words(node: cst.CSTNode) -> bool:
    """Whether a node is text for people, and so are the nodes inside it."""
    return isinstance(node, (*STRINGS, cst.Annotation, cst.Decorator))


def replacements(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Everything that may stand in the place of this node, one change each."""
    for kind, operator in OPERATORS:
        if isinstance(node, kind):
            yield from operator(node)


def _arguments(node: cst.Call) -> Iterator[cst.CSTNode]:
    """Mutmut's change or removal of one argument, unless that argument is words."""
    for changed in operator_arg_removal(node):
        assert isinstance(changed, cst.Call)
        kept = {id(argument) for argument in changed.args}
        (gone,) = (argument for argument in node.args if id(argument) not in kept)
        nullified = len(changed.args) == len(node.args)
        if not (isinstance(gone.value, STRINGS) or (nullified and _is_false(gone.value))):
            yield changed


def _assignment(node: cst.Assign | cst.AnnAssign) -> Iterator[cst.CSTNode]:
    """Mutmut's assignment of None, unless text or as good as None was assigned."""
    same = isinstance(node.value, STRINGS) or _is_false(node.value) or _is_none(node.value)
    if not same:
        yield from operator_assignment(node)


def _is_false(node: cst.CSTNode | None) -> bool:
    """Whether None in its place would make no difference worth a test; True does, and is tried."""
    return node is not None and m.matches(node, m.Name("False"))


def _is_none(node: cst.CSTNode | None) -> bool:
    return node is not None and m.matches(node, m.Name("None"))


def _statement(node: cst.SimpleStatementLine) -> Iterator[cst.CSTNode]:
    """Leave a statement out."""
    first = node.body[0]
    docstring = m.matches(first, m.Expr(m.OneOf(m.SimpleString(), m.ConcatenatedString())))
    if docstring or isinstance(first, (cst.Pass, cst.Return, cst.Global, cst.Nonlocal)):
        return
    yield node.with_changes(body=[cst.Pass()])


def _return(node: cst.Return) -> Iterator[cst.CSTNode]:
    if not (node.value is None or _is_false(node.value) or _is_none(node.value)):
        yield node.with_changes(value=cst.Name("None"))


def _condition(node: cst.If | cst.CompIf) -> Iterator[cst.CSTNode]:
    """Take one branch whatever the condition says."""
    for value in ("True", "False"):
        yield node.with_changes(test=cst.Name(value))


def _operand(node: cst.BooleanOperation) -> Iterator[cst.CSTNode]:
    """Leave out one side of an `and` or `or`."""
    yield node.left
    yield node.right


def _extreme(node: cst.Call) -> Iterator[cst.CSTNode]:
    """Let one argument of `min` or `max` win."""
    if m.matches(node.func, m.Name("min") | m.Name("max")):
        plain = [each for each in node.args if each.keyword is None and not each.star]
        if len(plain) > 1:
            yield from (each.value for each in plain)


def _element(node: cst.List | cst.Tuple | cst.Set | cst.Dict) -> Iterator[cst.CSTNode]:
    """Leave out one element."""
    elements: list[Any] = list(node.elements)
    if isinstance(node, cst.Set) and len(elements) == 1:
        return
    for at in range(len(elements)):
        rest = [*elements[:at], *elements[at + 1 :]]
        if rest and isinstance(node, (cst.Set, cst.List, cst.Dict)):
            rest[-1] = rest[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        elif len(rest) == 1:
            rest[0] = rest[0].with_changes(comma=cst.Comma())
        yield node.with_changes(elements=rest)


# Text is not changed; the other two are wrapped above.
_LEFT_OUT = (
    operator_arg_removal,
    operator_assignment,
    operator_dict_arguments,
    operator_string,
)
OPERATORS: tuple[tuple[type | tuple[type, ...], Operator], ...] = (
    *((kind, operator) for kind, operator in mutation_operators if operator not in _LEFT_OUT),
    ((cst.Assign, cst.AnnAssign), _assignment),
    (cst.Call, _arguments),
    (cst.Call, _extreme),
    (cst.SimpleStatementLine, _statement),
    (cst.Return, _return),
    ((cst.If, cst.CompIf), _condition),
    (cst.BooleanOperation, _operand),
    ((cst.List, cst.Tuple, cst.Set, cst.Dict), _element),
)
