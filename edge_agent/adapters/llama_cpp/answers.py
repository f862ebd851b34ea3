"""The worker's pieces of text as OpenAI objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_agent.ports import Chunk, Finished, Usage


class AnswerBuilder:
    """Builds the events of one answer.

    Parameters
    ----------
    created_unix_s : int
        Becomes `created`.
    """

    def __init__(
        self, *, request_id: str, arm: str, created_unix_s: int, choices: int, stream: bool
    ) -> None:
        self._head = {"id": f"chatcmpl-{request_id}", "created": created_unix_s, "model": arm}
        self._stream = stream
        self._texts: list[list[str]] = [[] for _ in range(choices)]
        self._reasons: list[str | None] = [None] * choices
        self._opened = [False] * choices

    def text(self, choice: int, text: str, finish_reason: str | None) -> list[Chunk]:
        """Take a piece of a choice; the chunks to relay, none unless streaming."""
        if not self._stream:
            self._texts[choice].append(text)
            self._reasons[choice] = finish_reason
            return []
        chunks = []
        if text or not self._opened[choice]:
            delta = {"content": text}
            if not self._opened[choice]:
                delta = {"role": "assistant", "content": text}
                self._opened[choice] = True
            chunks.append(self._chunk(choice, delta, None))
        if finish_reason is not None:
            chunks.append(self._chunk(choice, {}, finish_reason))
        return chunks

    def finished(
        self, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int
    ) -> Finished:
        """The answer's last event."""
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        if self._stream:
            return Finished(usage=usage)
        response = {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(index) for index in range(len(self._texts))],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
                "prompt_tokens_details": {"cached_tokens": cached_tokens},
            },
        }
        return Finished(usage=usage, response=response)

    def _chunk(self, choice: int, delta: Mapping[str, str], finish_reason: str | None) -> Chunk:
        part = {
            "index": choice,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return Chunk({**self._head, "object": "chat.completion.chunk", "choices": [part]})

    def _choice(self, index: int) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(self._texts[index])},
            "logprobs": None,
            "finish_reason": self._reasons[index],
        }
