"""Alerts by HTTP POST, one JSON object each; a dead receiver never holds the coordinator up."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import aiohttp
import stamina
import structlog

from coordinator.alerts import Alert
from coordinator.ports import Notifier

log = structlog.get_logger(__name__)
QUEUE_MAX: Final = 1_000
ATTEMPTS: Final = 8
WAIT_S: Final = 1.0
WAIT_S_MAX: Final = 60.0
TIMEOUT_S: Final = 10.0
DRAIN_S: Final = 2.0
SIGNATURE_HEADER: Final = "x-tidegate-signature"
_RETRIED_STATUSES: Final = frozenset({408, 425, 429})


class _NotTaken(Exception):
    """The receiver may take it later."""


class Webhook(Notifier):
    """Posts alerts in order, from a bounded queue.

    Delivery is at most once beyond a stop of the process: what stands is in `tidectl alarm list`
    and in the metrics.

    Parameters
    ----------
    url : str
        Where to. It may hold a secret, and is never logged.
    secret : str
        Signs each body: `x-tidegate-signature: sha256=<HMAC-SHA256, hexadecimal>`; empty: none.
    wait_s : float
        Before the second attempt; it doubles up to a minute.

    Attributes
    ----------
    results : Counter
        Alerts that were `delivered`, have `failed`, or were `dropped` as the queue was full.
    """

    def __init__(self, url: str, *, secret: str = "", wait_s: float = WAIT_S) -> None:
        self._url = url
        self._secret = secret.encode()
        self._wait_s = wait_s
        self._queue: asyncio.Queue[Alert] = asyncio.Queue(QUEUE_MAX)
        self.results: Counter[str] = Counter()

    def tell(self, alert: Alert) -> None:
        """Queue an alert; one too many is dropped, counted and logged."""
        try:
            self._queue.put_nowait(alert)
        except asyncio.QueueFull:
            self.results["dropped"] += 1
            log.warning("alert_not_posted", key=alert.key, problem="the queue is full")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Post until the context is left; what is queued then gets a moment more."""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), trust_env=False
        ) as session:
            posting = asyncio.create_task(self._post_for_ever(session), name="webhook")
            try:
                yield
            finally:
                joining = asyncio.create_task(self._queue.join())
                await asyncio.wait({joining, posting}, timeout=DRAIN_S)
                for task in (joining, posting):
                    task.cancel()
                await asyncio.gather(joining, posting, return_exceptions=True)

    async def _post_for_ever(self, session: aiohttp.ClientSession) -> None:
        while True:
            alert = await self._queue.get()
            try:
                await self._post(session, alert)
                self.results["delivered"] += 1
            except (aiohttp.ClientError, TimeoutError, OSError, _NotTaken) as error:
                self.results["failed"] += 1
                problem = type(error).__name__ if str(error) == "" else _without_url(error)
                log.warning("alert_not_posted", key=alert.key, problem=problem)
            finally:
                self._queue.task_done()

    async def _post(self, session: aiohttp.ClientSession, alert: Alert) -> None:
        body = json.dumps(payload(alert)).encode()
        headers = {"content-type": "application/json"}
        if self._secret:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers[SIGNATURE_HEADER] = f"sha256={digest}"
        async for attempt in stamina.retry_context(
            on=(aiohttp.ClientConnectionError, TimeoutError, _NotTaken),
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=self._wait_s,
            wait_max=WAIT_S_MAX,
            wait_jitter=self._wait_s,
        ):
            with attempt:
                async with session.post(
                    self._url, data=body, headers=headers, allow_redirects=False
                ) as reply:
                    if reply.status in _RETRIED_STATUSES or reply.status >= 500:
                        raise _NotTaken(f"the receiver answered {reply.status}")
                    if not 200 <= reply.status < 300:
                        raise aiohttp.ClientPayloadError(f"the receiver answered {reply.status}")


def payload(alert: Alert) -> dict[str, str | int]:
    """An alert as it is posted."""
    at = datetime.fromtimestamp(alert.at_unix_ms / 1_000, tz=UTC)
    return {
        "source": "tidegate",
        "kind": str(alert.kind),
        "key": alert.key,
        "state": "cleared" if alert.cleared else "raised",
        "text": alert.text,
        "at": at.isoformat(timespec="milliseconds"),
        "at_unix_ms": alert.at_unix_ms,
        "window_id": alert.window_id,
    }


def _without_url(error: BaseException) -> str:
    """What went wrong, in words that hold no secret of the URL."""
    if isinstance(error, aiohttp.InvalidURL | aiohttp.ClientConnectorError):
        return type(error).__name__
    return str(error)
