"""JSON schemas as grammars, checked by llama.cpp on one side and a validator on the other."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from edge_agent.adapters.llama_cpp.gbnf import GrammarError
from edge_agent.adapters.llama_cpp.json_schema import schema_grammar
from tests.unit.edge_agent.llama_cpp.grammars import GrammarAsker

NODE = {
    "$defs": {
        "string": {
            "type": "object",
            "properties": {
                "share": {"type": "number", "minimum": 0, "maximum": 1},
                "next": {"anyOf": [{"$ref": "#/$defs/string"}, {"type": "null"}]},
            },
            "required": ["share", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/string",
}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    {"description": "anything"},
    NODE,
    {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": -3, "maximum": 120},
            "name": {"type": "string", "minLength": 1, "maxLength": 5},
            "kind": {"enum": ['x"y', "é\\", None, 3]},
        },
        "required": ["name"],
    },
    {"type": "object", "properties": {"z": {}}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {}, "required": ["a"]},
    {"type": "array", "items": {"type": ["string", "null"], "pattern": "^\\d{2}[^x]$"}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": ["string", "integer"], "enum": ["a", 1]},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}]},
    {
        "allOf": [
            {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ]
    },
    {"type": "object", "anyOf": [{"properties": {"a": {}}, "required": ["a"]}, {}]},
    {"type": "number", "minimum": -2, "maximum": 3},
    {"type": "integer", "exclusiveMinimum": 0},
    {"type": "integer", "exclusiveMaximum": -7},
    {"type": "string", "pattern": "^a.c$"},
    {"type": "string", "pattern": "^(?:foo|ba[rz])+$|^\\w{3,5}-[0-9]*$"},
]


@pytest.fixture(scope="module")
def asker() -> Iterator[GrammarAsker]:
    """The vocabulary of the smallest demo model."""
    asking = GrammarAsker()
    yield asking
    asking.close()


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_whatever_the_grammar_lets_through_is_valid(
    asker: GrammarAsker, schema: dict[str, Any]
) -> None:
    """By the judgement of the library that validates JSON schemas."""
    grammar = schema_grammar(json.dumps(schema))
    rng = random.Random(7)
    texts = [text for _ in range(40) if (text := asker.example(grammar, rng)) is not None]
    assert len(texts) > 3
    for text in texts:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (NODE, '{"share": 0.25, "next": {"share": 1, "next": null}}'),
        ({"type": "object"}, '{"a": [1, {"b": "\\u00e9\\n"}], "c": -2.5e3}'),
        ({"enum": ['x"y\\']}, '"x\\"y\\\\"'),
        ({"type": "string", "pattern": 'say "hi"$'}, '"please say \\"hi\\""'),
        ({"type": "string", "format": "date-time"}, '"2026-11-26T10:20:30.5Z"'),
        ({"type": "string", "format": "uuid"}, '"123e4567-e89b-12d3-a456-426614174000"'),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1_500}, "[1,\n  2]"),
        ({"properties": {"a": {}, "b": {}, "c": {}}}, '{"b": 1}'),
        ({"properties": {"a": {}, "b": {}}, "required": ["b"]}, '{"a": 1, "b": 2}'),
    ],
)
def test_what_the_schema_allows_can_be_said(
    asker: GrammarAsker, schema: dict[str, Any], text: str
) -> None:
    """The grammar is not narrower than it has to be."""
    jsonschema.validate(json.loads(text), schema)
    assert asker.follows(schema_grammar(json.dumps(schema)), text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string"}, '"a\nb"'),
        ({"type": "string"}, '"\\ud83d"'),
        ({"type": "integer"}, "01"),
        ({"properties": {"a": {}}, "required": ["a"]}, "{}"),
        ({"properties": {"a": {}}, "additionalProperties": False}, '{"b": 1}'),
        ({"type": "integer", "minimum": 18}, "17"),
        ({"type": "number", "maximum": 1, "minimum": 0}, "1.01"),
        ({"type": "string", "pattern": "^.$"}, '"""'),
    ],
)
def test_what_the_schema_forbids_cannot_be_said(
    asker: GrammarAsker, schema: dict[str, Any], text: str
) -> None:
    """Nor what is no JSON at all."""
    assert not asker.follows(schema_grammar(json.dumps(schema)), text)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "text"}, "`type` is 'text'"),
        ({"not": {"type": "string"}}, "`not`"),
        ({"type": "array", "uniqueItems": True}, "`uniqueItems`"),
        ({"type": "string", "maxLength": 100_000}, "`maxLength` is 100000"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "at least 2 and at most 1"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "at least 3 and at most 2"),
        ({"type": "number", "minimum": 0.5}, "`minimum` is 0.5"),
        ({"$ref": "#/$defs/gone"}, "no '\\$defs'"),
        ({"$ref": "https://example.com/x"}, "must begin with '#'"),
        ({"enum": []}, "`enum`"),
        ({"anyOf": []}, "alternatives is empty"),
        ({"type": "string", "pattern": "(?=a)"}, "assert"),
        ({"type": "string", "pattern": "("}, "no regular expression"),
        ({"required": ["a"], "additionalProperties": False}, "'a'"),
        ({"items": 3}, "3 is no schema"),
    ],
)
def test_what_cannot_be_held_is_refused(schema: dict[str, Any], named: str) -> None:
    """By name, so that nobody relies on what is not kept."""
    with pytest.raises(GrammarError, match=named):
        schema_grammar(json.dumps(schema))


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    """It must not exhaust the stack of the process."""
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(GrammarError, match="deep"):
        schema_grammar(json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"$ref": {"a": 1}}, "$ref"),
        ({"allOf": 5}, "allOf"),
        ({"allOf": [[], "a"]}, "no schema"),
        ({"anyOf": True}, "anyOf"),
        ({"oneOf": {"a": {}}}, "oneOf"),
        ({"type": "string", "format": ["date"]}, "format"),
        ({"pattern": 5}, "pattern"),
        ({"prefixItems": 5}, "prefixItems"),
        ({"properties": {"a": {}}, "required": [{}]}, "required"),
        ({"properties": [], "allOf": [{"properties": {}}]}, "properties"),
        ({"properties": {"a": {}}, "allOf": [{"properties": 5}]}, "properties"),
        ({"type": [{}]}, "type"),
    ],
)
def test_a_keyword_of_the_wrong_kind_is_refused(schema: dict[str, Any], named: str) -> None:
    """Anything else than this refusal would end the worker, and with it everybody's answers."""
    with pytest.raises(GrammarError, match=re.escape(named)):
        schema_grammar(json.dumps(schema))
