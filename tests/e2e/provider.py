"""A small paid provider for tests: OpenAI-compatible, bills, counts, and misbehaves on demand.

It runs in a thread of the test's own process, so that a test can read its bill directly. What a
request does is said by its last message: `!status=500` fails, `!nousage` answers without usage,
`!hang` never answers, `!slow` takes its time. Everything else is answered at once.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from shared.decision.money import Price

KEY: Final = "sk-e2e-provider-key-5b1f"
PRICE: Final = Price(
    input_nanos_per_mtok=2_000_000_000, output_nanos_per_mtok=8_000_000_000, request_nanos=1_000
)
COMPLETION_TOKENS: Final = 6
SLOW_TOKENS: Final = 20
SLOW_GAP_S: Final = 0.05


@dataclass
class Provider:
    """A running provider.

    Attributes
    ----------
    port : int
        Where it listens on loopback.
    bill : dict of str to int
        Nano-dollars by the text of the request's last message; texts are unique per test.
    seen : list of dict
        Every request body, in the order of arrival.
    """

    port: int = 0
    bill: dict[str, int] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="provider", daemon=True)

    @property
    def base_url(self) -> str:
        """What an OpenAI client is pointed at."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def billed_nanos(self) -> int:
        """The whole bill."""
        return sum(self.bill.values())

    def calls(self, text: str) -> int:
        """How many requests with that last message have arrived."""
        return sum(_text(body) == text for body in self.seen)

    def start(self) -> None:
        """Serve in a thread; returns once the port is known."""
        self._thread.start()
        if not self._ready.wait(10.0):
            raise TimeoutError("the provider did not start")

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10.0)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "invalid_api_key")
        body: dict[str, Any] = await request.json()
        self.seen.append(body)
        text = _text(body)
        if text.startswith("!status="):
            return _error(int(text.removeprefix("!status=").split()[0]), "told_to_fail")
        if text.startswith("!hang"):
            # What it generates is billed although nobody gets it.
            self._charge(text, prompt=len(text), completion=COMPLETION_TOKENS)
            await self._stopped.wait()
            return _error(500, "stopped")
        slow = text.startswith("!slow")
        count = min(int(body["max_tokens"]), SLOW_TOKENS if slow else COMPLETION_TOKENS)
        if body.get("stream") is True:
            return await self._stream(request, body, text=text, count=count)
        self._charge(text, prompt=len(text), completion=count)
        reply = _envelope("chat.completion")
        reply["choices"] = [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "paid " * count},
            }
        ]
        if not text.startswith("!nousage"):
            reply["usage"] = _usage(len(text), count)
        return web.json_response(reply)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], *, text: str, count: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        try:
            for _ in range(count):
                sent += 1
                delta = {"index": 0, "delta": {"content": "paid "}, "finish_reason": None}
                await _send(response, choices=[delta])
                if text.startswith("!slow"):
                    await asyncio.sleep(SLOW_GAP_S)
            await _send(response, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        finally:
            self._charge(text, prompt=len(text), completion=sent)
        if body.get("stream_options", {}).get("include_usage") and "!nousage" not in text:
            await _send(response, choices=[], usage=_usage(len(text), count))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _charge(self, text: str, *, prompt: int, completion: int) -> None:
        cost = PRICE.cost_nanos(prompt_tokens=prompt, completion_tokens=completion)
        self.bill[text] = self.bill.get(text, 0) + cost


def _text(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _envelope(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-paid", "object": kind, "created": 1, "model": "paid-model"}


async def _send(response: web.StreamResponse, **more: Any) -> None:
    event = json.dumps({**_envelope("chat.completion.chunk"), **more})
    await response.write(f"data: {event}\n\n".encode())


def _error(status: int, code: str) -> web.Response:
    error = {"message": "told to fail", "type": "api_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)
