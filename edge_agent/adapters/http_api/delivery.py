"""Carrying an answer to its client, and noticing when the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import structlog
from starlette.types import Message, Send

from edge_agent.adapters.http_api.errors import error_object, header_safe
from edge_agent.adapters.http_api.gate import log_defect
from edge_agent.adapters.sse import LAST_EVENT, as_json, comment, event
from edge_agent.refusals import internal_error
from edge_agent.requests import Answer, AnswerHead, RequestRefused, TaskOrigin, TaskSource
from shared.decision.money import dollars

WRITE_WAIT_S: Final = 60.0
HEADERS_OUT: Final = (
    "retry-after",
    "x-tidegate-arm",
    "x-tidegate-cost-usd",
    "x-tidegate-max-tokens",
    "x-tidegate-reason",
    "x-tidegate-request-id",
    "x-tidegate-table-version",
    "x-tidegate-task",
)
"""What a page in a browser may read beside the body."""

_log = structlog.get_logger(__name__)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended; how it ended is its caller's to ask."""
    task.cancel()
    await asyncio.wait({task})


def task_header(task_class: str, origin: TaskOrigin) -> str:
    """A class and how it was found, as in `code;source=classifier;confidence=0.93`."""
    said = f"{task_class};source={origin.source}"
    if origin.source is not TaskSource.CLASSIFIER:
        return said
    unsure = "" if origin.likeliest == task_class else f";likeliest={origin.likeliest}"
    return f"{said}{unsure};confidence={origin.confidence:.2f}"


def _start_message(head: AnswerHead, more: Mapping[str, str]) -> Message:
    """The status of an answer and its headers, with those that tell how it was decided."""
    headers = {
        "x-tidegate-request-id": head.request_id,
        "x-tidegate-task": header_safe(task_header(head.task_class, head.origin)),
        "x-tidegate-arm": header_safe(head.arm),
        "x-tidegate-reason": header_safe(head.reason),
        "x-tidegate-table-version": str(head.table_version),
        "x-tidegate-max-tokens": str(head.max_tokens),
        **more,
    }
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
    }


async def send_whole(answer: Answer, content: object, *, send: Send) -> None:
    """Send an answer in one piece."""
    body = as_json(content)
    more = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-tidegate-cost-usd": dollars(answer.cost_nanos),
    }
    await send(_start_message(answer.head, more))
    await send({"type": "http.response.body", "body": body})


async def send_stream(
    answer: Answer, *, send: Send, gone: asyncio.Future[None], write_wait_s: float = WRITE_WAIT_S
) -> None:
    """Send a streamed answer, each chunk as soon as it is there.

    When the client goes away, or takes nothing for `write_wait_s`, the answer's iterator is
    closed: cancelled where it waits for its next chunk, and then `aclose`d.

    Raises
    ------
    RequestRefused
        When the answer fails before its first chunk: then nothing was sent.
    """
    chunks = answer.chunks()
    try:
        # Taken before the client is watched: an iterator that never started cannot be closed.
        first = await anext(chunks, None)
        outlet = _Outlet(
            send, request_id=answer.head.request_id, gone=gone, write_wait_s=write_wait_s
        )
        sending = asyncio.create_task(outlet.run(answer, first, chunks))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(sending)
        if not sending.cancelled():
            sending.result()
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


class _Outlet:
    """Writes one stream."""

    def __init__(
        self, send: Send, *, request_id: str, gone: asyncio.Future[None], write_wait_s: float
    ) -> None:
        self._send = send
        self._request_id = request_id
        self._gone = gone
        self._write_wait_s = write_wait_s

    async def run(
        self,
        answer: Answer,
        first: Mapping[str, Any] | None,
        rest: AsyncIterator[Mapping[str, Any]],
    ) -> None:
        """Write the headers, every chunk, and the end or the error."""
        try:
            await self._start(answer.head)
            if await self._relay(first, rest):
                # For all who did not ask for the usage chunk: clients pass over a comment.
                await self._write(comment({"usage": answer.usage}) + LAST_EVENT, more=False)
        except TimeoutError:
            _log.warning("client_too_slow", request_id=self._request_id)

    async def _start(self, head: AnswerHead) -> None:
        """Write the status and the headers."""
        more = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            # Keeps nginx and its like from collecting the chunks.
            "x-accel-buffering": "no",
        }
        await self._send(_start_message(head, more))

    async def _relay(
        self, first: Mapping[str, Any] | None, rest: AsyncIterator[Mapping[str, Any]]
    ) -> bool:
        """Write the chunks; an error after the first one becomes the last event.

        Returns
        -------
        bool
            Whether the answer has come to its proper end.
        """
        if first is not None:
            await self._write(event(first))
        # Looked at here too: chunks that are all at hand leave no moment for a cancellation.
        while not self._gone.done():
            try:
                chunk = await anext(rest, None)
            except RequestRefused as refused:
                await self._write(event(error_object(refused)), more=False)
                return False
            except Exception as error:  # noqa: BLE001 - the last stop: the status is sent already
                log_defect(error, self._request_id)
                await self._write(event(error_object(internal_error(self._request_id))), more=False)
                return False
            if chunk is None:
                return True
            await self._write(event(chunk))
        return False

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        """Write a piece of the body; waits while the client does not read."""
        async with asyncio.timeout(self._write_wait_s):
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
