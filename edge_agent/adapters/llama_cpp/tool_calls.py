"""Calls of tools, read from a model's text as it comes. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge_agent.adapters.llama_cpp.text import overlap
from edge_agent.adapters.llama_cpp.tools import ToolFormat

_HEAD_CHARS_MAX: Final = 512


@dataclass(frozen=True)
class CallPart:
    """A piece of a call: its beginning, which has the name, or more of its arguments.

    Attributes
    ----------
    call : int
        Which of the answer's calls.
    """

    call: int
    name: str = ""
    arguments: str = ""


Part = str | CallPart


class ToolCallReader:
    """Tells a call of a tool from other text, piece by piece.

    What may yet become a call is held back; arguments are passed on as they come.

    Attributes
    ----------
    calls : int
        How many calls have begun.

    Examples
    --------
    >>> reader = ToolCallReader(ToolFormat("<tool_call>", "</tool_call>"))
    >>> reader.push('Well. <tool_call>{"name": "f", "arguments": {"a"')
    ['Well.', CallPart(call=0, name='f', arguments=''), CallPart(call=0, name='', arguments='{"a"')]
    >>> reader.push(": 1}}</tool_call>")
    [CallPart(call=0, name='', arguments=': 1}')]
    """

    def __init__(self, format_: ToolFormat) -> None:
        self.calls = 0
        self._format = format_
        self._head = re.compile(
            rf'\{{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"{format_.arguments}"\s*:\s*'
        )
        self._text = ""
        self._value = _JsonEnd()
        self._state: Callable[[], list[Part] | None] = (
            self._outside if format_.begin else self._maybe_call
        )

    def push(self, text: str) -> list[Part]:
        """Take some text; the parts of the answer that became certain."""
        self._text += text
        parts: list[Part] = []
        while (more := self._state()) is not None:
            parts += more
        return parts

    def finish(self) -> list[Part]:
        """What was held back, once no text will follow."""
        rest, self._text = self._text, ""
        if self._state in (self._after_arguments, self._between_calls):
            return []
        # After a call, white space is no answer.
        return [rest] if rest and (rest.strip() or not self.calls) else []

    def _outside(self) -> list[Part] | None:
        before, found, rest = self._text.partition(self._format.begin)
        if found:
            self._text, self._state = rest, self._between_calls
            said = before.rstrip()
            return [said] if said else []
        shown = before[: len(before) - overlap(before, self._format.begin)]
        # The white space before a call is no part of the answer.
        said = shown.rstrip()
        self._text = self._text[len(said) :]
        return [said] if said else None

    def _between_calls(self) -> list[Part] | None:
        self._text = self._text.lstrip(" \t\r\n[],")
        if not self._text:
            return None
        if self._text[0] == "{":
            self._state = self._maybe_call
            return []
        end = self._format.end
        if end and self._text.startswith(end):
            self._text, self._state = self._text[len(end) :], self._outside
            return []
        if end and end.startswith(self._text):
            return None
        self._state = self._outside  # no call after all
        return []

    def _maybe_call(self) -> list[Part] | None:
        self._text = self._text.lstrip()
        head = self._head.match(self._text)
        if head is not None:
            call, self.calls = self.calls, self.calls + 1
            self._text, self._state = self._text[head.end() :], self._arguments
            self._value = _JsonEnd()
            return [CallPart(call, name=head[1])]
        if not self._text or (self._text[0] == "{" and len(self._text) < _HEAD_CHARS_MAX):
            return None
        said, self._text, self._state = self._text, "", self._plain
        return [said]

    def _arguments(self) -> list[Part] | None:
        if not self._value.begun:
            self._text = self._text.lstrip()
        if not self._text:
            return None
        end = self._value.find(self._text)
        piece, self._text = self._text[:end], self._text[end:]
        if self._value.found:
            self._state = self._after_arguments
        return [CallPart(self.calls - 1, arguments=piece)] if piece else []

    def _after_arguments(self) -> list[Part] | None:
        self._text = self._text.lstrip()
        if not self._text:
            return None
        if self._text[0] == "}":
            self._text = self._text[1:]
        self._state = self._between_calls if self._format.begin else self._plain
        return []

    def _plain(self) -> list[Part] | None:
        said, self._text = self._text, ""
        return [said] if said else None


class _JsonEnd:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self.begun = False
        self.found = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int:
        """Where the object ends in this piece; the piece's length if it goes on."""
        self.begun = True
        for index, sign in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = sign == "\\"
                self._in_string = sign != '"'
            elif sign == '"':
                self._in_string = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.found = True
                    return index + 1
        return len(text)
