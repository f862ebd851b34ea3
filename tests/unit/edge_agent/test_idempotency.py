"""`Idempotency-Key`: one answer, one price (rule S_1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_agent.idempotency import IdempotentAnswers, Kept, KeptAnswer
from edge_agent.requests import AnswerHead, ClientRequest, RequestRefused
from shared.limits import IDEMPOTENCY_KEEP_MS, IDEMPOTENCY_KEYS_MAX

KEPT = Kept(AnswerHead("r1", "cloud", "table", 7, 100, "code"), None, ({"n": 1}, {"n": 2}), {}, 42)


def ask(key: str = "k1", *, text: str = "Hello?") -> ClientRequest:
    """A request with a key."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    return ClientRequest("r1", 0, 0.0, body, 50, "auto", False, False, idempotency_key=key)


async def test_a_key_that_was_never_used_finds_nothing() -> None:
    """The request is a new one."""
    assert IdempotentAnswers().find(ask(), now_ms=0.0) is None


async def test_a_key_finds_the_answer_of_its_first_request() -> None:
    """While it is under way, and afterwards."""
    answers = IdempotentAnswers()
    settle = answers.claim(ask(), now_ms=0.0)
    found = answers.find(ask(), now_ms=1.0)
    assert found is not None
    assert not found.done()
    settle(KEPT)
    assert KEPT == await found
    settle(None)
    again = answers.find(ask(), now_ms=2.0)
    assert again is not None
    assert KEPT == again.result()


async def test_a_kept_answer_is_given_as_it_was() -> None:
    """The same chunks, head and cost; nothing is called."""
    answer = KeptAnswer(KEPT)
    assert ([{"n": 1}, {"n": 2}], KEPT.head, 42) == (
        [chunk async for chunk in answer.chunks()],
        answer.head,
        answer.cost_nanos,
    )


async def test_a_key_for_another_request_is_a_conflict() -> None:
    """Giving the answer of another request would be worse than none."""
    answers = IdempotentAnswers()
    answers.claim(ask(), now_ms=0.0)
    with pytest.raises(RequestRefused, match="different request") as refused:
        answers.find(ask(text="Bye!"), now_ms=0.0)
    assert (409, "Idempotency-Key") == (refused.value.status, refused.value.param)


async def test_a_key_without_an_answer_is_free_again() -> None:
    """Whoever waits for it is told, and the next request is a new one."""
    answers = IdempotentAnswers()
    settle = answers.claim(ask(), now_ms=0.0)
    waiting = answers.find(ask(), now_ms=0.0)
    settle(None)
    assert waiting is not None
    assert waiting.cancelled()
    assert answers.find(ask(), now_ms=0.0) is None


async def test_an_answer_is_kept_for_a_day() -> None:
    """Then its key is free."""
    answers = IdempotentAnswers()
    answers.claim(ask(), now_ms=0.0)(KEPT)
    assert answers.find(ask(), now_ms=float(IDEMPOTENCY_KEEP_MS)) is not None
    assert answers.find(ask(), now_ms=IDEMPOTENCY_KEEP_MS + 1.0) is None


async def test_the_answers_are_bounded_in_number() -> None:
    """The oldest goes first; one that is under way stays."""
    answers = IdempotentAnswers()
    for number in range(IDEMPOTENCY_KEYS_MAX + 1):
        answers.claim(ask(f"k{number}"), now_ms=0.0)(KEPT)
    assert answers.find(ask("k0"), now_ms=0.0) is None
    assert answers.find(ask("k1"), now_ms=0.0) is not None


async def test_the_answers_are_bounded_in_size() -> None:
    """A device has little memory: the oldest go first, the latest stays however long it is."""
    answers = IdempotentAnswers(bytes_max=100)
    for key in ("k1", "k2"):
        answers.claim(ask(key), now_ms=0.0)(replace(KEPT, chunks=({"text": "a" * 80},)))
    assert [True, False] == [answers.find(ask(key), now_ms=0.0) is None for key in ("k1", "k2")]
    answers.claim(ask("k3"), now_ms=0.0)(KEPT)
    assert [True, False] == [answers.find(ask(key), now_ms=0.0) is None for key in ("k2", "k3")]
