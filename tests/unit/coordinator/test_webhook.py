"""Alerts by HTTP: in order, signed, tried again, and never in the coordinator's way."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coordinator.adapters import webhook
from coordinator.adapters.webhook import Webhook
from coordinator.alerts import Alert, AlertKind
from shared.http_server import serve

ALERT = Alert(AlertKind.OVERRUN, "overrun:large", "billed 5", 1_000, window_id=7)


class Receiver:
    """Answers with the prepared statuses, then with 200; keeps what was taken."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.taken: list[tuple[bytes, dict[str, str]]] = []
        self.calls = 0
        self.url = ""

    async def answer(self, request: Request) -> Response:
        """One POST."""
        self.calls += 1
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.taken.append((await request.body(), dict(request.headers)))
        return PlainTextResponse("", status_code=status, headers={"location": "/elsewhere"})

    @property
    def keys(self) -> list[str]:
        """The alerts taken, by key."""
        return [json.loads(body)["key"] for body, _ in self.taken]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a loopback port."""
    made = Receiver()
    app = Starlette(routes=[Route("/hook", made.answer, methods=["POST"])])
    async with serve(app, host="127.0.0.1", port=0, grace_s=1.0) as server:
        made.url = f"http://127.0.0.1:{server.port}/hook"
        yield made


async def posted(hook: Webhook, *alerts: Alert) -> None:
    """Tell the alerts, and wait until all are posted or given up."""
    async with hook.running():
        for alert in alerts:
            hook.tell(alert)
        await asyncio.wait_for(hook._queue.join(), 20)


async def test_an_alert_is_posted_as_signed_json(receiver: Receiver) -> None:
    """Whoever shares the secret can tell who sent it."""
    hook = Webhook(receiver.url, secret="s3cret")
    await posted(hook, ALERT)
    ((body, headers),) = receiver.taken
    assert {
        "source": "tidegate",
        "kind": "overrun",
        "key": "overrun:large",
        "state": "raised",
        "text": "billed 5",
        "at": "1970-01-01T00:00:01.000+00:00",
        "at_unix_ms": 1_000,
        "window_id": 7,
    } == json.loads(body)
    expected = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert f"sha256={expected}" == headers["x-tidegate-signature"]
    assert {"delivered": 1} == dict(hook.results)


async def test_a_receiver_that_is_down_for_a_moment_gets_all_in_order(receiver: Receiver) -> None:
    """Busy, failing, then there."""
    receiver.statuses = [503, 429, 500]
    second = Alert(AlertKind.BUDGET, "budget:50", "half", 2_000)
    hook = Webhook(receiver.url, wait_s=0.001)
    await posted(hook, ALERT, second)
    assert ["overrun:large", "budget:50"] == receiver.keys
    assert {"delivered": 2} == dict(hook.results)


@pytest.mark.parametrize("status", [400, 404, 302])
async def test_what_a_receiver_refuses_is_not_tried_again(receiver: Receiver, status: int) -> None:
    """Nor is a redirection followed; the next alert goes out all the same."""
    receiver.statuses = [status]
    hook = Webhook(receiver.url, wait_s=0.001)
    await posted(hook, ALERT, ALERT)
    assert (2, 1) == (receiver.calls, len(receiver.taken))
    assert {"failed": 1, "delivered": 1} == dict(hook.results)


async def test_a_dead_receiver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries; the coordinator has long gone on."""
    monkeypatch.setattr(webhook, "ATTEMPTS", 2)
    hook = Webhook("http://127.0.0.1:9/hook", wait_s=0.001)
    await posted(hook, ALERT)
    assert {"failed": 1} == dict(hook.results)


def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """To tell an alert never waits."""
    monkeypatch.setattr(webhook, "QUEUE_MAX", 1)
    hook = Webhook("http://127.0.0.1:9/hook")
    hook.tell(ALERT)
    hook.tell(ALERT)
    assert {"dropped": 1} == dict(hook.results)
