"""Pieces of llama.cpp's grammar notation. Pure.

https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from re import _parser as regex_parser  # type: ignore[attr-defined]  # the only parser there is
from typing import Any, Final

from shared.errors import TidegateError

REPETITIONS_MAX: Final = 1_999
"""What llama.cpp's parser accepts in braces."""

GROUPS_MAX: Final = 100
"""llama.cpp's parser recurses into parentheses; far more of them would end the process."""

_DIGITS_MAX: Final = 16
_CODE_MAX: Final = 0x10FFFF
# Characters that a JSON string cannot hold as they are, in ranges.
_NOT_PLAIN: Final = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0xD800, 0xDFFF))
_CLASSES: Final = {
    "CATEGORY_DIGIT": ((0x30, 0x39),),
    "CATEGORY_WORD": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "CATEGORY_SPACE": ((0x20, 0x20),),
}
_Range = tuple[int, int]


class GrammarError(TidegateError):
    """A grammar or schema that cannot be followed; the message says what is wrong with it."""

    code = "grammar"


def check_grammar(text: str) -> None:
    """Refuse what llama.cpp's parser would not survive.

    Raises
    ------
    GrammarError
        When groups are nested too deeply.
    """
    depth = 0
    for sign in re.findall(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[()]', text, re.DOTALL):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth > GROUPS_MAX:
            raise GrammarError(f"its parentheses are nested more than {GROUPS_MAX} deep")


def literal(text: str) -> str:
    """A text as a grammar says it.

    Examples
    --------
    >>> print(literal('say "hi"'))
    "say \\"hi\\""
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'


def repeated(item: str, low: int, high: int | None) -> str:
    """A rule's name, or one sign, so many times.

    Raises
    ------
    GrammarError
        When llama.cpp does not count so far, or nothing is between the bounds.
    """
    if max(low, high or 0) > REPETITIONS_MAX:
        raise GrammarError(f"it repeats something more than {REPETITIONS_MAX} times")
    if high is None:
        return f"{item}*" if low == 0 else f"{item}{{{low},}}"
    if high < low:
        raise GrammarError(f"something should come at least {low} and at most {high} times")
    return f"{item}{{{low},{high}}}" if high else '""'


def integers_between(low: int | None, high: int | None) -> str:
    """Whole numbers from `low` to `high`, in decimal digits; None is no bound on that side."""
    if low is not None and high is not None and low > high:
        raise GrammarError(f"no number is at least {low} and at most {high}")
    parts: list[str] = []
    if low is None or low < 0:
        nearest = 1 if high is None or high >= 0 else -high
        farthest = None if low is None else -low
        parts += [f'"-" ({part})' for part in _from_to(nearest, farthest)]
    if high is None or high >= 0:
        parts += _from_to(max(low or 0, 0), high)
    return " | ".join(parts)


def _from_to(low: int, high: int | None) -> Iterator[str]:
    """Alternatives for the numbers from `low`, which is not below 0, to `high`."""
    limit = 10**_DIGITS_MAX - 1 if high is None else high
    if limit >= 10**_DIGITS_MAX:
        raise GrammarError(f"a bound has more than {_DIGITS_MAX} digits")
    while low <= limit:
        # Numbers of the same length at a time.
        end = min(limit, 10 ** len(str(low)) - 1)
        yield _same_length(str(low), str(end))
        low = end + 1


def _same_length(low: str, high: str) -> str:
    """The numbers between two of the same length, digit by digit."""
    if not low:
        return '""'
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{{len(low)}}}"
    if low[0] == high[0]:
        rest = _same_length(low[1:], high[1:])
        return f'"{low[0]}" ({rest})' if low[1:] else f'"{low[0]}"'
    size = len(low) - 1
    if not size:
        return f"[{low}-{high}]"
    first, last = int(low[0]), int(high[0])
    parts = []
    if set(low[1:]) != {"0"}:
        parts.append(f'"{first}" ({_same_length(low[1:], "9" * size)})')
        first += 1
    if set(high[1:]) != {"9"}:
        parts.append(f'"{last}" ({_same_length("0" * size, high[1:])})')
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}] [0-9]{{{size}}}")
    return " | ".join(parts)


def pattern(regex: object) -> str:
    """What a regular expression matches, as the inside of a JSON string.

    Without `^` and `$` other text may come before and after it, as JSON Schema has it.

    Raises
    ------
    GrammarError
        When it is no regular expression, or looks around itself.
    """
    try:
        tree = list(regex_parser.parse(regex))
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise GrammarError(f"`pattern` {regex!r} is no regular expression ({error})") from error
    text = _alternatives(tree)
    check_grammar(text)
    return text


def _alternatives(tree: Sequence[Any]) -> str:
    """A whole expression; each of its alternatives may have anchors of its own."""
    if tree and _name(tree[-1]) == "BRANCH":
        # What they have in common at their beginning stands before the branch.
        alternatives = [[*tree[:-1], *each] for each in tree[-1][1][1]]
        return f"({' | '.join(_anchored(each) for each in alternatives)})"
    return _anchored(tree)


def _anchored(tree: Sequence[Any]) -> str:
    nodes = list(tree)
    before = after = "char* "
    if nodes and _at(nodes[0]) in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        nodes, before = nodes[1:], ""
    if nodes and _at(nodes[-1]) in ("AT_END", "AT_END_STRING"):
        nodes, after = nodes[:-1], ""
    return f"({before}{_sequence(nodes)} {after})"


def _sequence(nodes: Sequence[Any]) -> str:
    return " ".join(_node(node) for node in nodes) or '""'


def _node(node: Any) -> str:
    name, value = _name(node), node[1]
    if name == "LITERAL":
        return _characters([(value, value)])
    if name == "NOT_LITERAL":
        return _characters(_without([(0, _CODE_MAX)], [(value, value)]))
    if name == "ANY":
        return _characters([(0x20, _CODE_MAX)])
    if name == "IN":
        return _characters(_members(value))
    if name == "SUBPATTERN":
        return f"({_sequence(list(value[-1]))})"
    if name == "BRANCH":
        return f"({' | '.join(_sequence(list(each)) for each in value[1])})"
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        low, high, inner = value
        unbounded = high == regex_parser.MAXREPEAT
        return repeated(f"({_sequence(list(inner))})", int(low), None if unbounded else int(high))
    raise GrammarError(f"`pattern` uses {name.lower()}, which a grammar cannot hold")


def _members(items: Sequence[Any]) -> list[_Range]:
    """The characters of a class such as `[^a-z]`."""
    ranges: list[_Range] = []
    negated = False
    for item in items:
        name, value = _name(item), item[1]
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            ranges.append((value, value))
        elif name == "RANGE":
            ranges.append((value[0], value[1]))
        elif str(value) in _CLASSES:
            ranges += _CLASSES[str(value)]
        else:
            raise GrammarError(f"`pattern` uses {str(value).lower()}, which a grammar cannot hold")
    return _without([(0x20, _CODE_MAX)], ranges) if negated else ranges


def _characters(ranges: Sequence[_Range]) -> str:
    """One of these characters, in the form that it has within a JSON string."""
    parts = []
    plain = _without(ranges, _NOT_PLAIN)
    if plain:
        inside = "".join(
            _code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in plain
        )
        parts.append(f"[{inside}]")
    parts += [
        literal(json.dumps(chr(code))[1:-1])
        for code in (*range(0x20), 0x22, 0x5C)
        # A range over everything is not meant to ask for control characters.
        if any(low <= code <= high and (low == high or code > 0x1F) for low, high in ranges)
    ]
    if not parts:
        raise GrammarError("`pattern` asks for characters that no JSON string holds")
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _without(ranges: Sequence[_Range], removed: Sequence[_Range]) -> list[_Range]:
    left = list(ranges)
    for low, high in removed:
        left = [
            piece
            for start, end in left
            for piece in ((start, min(end, low - 1)), (max(start, high + 1), end))
            if piece[0] <= piece[1]
        ]
    return left


def _code(code: int) -> str:
    return chr(code) if chr(code).isalnum() and code < 0x80 else f"\\U{code:08X}"


def _name(node: Any) -> str:
    return str(node[0])


def _at(node: Any) -> str:
    return str(node[1]) if _name(node) == "AT" else ""
