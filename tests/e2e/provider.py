"""A small paid provider for tests: OpenAI-compatible, bills, counts, and misbehaves on demand.

It runs in a thread of the test's own process, so that a test can read its bill directly. What a
request does is said by its last message: `!status=500` fails, `!once=429` does so the first time
and asks for a second's patience, `!nousage` answers without usage, `!hang` never answers, `!slow`
takes its time, `!step` sends a chunk each time that the test lets it, `!break` cuts its stream in
the middle. Everything else is answered at once: with a call of the first tool if there are tools,
with an example of the schema if there is one, and with a grade by the model `judge-model`.
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
JUDGE_MODEL: Final = "judge-model"
JUDGE_SAYS: Final = "8"


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
    step : threading.Semaphore
        Released by a test, it lets one chunk of a `!step` stream go.
    """

    port: int = 0
    bill: dict[str, int] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopped = asyncio.Event()
        self.step = threading.Semaphore(0)
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
        app.router.add_post("/v1/embeddings", self._embed)
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
        if text.startswith("!once=") and self.calls(text) == 1:
            status = int(text.removeprefix("!once=").split()[0])
            return _error(status, "told_to_fail", headers={"retry-after": "1"})
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
        message, reason = _said(body, count=count)
        reply["choices"] = [
            {"index": index, "finish_reason": reason, "message": message}
            for index in range(body.get("n", 1))
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
            message, reason = _said(body, count=count)
            for delta in _deltas(message, count=count):
                sent += 1
                if text.startswith("!step"):
                    await asyncio.to_thread(self.step.acquire, timeout=10.0)
                choice = {"index": 0, "delta": delta, "finish_reason": None}
                await _send(response, choices=[choice])
                if text.startswith("!break") and request.transport is not None:
                    request.transport.abort()
                    return response
                if text.startswith("!slow"):
                    await asyncio.sleep(SLOW_GAP_S)
            await _send(response, choices=[{"index": 0, "delta": {}, "finish_reason": reason}])
        finally:
            self._charge(text, prompt=len(text), completion=sent)
        if body.get("stream_options", {}).get("include_usage") and "!nousage" not in text:
            await _send(response, choices=[], usage=_usage(len(text), count))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _embed(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "invalid_api_key")
        body: dict[str, Any] = await request.json()
        data = [
            {"object": "embedding", "index": index, "embedding": [len(text) / 8, -0.5]}
            for index, text in enumerate(body["input"])
        ]
        tokens = sum(len(text) for text in body["input"])
        self._charge(str(body["input"][0]), prompt=tokens, completion=0)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": data, "model": "m", "usage": usage})

    def _charge(self, text: str, *, prompt: int, completion: int) -> None:
        cost = PRICE.cost_nanos(prompt_tokens=prompt, completion_tokens=completion)
        self.bill[text] = self.bill.get(text, 0) + cost


def _text(body: dict[str, Any]) -> str:
    asked = [each for each in body["messages"] if each["role"] == "user"]
    return str(asked[-1]["content"])


def _said(body: dict[str, Any], *, count: int) -> tuple[dict[str, Any], str]:
    """The assistant's message, and why it ends."""
    if body["model"] == JUDGE_MODEL:
        return {"role": "assistant", "content": JUDGE_SAYS}, "stop"
    tools, wanted = body.get("tools"), body.get("response_format") or {}
    if tools and body["messages"][-1]["role"] != "tool":
        function = tools[0]["function"]
        arguments = json.dumps(_example(function.get("parameters", {})))
        call = {"name": function["name"], "arguments": arguments}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        return {"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls"
    if wanted.get("type") == "json_schema":
        content = json.dumps(_example(wanted["json_schema"]["schema"]))
        return {"role": "assistant", "content": content}, "stop"
    return {"role": "assistant", "content": "paid " * count}, "stop"


def _example(schema: dict[str, Any]) -> Any:
    """The plainest value of a JSON schema."""
    match schema.get("type"):
        case "object":
            return {name: _example(each) for name, each in schema.get("properties", {}).items()}
        case "array":
            return [_example(schema.get("items", {}))]
        case "integer" | "number":
            return 7
        case "boolean":
            return True
        case _:
            return str(schema.get("enum", ["word"])[0])


def _deltas(message: dict[str, Any], *, count: int) -> list[dict[str, Any]]:
    """A message in pieces, a call's arguments in two."""
    if not message.get("tool_calls"):
        content = message["content"]
        size = -(-len(content) // count)
        return [{"content": content[at : at + size]} for at in range(0, len(content), size)]
    (call,) = message["tool_calls"]
    arguments = call["function"]["arguments"]
    opening = {"index": 0, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
    pieces = [arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]]
    return [
        {"role": "assistant", "tool_calls": [opening]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": each}}]} for each in pieces),
    ]


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


def _error(status: int, code: str, *, headers: dict[str, str] | None = None) -> web.Response:
    error = {"message": "told to fail", "type": "api_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)
