"""Chat answers in the form of the legacy completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from edge_agent.openai_request import CheckedCompletion
from edge_agent.requests import Answer, AnswerHead, RequestRefused
from shared.decision.money import dollars

_COUNTS: Final = ("prompt_tokens", "completion_tokens", "total_tokens")
_END: Final = object()


class TextAnswer(Answer):
    """The answers to all prompts of a completion as one `text_completion`.

    Parameters
    ----------
    answers : sequence of Answer
        One for each prompt, in their order.
    """

    def __init__(
        self, answers: Sequence[Answer], *, asked: CheckedCompletion, request_id: str
    ) -> None:
        self._answers = answers
        self._asked = asked
        self._id = f"cmpl-{request_id}"
        self._texts = [
            _Text(asked.prompts[at // asked.n] if asked.echo else "", index=at)
            for at in range(len(answers) * asked.n)
        ]
        self.head = _joint_head([answer.head for answer in answers], request_id=request_id)
        self.response = None if answers[0].response is None else self._whole()

    @property
    def cost_nanos(self) -> int:
        return sum(answer.cost_nanos for answer in self._answers)

    @property
    def usage(self) -> Mapping[str, Any]:
        return joint_usage([answer.usage for answer in self._answers], cost_nanos=self.cost_nanos)

    def _whole(self) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        created = 0
        for number, answer in enumerate(self._answers):
            response = answer.response or {}
            created = created or response.get("created", 0)
            choices += [self._piece(number, choice) for choice in response["choices"]]
        choices.sort(key=lambda choice: int(choice["index"]))
        return {**self._envelope(created), "choices": choices, "usage": self.usage}

    async def chunks(self) -> AsyncIterator[Mapping[str, Any]]:
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        tasks = [
            asyncio.create_task(_relay(answer, number, into=arrived))
            for number, answer in enumerate(self._answers)
        ]
        open_answers, created, wants_usage = len(tasks), 0, self._asked.chats[0].include_usage
        try:
            while open_answers:
                number, chunk = await arrived.get()
                if chunk is _END:
                    open_answers -= 1
                elif isinstance(chunk, Exception):
                    raise chunk
                elif chunk["choices"]:
                    created = created or chunk.get("created", 0)
                    choices = [self._piece(number, choice) for choice in chunk["choices"]]
                    yield {**self._envelope(created), "choices": choices}
            if wants_usage:
                yield {**self._envelope(created), "choices": [], "usage": self.usage}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _piece(self, number: int, choice: Mapping[str, Any]) -> dict[str, Any]:
        index: int = choice.get("index") or 0
        text = self._texts[number * self._asked.n + index]
        said: Mapping[str, Any] = choice.get("delta") or choice.get("message") or {}
        return text.choice(said.get("content") or "", choice)

    def _envelope(self, created: int) -> dict[str, Any]:
        model = self.head.arm
        return {"id": self._id, "object": "text_completion", "created": created, "model": model}


class _Text:
    """One choice as it grows; what is echoed goes before its first piece."""

    def __init__(self, echo: str, *, index: int) -> None:
        self._echo = echo
        self._index = index
        self._chars = 0

    def choice(self, content: str, source: Mapping[str, Any]) -> dict[str, Any]:
        """A piece of the text, or all of it, as a choice of a `text_completion`."""
        text, self._echo = self._echo + content, ""
        return {
            "text": text,
            "index": self._index,
            "logprobs": self._logprobs(source.get("logprobs")),
            "finish_reason": source.get("finish_reason"),
        }

    def _logprobs(self, found: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The chat API's log probabilities in the older form: lists that run in parallel."""
        tokens = (found or {}).get("content")
        if not tokens:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._chars)
            self._chars += len(token["token"])
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [
                {each["token"]: each["logprob"] for each in token.get("top_logprobs") or ()}
                for token in tokens
            ],
            "text_offset": offsets,
        }


async def _relay(answer: Answer, number: int, *, into: asyncio.Queue[Any]) -> None:
    """Put an answer's chunks, its error and its end into a queue that several share."""
    chunks = answer.chunks()
    try:
        async for chunk in chunks:
            into.put_nowait((number, chunk))
        into.put_nowait((number, _END))
    except RequestRefused as refused:
        into.put_nowait((number, refused))
    finally:
        await _close(chunks)


async def abandon(answer: Answer) -> None:
    """Say that nobody wants an answer any more."""
    if answer.response is None:
        chunks = answer.chunks()
        await anext(chunks, None)  # an iterator that never started cannot be closed
        await _close(chunks)


async def _close(chunks: AsyncIterator[Mapping[str, Any]]) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


def joint_usage(usages: Sequence[Mapping[str, Any]], *, cost_nanos: int) -> dict[str, Any]:
    """The tokens of several answers together, where all of them were counted."""
    counted: dict[str, Any] = {"cost_usd": dollars(cost_nanos)}
    for name in _COUNTS:
        if all(name in usage for usage in usages):
            counted[name] = sum(usage[name] for usage in usages)
    return counted


def _joint_head(heads: Sequence[AnswerHead], *, request_id: str) -> AnswerHead:
    """The arms and reasons of several answers, each named once; the rest is the first one's."""
    return AnswerHead(
        request_id=heads[0].request_id if len(heads) == 1 else request_id,
        arm=",".join(dict.fromkeys(head.arm for head in heads)),
        reason=",".join(dict.fromkeys(head.reason for head in heads)),
        table_version=heads[0].table_version,
        max_tokens=heads[0].max_tokens,
        task_class=heads[0].task_class,
        origin=heads[0].origin,
    )
