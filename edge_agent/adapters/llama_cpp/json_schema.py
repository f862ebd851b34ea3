"""JSON schemas as grammars for llama.cpp: what the model may say is exactly what the schema allows.

llama-cpp-python brings a converter, but its strings may hold control characters, which no JSON
parser takes; it loses `enum` beside a list of types, mixes up definitions of the same last name
and knows no bounds of numbers. A keyword that a grammar cannot hold is refused here, not dropped.

Grammar: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from edge_agent.adapters.llama_cpp.gbnf import (
    REPETITIONS_MAX,
    GrammarError,
    integers_between,
    literal,
    pattern,
    repeated,
)

DEPTH_MAX: Final = 64
RULES_MAX: Final = 4_000
CACHED_SCHEMAS: Final = 64

_BASE: Final = {
    "space": r'| " " | "\n" [ \t]{0,20}',
    "hex": "[0-9a-fA-F]",
    # Halves of surrogate pairs are no characters.
    "escape": r'"\\" (["\\/bfnrt] | "u" ([0-9a-ce-fA-CE-F] hex{3} | [dD] [0-7] hex{2}))',
    "char": r'[^"\\\x00-\x1F] | escape',
    "string": r'"\"" char* "\""',
    "whole": '"0" | [1-9] [0-9]{0,15}',
    "integer": '"-"? whole',
    "number": '"-"? whole ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string space ":" space value',
    "object": '"{" space (member (space "," space member)* space)? "}"',
    "array": '"[" space (value (space "," space value)* space)? "]"',
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
    "time": (
        '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
        '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
    ),
    "date-time": 'date "T" time',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
_FORMATS: Final = frozenset({"date", "time", "date-time", "uuid"})
_UNHELD: Final = frozenset(
    {
        "contains",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "maxContains",
        "maxProperties",
        "minContains",
        "minProperties",
        "multipleOf",
        "not",
        "patternProperties",
        "propertyNames",
        "then",
        "uniqueItems",
    }
)
"""Keywords that forbid something which a grammar would let through."""

_BOUNDS: Final = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_IMPLIED: Final = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "minLength", "maxLength"),
    "number": _BOUNDS,
}
"""The type of a schema that names none, by the keywords that make sense with it alone."""

_CONSTRAINTS: Final = frozenset(
    {
        "type",
        "anyOf",
        "oneOf",
        "allOf",
        "format",
        *(word for words in _IMPLIED.values() for word in words),
    }
)
_SHAPES: Final[Mapping[str, tuple[type, ...]]] = {
    "$ref": (str,),
    "allOf": (list,),
    "anyOf": (list,),
    "format": (str, type(None)),
    "oneOf": (list,),
    "pattern": (str, type(None)),
    "prefixItems": (list,),
    "properties": (dict,),
    "required": (list,),
    "type": (str, list, type(None)),
}
_KINDS: Final = {str: "a string", list: "a list", dict: "an object", type(None): "absent"}
_OF_TEXTS: Final = ("required", "type")
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")


def base_rules() -> dict[str, str]:
    """The rules that every grammar of this module begins with."""
    return dict(_BASE)


@lru_cache(CACHED_SCHEMAS)
def schema_grammar(schema: str) -> str:
    """The grammar of a schema, whose rule `root` is what it allows.

    Parameters
    ----------
    schema : str
        A JSON schema, as JSON.

    Raises
    ------
    GrammarError
        When it is wrong, or asks for what a grammar cannot hold.
    """
    writer = GrammarWriter()
    writer.rules["root"] = writer.value(json.loads(schema))
    return writer.text()


class GrammarWriter:
    """Collects the rules of a grammar.

    Attributes
    ----------
    rules : dict of str to str
        Name to body.
    """

    def __init__(self) -> None:
        self.rules = base_rules()
        self._named: dict[str, str] = {}
        self._depth = 0
        self._root: Any = None

    def text(self) -> str:
        """The grammar."""
        return "\n".join(f"{name} ::= {body}" for name, body in self.rules.items()) + "\n"

    def value(self, schema: object) -> str:
        """The name of a rule for what a schema allows; its references point into itself."""
        outer, self._root = (self._root, self._named), schema
        self._named = {}
        try:
            return self._value(schema)
        finally:
            self._root, self._named = outer

    def add(self, body: str) -> str:
        """A rule without a name of its own."""
        if len(self.rules) >= RULES_MAX:
            raise GrammarError(f"it comes to more than {RULES_MAX} grammar rules: simplify it")
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def _value(self, schema: object) -> str:
        self._depth += 1
        try:
            if self._depth > DEPTH_MAX:
                raise GrammarError(f"it is nested more than {DEPTH_MAX} deep")
            return self._of(schema)
        finally:
            self._depth -= 1

    def _of(self, schema: object) -> str:
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            raise GrammarError(f"{_shown(schema)} is no schema: it must be an object")
        _check_shape(schema)
        for keyword in schema.keys() & _UNHELD:
            if schema[keyword] is not False:
                raise GrammarError(f"`{keyword}` cannot be held by a grammar: leave it out")
        if "$ref" in schema:
            return self._reference(schema["$ref"])
        if "enum" in schema or "const" in schema:
            return self._constants(schema)
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self._union([_merged(schema, each, union) for each in schema[union]])
        if "allOf" in schema:
            return self._value(self._all_of(schema))
        kind = schema.get("type") or _implied_type(schema)
        if isinstance(kind, Sequence) and not isinstance(kind, str):
            return self._union([{**schema, "type": each} for each in kind])
        return self._typed(kind, schema)

    def _typed(self, kind: object, schema: Mapping[str, Any]) -> str:
        if kind is None:
            return "value"
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind in ("integer", "number"):
            return self._bounded(str(kind), schema)
        if kind in _TYPES:
            return str(kind)
        raise GrammarError(f"`type` is {_shown(kind)}: it must be one of {', '.join(_TYPES)}")

    def _reference(self, reference: str) -> str:
        if reference not in self._named:
            # Named before it is written, as it may refer to itself.
            pointed = self._pointed(reference)
            name = self._named[reference] = self.add("")
            self.rules[name] = self._value(pointed)
        return self._named[reference]

    def _pointed(self, reference: object) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise GrammarError(f"`$ref` is {_shown(reference)}: it must begin with '#'")
        found = self._root
        for step in reference[1:].split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise GrammarError(f"`$ref` is {reference!r}, and there is no {key!r} on the way")
            found = found[key]
        return found

    def _constants(self, schema: Mapping[str, Any]) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise GrammarError(f"`enum` is {_shown(values)}: it must be a list with a value")
        return self.add(" | ".join(literal(json.dumps(v, ensure_ascii=False)) for v in values))

    def _union(self, schemas: Sequence[object]) -> str:
        if not schemas:
            raise GrammarError("a list of alternatives is empty: nothing would be allowed")
        return self.add(" | ".join(self._value(each) for each in schemas))

    def _all_of(self, schema: Mapping[str, Any]) -> object:
        merged: Any = {name: value for name, value in schema.items() if name != "allOf"}
        for part in schema["allOf"]:
            merged = _merged(merged, self._followed(part), "allOf")
        return merged

    def _followed(self, schema: Any) -> Any:
        """What a reference, perhaps to a reference, stands for."""
        for _ in range(DEPTH_MAX):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                return schema
            schema = self._pointed(schema["$ref"])
        raise GrammarError("a `$ref` leads back to itself")

    def _object(self, schema: Mapping[str, Any]) -> str:
        listed = schema.get("properties", {})
        more = schema.get("additionalProperties", not listed)
        required = schema.get("required", [])
        if not isinstance(listed, Mapping) or not isinstance(required, Sequence):
            raise GrammarError("`properties` must be an object and `required` a list")
        unlisted = [name for name in required if name not in listed]
        if unlisted and more is False:
            raise GrammarError(f"`required` names {unlisted[0]!r}, which no property allows")
        properties = {**listed, **dict.fromkeys(unlisted, more)}
        if not properties and more is True:
            return "object"
        members = [
            (self._member(name, each), name in required) for name, each in properties.items()
        ]
        extra = ""
        if more is not False:
            extra = self.add(f'string space ":" space {self._value(more)}')
        return self.add(f'"{{" space {self._members(members, extra)} "}}"')

    def _member(self, name: str, schema: object) -> str:
        key = literal(json.dumps(name, ensure_ascii=False))
        return self.add(f'{key} space ":" space {self._value(schema)}')

    def _members(self, members: Sequence[tuple[str, bool]], extra: str) -> str:
        """The members in the schema's order, each at most once, then any number of others."""
        comma = 'space "," space'
        rest = self.add(f"({comma} {extra})*") if extra else ""
        starts = [f"{extra} {rest} space"] if extra else []
        needed = False
        for member, required in reversed(members):
            starts = [f"{member} {rest} space", *([] if required else starts)]
            needed = needed or required
            present = f"{comma} {member}"
            rest = self.add(f"{present if required else f'({present})?'} {rest}")
        return f"({' | '.join(starts)}){'' if needed else '?'}" if starts else ""

    def _array(self, schema: Mapping[str, Any]) -> str:
        first = [self._value(each) for each in schema.get("prefixItems", ())]
        low, high = _size(schema, "minItems") or 0, _size(schema, "maxItems")
        comma = 'space "," space'
        if first:
            if low > len(first) or (high is not None and high < len(first)):
                raise GrammarError("`prefixItems` beside another number of items cannot be held")
            return self.add(f'"[" space {f" {comma} ".join(first)} space "]"')
        items = schema.get("items", True)
        if items is False or high == 0:
            return self.add('"[" space "]"')
        item = self._value(items)
        more = self.add(f"{comma} {item}")
        others = repeated(more, max(low - 1, 0), None if high is None else high - 1)
        some = f"({item} {others} space)"
        return self.add(f'"[" space {some if low else some + "?"} "]"')

    def _string(self, schema: Mapping[str, Any]) -> str:
        low, high = _size(schema, "minLength"), _size(schema, "maxLength")
        wanted = schema.get("pattern")
        if wanted is not None:
            if low is not None or high is not None:
                raise GrammarError(
                    "`pattern` beside a length cannot be held: say it in one of them"
                )
            return self.add(rf'"\"" {pattern(wanted)} "\""')
        if schema.get("format") in _FORMATS:
            return self.add(rf'"\"" {schema["format"]} "\""')
        if low is None and high is None:
            return "string"
        return self.add(rf'"\"" {repeated("char", low or 0, high)} "\""')

    def _bounded(self, kind: str, schema: Mapping[str, Any]) -> str:
        if not any(schema.get(bound) is not None for bound in _BOUNDS):
            return kind
        low, high = _bounds(schema, whole=kind == "integer")
        if kind == "integer":
            return self.add(integers_between(low, high))
        return self.add(" | ".join(_numbers_between(low, high)))


def _numbers_between(low: int | None, high: int | None) -> Iterator[str]:
    """Numbers between two whole ones: below zero the digits after the point lead downwards."""
    digits = '("." [0-9]{1,16})?'
    zeros = '("." "0"{1,16})?'
    if high is None or high >= 0:
        start = max(low or 0, 0)
        if high is None or start < high:
            last = None if high is None else high - 1
            yield f"({integers_between(start, last)}) {digits}"
        if high is not None and start <= high:
            yield f"{literal(str(high))} {zeros}"
    if low is None or low < 0:
        nearest = min(high, 0) if high is not None else 0
        if low is None or low < nearest:
            farthest = None if low is None else -low - 1
            yield f'"-" ({integers_between(-nearest, farthest)}) {digits}'
        if low is not None:
            yield f"{literal(str(low))} {zeros}"


def _bounds(schema: Mapping[str, Any], *, whole: bool) -> tuple[int | None, int | None]:
    values = {name: schema.get(name) for name in _BOUNDS}
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise GrammarError(f"`{name}` is {_shown(value)}: only whole bounds can be held")
        if name.startswith("exclusive") and not whole:
            raise GrammarError(f"`{name}` of a `number` cannot be held: use the inclusive bound")
    lows = [values["minimum"], _shifted(values["exclusiveMinimum"], 1)]
    highs = [values["maximum"], _shifted(values["exclusiveMaximum"], -1)]
    low = max((int(value) for value in lows if value is not None), default=None)
    high = min((int(value) for value in highs if value is not None), default=None)
    if low is not None and high is not None and low > high:
        raise GrammarError(f"no number is at least {low} and at most {high}")
    return low, high


def _shifted(value: int | None, by: int) -> int | None:
    return None if value is None else value + by


def _size(schema: Mapping[str, Any], name: str) -> int | None:
    value = schema.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= REPETITIONS_MAX:
        remedy = f"it must be a whole number up to {REPETITIONS_MAX}"
        raise GrammarError(f"`{name}` is {_shown(value)}: {remedy}")
    return value


def _implied_type(schema: Mapping[str, Any]) -> str | None:
    for kind, keywords in _IMPLIED.items():
        if any(keyword in schema for keyword in keywords):
            return kind
    return None


def _merged(schema: Mapping[str, Any], part: object, keyword: str) -> object:
    """A part of `anyOf`, `oneOf` or `allOf` with what stands beside that keyword."""
    own = {name: value for name, value in schema.items() if name in _CONSTRAINTS - {keyword}}
    if part is True:
        return own
    if not isinstance(part, Mapping):
        raise GrammarError(f"{_shown(part)} is no schema: it must be an object")
    if not own:
        return part
    _check_shape(part)
    joined = {**own, **part}
    for name in own.keys() & part.keys():
        if name == "properties" and not own[name].keys() & part[name].keys():
            joined[name] = {**own[name], **part[name]}
        elif name == "required":
            joined[name] = [*own[name], *part[name]]
        elif own[name] != part[name]:
            raise GrammarError(f"two `{name}` at once, by `{keyword}`, cannot be held: join them")
    hidden = {"$ref", "enum", "const"} & part.keys()
    if hidden and own.keys() != {"type"}:
        raise GrammarError(f"what stands beside `{keyword}` and `{hidden.pop()}` cannot be held")
    return joined


def _check_shape(schema: Mapping[str, Any]) -> None:
    """Refuse keywords whose values are of another kind than JSON schema has there."""
    for keyword in schema.keys() & _SHAPES.keys():
        value, kinds = schema[keyword], _SHAPES[keyword]
        right = isinstance(value, kinds)
        if keyword in _OF_TEXTS and isinstance(value, list):
            right = all(isinstance(each, str) for each in value)
        if not right:
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise GrammarError(f"`{keyword}` is {_shown(value)}: it must be {wanted}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
