"""Carrying an answer to its client, and noticing when the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from starlette.types import Receive, Send

from edge_agent.adapters.http_api.errors import error_object, header_safe, internal_error
from edge_agent.adapters.http_api.gate import log_defect
from edge_agent.adapters.sse import LAST_EVENT, comment, event
from edge_agent.requests import Answer, AnswerHead, RequestRefused, TaskOrigin, TaskSource

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


@asynccontextmanager
async def client_watch(receive: Receive) -> AsyncIterator[asyncio.Event]:
    """An event that is set when the client disconnects."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        yield gone
    finally:
        await _end(watching)


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


def head_headers(head: AnswerHead) -> dict[str, str]:
    """The headers that tell how an answer was decided."""
    return {
        "x-tidegate-task": header_safe(task_header(head.task_class, head.origin)),
        "x-tidegate-arm": header_safe(head.arm),
        "x-tidegate-reason": header_safe(head.reason),
        "x-tidegate-table-version": str(head.table_version),
        "x-tidegate-max-tokens": str(head.max_tokens),
    }


async def send_stream(
    answer: Answer, *, send: Send, gone: asyncio.Event, write_wait_s: float = WRITE_WAIT_S
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
        leaving = asyncio.create_task(_until(gone))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(leaving)
            await _end(sending)
        if not sending.cancelled():
            sending.result()
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _until(happened: asyncio.Event) -> None:
    """Return when an event is set."""
    await happened.wait()


class _Outlet:
    """Writes one stream."""

    def __init__(
        self, send: Send, *, request_id: str, gone: asyncio.Event, write_wait_s: float
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
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            # Keeps nginx and its like from collecting the chunks.
            "x-accel-buffering": "no",
            **head_headers(head),
        }
        await self._send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
            }
        )

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
        while not self._gone.is_set():
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
