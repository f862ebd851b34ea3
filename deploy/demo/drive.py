"""Open-loop load with the official `openai` client: every answer is graded and fed back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp
import httpx2
import openai
from openai import AsyncOpenAI

from deploy.demo.board import Board, End, Record
from deploy.demo.models.tasks import grade
from deploy.demo.processes import DemoError
from deploy.demo.settings import MAX_TOKENS
from deploy.demo.stream import Planned

REQUEST_S_MAX: Final = 20.0
FEEDBACK_S_MAX: Final = 10.0
MODEL: Final = "auto"


class Drive:
    """Sends the stream at its own times, whatever the answers take.

    Parameters
    ----------
    agent_urls : mapping of str to str
        Base URL of each device's agent, without `/v1`.
    deadlines_ms : mapping of str to int
        Deadline of each task class.
    board : Board
        Where every request is recorded.
    """

    def __init__(
        self, agent_urls: Mapping[str, str], *, deadlines_ms: Mapping[str, int], board: Board
    ) -> None:
        self._urls = agent_urls
        self._deadlines_ms = deadlines_ms
        self._board = board
        self._clients: dict[str, AsyncOpenAI] = {}
        self._feedback: aiohttp.ClientSession | None = None
        self._start_s = 0.0

    def begin(self) -> None:
        """Start the drive's clock."""
        self._start_s = time.monotonic()

    def now_s(self) -> float:
        """Seconds since the start of the drive."""
        return time.monotonic() - self._start_s

    async def run(self, stream: Sequence[Planned]) -> None:
        """Send every request from `begin` on and wait for all answers."""
        timeout = aiohttp.ClientTimeout(total=FEEDBACK_S_MAX)
        async with aiohttp.ClientSession(timeout=timeout) as self._feedback:
            self._clients = {
                name: AsyncOpenAI(
                    base_url=f"{url}/v1",
                    api_key="none",
                    max_retries=0,
                    timeout=REQUEST_S_MAX,
                    # Agents are on this machine: no proxy of the environment lies between.
                    http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
                )
                for name, url in self._urls.items()
            }
            try:
                async with asyncio.TaskGroup() as tasks:
                    for item in stream:
                        await asyncio.sleep(max(item.at_s - self.now_s(), 0.0))
                        tasks.create_task(self._one(item))
            finally:
                for client in self._clients.values():
                    await client.close()

    async def _one(self, item: Planned) -> None:
        self._board.in_flight += 1
        sent_s = self.now_s()
        try:
            record = await (self._streamed if item.stream else self._plain)(item, sent_s)
        except (openai.APIError, httpx2.HTTPError) as error:
            # A stream that breaks half-way raises the transport's own error.
            record = self._record(
                item, sent_s, End.FAILED, headers=_headers(error), reward=0.0, error=str(error)
            )
        finally:
            self._board.in_flight -= 1
        self._board.records.append(record)
        if record.end is End.ANSWERED and record.reward is not None:
            await self._grade(item.device, record.request_id, record.reward)

    async def _plain(self, item: Planned, sent_s: float) -> Record:
        raw = await self._clients[item.device].chat.completions.with_raw_response.create(
            **_call(item), stream=False
        )
        reply = raw.parse()
        usage = reply.usage
        return self._answered(
            item,
            sent_s,
            headers=raw.headers,
            text=reply.choices[0].message.content or "",
            tokens=(usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0),
        )

    async def _streamed(self, item: Planned, sent_s: float) -> Record:
        raw = await self._clients[item.device].chat.completions.with_raw_response.create(
            **_call(item), stream=True, stream_options={"include_usage": True}
        )
        text, tokens = "", (0, 0)
        async with raw.parse() as chunks:
            async for chunk in chunks:
                if chunk.usage:
                    tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                if item.abort and text:
                    return self._record(item, sent_s, End.ABORTED, headers=raw.headers, text=text)
        return self._answered(item, sent_s, headers=raw.headers, text=text, tokens=tokens)

    def _answered(
        self,
        item: Planned,
        sent_s: float,
        *,
        headers: Mapping[str, str],
        text: str,
        tokens: tuple[int, int],
    ) -> Record:
        return self._record(
            item,
            sent_s,
            End.ANSWERED,
            headers=headers,
            text=text,
            tokens=tokens,
            reward=grade(item.task, text),
        )

    def _record(
        self,
        item: Planned,
        sent_s: float,
        end: End,
        *,
        headers: Mapping[str, str],
        text: str = "",
        tokens: tuple[int, int] = (0, 0),
        reward: float | None = None,
        error: str = "",
    ) -> Record:
        done_s = self.now_s()
        return Record(
            index=item.index,
            device=item.device,
            task_class=item.task_class,
            stream=item.stream,
            sent_s=sent_s,
            done_s=done_s,
            end=end,
            arm=headers.get("x-tidegate-arm", ""),
            reason=headers.get("x-tidegate-reason", ""),
            request_id=headers.get("x-tidegate-request-id", ""),
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            text=text,
            hit=end is End.ANSWERED
            and 1_000.0 * (done_s - sent_s) <= self._deadlines_ms[item.task_class],
            reward=reward,
            error=error,
        )

    async def _grade(self, device: str, request_id: str, score: float) -> None:
        """Tell the agent what its answer was worth."""
        if self._feedback is None:
            raise RuntimeError("feedback is sent before the drive began")
        url = f"{self._urls[device]}/v1/feedback"
        body = {"request_id": request_id, "score": score}
        try:
            async with self._feedback.post(url, json=body) as reply:
                answer = "" if reply.ok else f"status {reply.status}: {await reply.text()}"
        except (aiohttp.ClientError, TimeoutError) as error:
            answer = repr(error)
        if answer:
            raise DemoError(
                f"the agent of {device} did not take feedback for {request_id}: {answer[:300]}"
            )


def _call(item: Planned) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": item.prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0.0,
        "extra_headers": {"x-tidegate-task": item.task_class},
    }


def _headers(error: Exception) -> Mapping[str, str]:
    return error.response.headers if isinstance(error, openai.APIStatusError) else {}
