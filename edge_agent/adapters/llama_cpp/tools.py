"""Tools: what a request asks for, how families of models write calls, and grammars that hold both.

Pure. A model reads the tools in its chat template and writes calls as text, which `tool_calls`
reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edge_agent.adapters.llama_cpp.gbnf import GrammarError, literal
from edge_agent.adapters.llama_cpp.json_schema import GrammarWriter
from edge_agent.adapters.llama_cpp.sampling import invalid, unsupported


@dataclass(frozen=True)
class ToolRequest:
    """The tools of a request.

    Attributes
    ----------
    tools : tuple of mapping
        In OpenAI's form, as chat templates take them.
    required : bool
        The answer has to be a call.
    parallel : bool
        It may hold several calls.
    """

    tools: tuple[Mapping[str, Any], ...]
    required: bool = False
    parallel: bool = True


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls.

    Attributes
    ----------
    begin, end : str
        What stands around them; without a `begin` the answer as a whole is one call.
    arguments : str
        The key of the arguments.
    listed : bool
        All calls are in one JSON array; otherwise each stands between `begin` and `end`.
    """

    begin: str = ""
    end: str = ""
    arguments: str = "arguments"
    listed: bool = False


_UNREADABLE: Final = ("<function=", "[ARGS]", "<parameter")
"""Signs of formats that are no JSON."""


def tool_format(template: str) -> ToolFormat | None:
    """The format that a chat template teaches; None if it has no tools, or in a way unknown here.

    Known are those of Hermes, Qwen and SmolLM3, of Mistral, of Granite and Phi-4, and of Llama 3.
    """
    if "tools" not in template or any(sign in template for sign in _UNREADABLE):
        return None
    if "<tool_call>" in template:
        return ToolFormat("<tool_call>", "</tool_call>")
    if "[TOOL_CALLS]" in template:
        return ToolFormat("[TOOL_CALLS]", listed=True)
    if "<|tool_call|>" in template:
        end = "<|/tool_call|>"
        return ToolFormat("<|tool_call|>", end if end in template else "", listed=True)
    if '"parameters": dictionary of argument name' in template:
        return ToolFormat(arguments="parameters")
    return None


def parse_tools(body: Mapping[str, Any]) -> ToolRequest | None:
    """The tools of a chat-completions body; None if it has none that may be called.

    Raises
    ------
    ArmFailed
        `invalid_request` or `unsupported`, naming the field.
    """
    tools = body.get("tools")
    if not tools:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise invalid("tools", tools, "it must be a list of functions")
    known = {}
    for index, tool in enumerate(tools):
        known[_function_name(f"tools[{index}]", tool)] = tool
    allowed, required = _choice(body.get("tool_choice"))
    if allowed is None:
        allowed = tuple(known)
    for name in allowed:
        if name not in known:
            raise invalid("tool_choice", name, f"it must be one of {', '.join(known)}")
    if not allowed:
        return None
    return ToolRequest(
        tools=tuple(known[name] for name in allowed),
        required=required,
        parallel=body.get("parallel_tool_calls") is not False,
    )


def _function_name(field: str, tool: object) -> str:
    if not isinstance(tool, Mapping):
        raise invalid(field, tool, "a tool must be an object")
    if tool.get("type", "function") != "function":
        raise unsupported(f"{field}.type", "local models know functions only")
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise invalid(f"{field}.function.name", name, "a function must have a name")
    return name


def _choice(value: object) -> tuple[tuple[str, ...] | None, bool]:
    """Which functions may be called, None for all, and whether one has to be."""
    if value is None or value == "auto":
        return None, False
    if value == "none":
        return (), False
    if value == "required":
        return None, True
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind == "function":
            return (_named(value),), True
        allowed = value.get("allowed_tools")
        if kind == "allowed_tools" and isinstance(allowed, Mapping):
            tools = allowed.get("tools")
            if not isinstance(tools, list):
                raise invalid("tool_choice.allowed_tools.tools", tools, "it must be a list")
            names = tuple(map(_named, tools))
            return names, allowed.get("mode") == "required"
    raise invalid("tool_choice", value, "it must be `none`, `auto`, `required` or name a function")


def _named(value: object) -> str:
    function = value.get("function") if isinstance(value, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise invalid("tool_choice", value, "it must name a function")
    return name


@dataclass(frozen=True)
class CallGrammar:
    """A grammar for calls.

    Attributes
    ----------
    text : str
        GBNF.
    after : str
        The text after which it holds; empty for the whole answer.
    """

    text: str
    after: str = ""


def call_grammar(request: ToolRequest, format_: ToolFormat, *, otherwise: str = "") -> CallGrammar:
    """The grammar that makes every call one of a tool that exists, with arguments of its schema.

    Parameters
    ----------
    otherwise : str
        A JSON schema that the answer follows if it is no call; empty if it may be any text.

    Raises
    ------
    GrammarError
        When `otherwise`, or the schema of a strict function, cannot be held.
    """
    writer = GrammarWriter()
    calls = _calls(writer, request, format_)
    begin = literal(format_.begin)
    if request.required:
        writer.rules["root"] = f"{begin} {calls}"
    elif otherwise:
        writer.rules["root"] = f"{begin} {calls} | {writer.value(json.loads(otherwise))}"
    else:
        writer.rules["root"] = calls
        return CallGrammar(writer.text(), after=format_.begin or "{")
    return CallGrammar(writer.text())


def _calls(writer: GrammarWriter, request: ToolRequest, format_: ToolFormat) -> str:
    one = writer.add(" | ".join(_call(writer, tool, format_) for tool in request.tools))
    end = f" space {literal(format_.end)}" if format_.end else ""
    several = request.parallel and bool(format_.begin)
    if format_.listed:
        more = f' (space "," space {one})*' if several else ""
        return writer.add(f'space "[" space {one}{more} space "]"{end}')
    more = f" (space {literal(format_.begin)} space {one}{end})*" if several else ""
    return writer.add(f"space {one}{end}{more}")


def _call(writer: GrammarWriter, tool: Mapping[str, Any], format_: ToolFormat) -> str:
    function = tool["function"]
    name, key = literal(json.dumps(function["name"])), literal(json.dumps(format_.arguments))
    try:
        arguments = writer.value(function.get("parameters") or {"type": "object"})
    except GrammarError:
        if function.get("strict"):
            raise
        arguments = "object"
    return writer.add(
        f'"{{" space "\\"name\\"" space ":" space {name} space "," space '
        f'{key} space ":" space {arguments} space "}}"'
    )
