"""The worker's pieces of text as OpenAI objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_agent.adapters.llama_cpp.outputs import TokenLogprob
from edge_agent.adapters.llama_cpp.tool_calls import CallPart
from edge_agent.ports import Chunk, Finished, Timing, Usage


class AnswerBuilder:
    """Builds the events of one answer.

    Parameters
    ----------
    created_unix_s : int
        Becomes `created`.
    new_call_id : callable
        Names the calls of tools.
    """

    def __init__(
        self,
        *,
        request_id: str,
        arm: str,
        created_unix_s: int,
        choices: int,
        stream: bool,
        new_call_id: Callable[[], str],
    ) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": created_unix_s, "model": arm}
        self._stream = stream
        self._new_call_id = new_call_id
        self._choices = [_Choice() for _ in range(choices)]

    def text(
        self,
        choice: int,
        text: str,
        finish_reason: str | None,
        calls: Sequence[CallPart] = (),
        logprobs: Sequence[TokenLogprob] = (),
    ) -> list[Chunk]:
        """Take a piece of a choice; the chunks to relay, none unless streaming."""
        told = self._choices[choice]
        told.finish_reason = finish_reason
        deltas = told.take(text, calls, self._new_call_id)
        entries = [_logprob(entry) for entry in logprobs]
        if not self._stream:
            told.logprobs += entries
            return []
        chunks = []
        if not told.opened:
            told.opened = True
            first = deltas.pop(0) if deltas else {"content": ""}
            deltas.insert(0, {"role": "assistant", "content": None, **first})
        if entries and not deltas:
            deltas.append({})
        for delta in deltas:
            chunks.append(self._chunk(choice, delta, entries))
            entries = []
        if finish_reason is not None:
            chunks.append(self._chunk(choice, {}, [], finish_reason))
        return chunks

    def finished(
        self, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int, timing: Timing
    ) -> Finished:
        """The answer's last event."""
        usage = Usage(prompt_tokens, completion_tokens, cached_tokens)
        if self._stream:
            return Finished(usage=usage, timing=timing)
        response = {
            **self._head,
            "object": "chat.completion",
            "choices": [each.whole(index) for index, each in enumerate(self._choices)],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
                "prompt_tokens_details": {"cached_tokens": cached_tokens},
            },
        }
        return Finished(usage=usage, response=response, timing=timing)

    def _chunk(
        self,
        choice: int,
        delta: Mapping[str, Any],
        logprobs: Sequence[Mapping[str, Any]],
        finish_reason: str | None = None,
    ) -> Chunk:
        part = {
            "index": choice,
            "delta": delta,
            "logprobs": {"content": list(logprobs), "refusal": None} if logprobs else None,
            "finish_reason": finish_reason,
        }
        return Chunk({**self._head, "object": "chat.completion.chunk", "choices": [part]})


class _Choice:
    """One choice, as far as it has come."""

    def __init__(self) -> None:
        self.opened = False
        self.finish_reason: str | None = None
        self.logprobs: list[Mapping[str, Any]] = []
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []

    def take(
        self, text: str, calls: Sequence[CallPart], new_id: Callable[[], str]
    ) -> list[dict[str, Any]]:
        """Note a piece; it as deltas of a stream."""
        deltas: list[dict[str, Any]] = []
        if text:
            self._texts.append(text)
            deltas.append({"content": text})
        deltas += [{"tool_calls": [self._call_delta(part, new_id)]} for part in calls]
        return deltas

    def _call_delta(self, part: CallPart, new_id: Callable[[], str]) -> dict[str, Any]:
        if part.name:
            call = {"id": new_id(), "type": "function"}
            function = {"name": part.name, "arguments": part.arguments}
            self._calls.append({**call, "function": dict(function)})
            return {"index": part.call, **call, "function": function}
        self._calls[part.call]["function"]["arguments"] += part.arguments
        return {"index": part.call, "function": {"arguments": part.arguments}}

    def whole(self, index: int) -> dict[str, Any]:
        """The choice as a part of a `chat.completion`."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._texts)}
        if self._calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = self._calls
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": self.logprobs, "refusal": None} if self.logprobs else None,
            "finish_reason": self.finish_reason,
        }


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    return {
        **_token(entry.logprob, entry.piece),
        "top_logprobs": [_token(logprob, piece) for logprob, piece in entry.top],
    }


def _token(logprob: float, piece: bytes) -> dict[str, Any]:
    # A token may be a part of a character.
    return {
        "token": piece.decode("utf-8", "replace"),
        "logprob": logprob,
        "bytes": list(piece),
    }
