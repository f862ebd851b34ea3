"""`Idempotency-Key`: the same key gets the same answer for 24 h, at the price of one (rule S_1)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_agent.requests import Answer, AnswerHead, ClientRequest, RequestRefused
from shared.limits import IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEEP_MS, IDEMPOTENCY_KEYS_MAX


@dataclass(frozen=True)
class Kept:
    """A whole answer, ready to be given again."""

    head: AnswerHead
    response: Mapping[str, Any] | None
    chunks: tuple[Mapping[str, Any], ...]
    usage: Mapping[str, Any]
    cost_nanos: int


class KeptAnswer(Answer):
    """An answer that was already paid for."""

    def __init__(self, kept: Kept) -> None:
        self.head = kept.head
        self.response = kept.response
        self._kept = kept

    async def chunks(self) -> AsyncIterator[Mapping[str, Any]]:
        for chunk in self._kept.chunks:
            yield chunk

    @property
    def usage(self) -> Mapping[str, Any]:
        return self._kept.usage

    @property
    def cost_nanos(self) -> int:
        return self._kept.cost_nanos


@dataclass
class _Entry:
    digest: str
    since_ms: float
    kept: asyncio.Future[Kept]
    size_bytes: int = 0


class IdempotentAnswers:
    """Answers by key, in the agent's memory: bounded in number, size and age, not in the books.

    The oldest are forgotten first, the latest never for its size.
    """

    def __init__(self, *, bytes_max: int = IDEMPOTENCY_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._size_bytes = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def find(self, request: ClientRequest, *, now_ms: float) -> asyncio.Future[Kept] | None:
        """The answer of an earlier request with the same key, perhaps still under way.

        Raises
        ------
        RequestRefused
            409 if the key was used for a different request.
        """
        self._expire(now_ms=now_ms)
        entry = self._entries.get(request.idempotency_key)
        if entry is None:
            return None
        if entry.digest != _digest(request):
            raise RequestRefused(
                409,
                "idempotency_key_reused",
                "this Idempotency-Key was used for a different request; use a new key",
                param="Idempotency-Key",
            )
        return entry.kept

    def claim(self, request: ClientRequest, *, now_ms: float) -> Callable[[Kept | None], None]:
        """Register a key.

        Returns
        -------
        callable
            To be called with the whole answer; a call with None that comes first means that
            there will be none and frees the key. Later calls do nothing.
        """
        kept: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        entry = _Entry(_digest(request), now_ms, kept)
        self._entries[request.idempotency_key] = entry

        def settle(answer: Kept | None) -> None:
            if kept.done():
                return
            if answer is None:
                self._entries.pop(request.idempotency_key, None)
                kept.cancel()
            else:
                kept.set_result(answer)
                entry.size_bytes = _size_bytes(answer)
                self._size_bytes += entry.size_bytes

        return settle

    def _expire(self, *, now_ms: float) -> None:
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            too_many = len(self._entries) > IDEMPOTENCY_KEYS_MAX
            too_old = now_ms - entry.since_ms > IDEMPOTENCY_KEEP_MS
            too_large = self._size_bytes > self._bytes_max and len(self._entries) > 1
            if not entry.kept.done() or not (too_many or too_old or too_large):
                return
            del self._entries[key]
            self._size_bytes -= entry.size_bytes


def _size_bytes(answer: Kept) -> int:
    """How much an answer comes to; in memory it is a few times that."""
    return len(json.dumps([answer.response, answer.chunks]))


def _digest(request: ClientRequest) -> str:
    text = json.dumps([request.kind, request.body], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
