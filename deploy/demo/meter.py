"""The paid provider's front: a metering proxy before an OpenAI-compatible server.

It checks the API key, adds a network's delay, hands requests on one at a time, and bills what a
provider would bill: a plain answer by its own usage, a stream by counting its tokens. A client
that goes away pays for what had been generated. What fails before generation costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from deploy.demo.bill import Bill
from deploy.demo.provider_tokens import ProviderTokens
from deploy.demo.settings import CLOUD_KEY_VARIABLE, PriceList

NETWORK_MS_MIN: Final = 5.0
UPSTREAM_S_MAX: Final = 60.0
_EVENT: Final = b"data: "
_DONE: Final = "[DONE]"


@dataclass(frozen=True, kw_only=True)
class MeterSettings:
    """How the proxy behaves.

    Attributes
    ----------
    upstream : str
        Base URL of the server, with `/v1`.
    network_ms, network_jitter_ms : float
        Mean and spread of the delay that every request meets.
    """

    upstream: str
    api_key: str
    network_ms: float
    network_jitter_ms: float
    seed: int


@dataclass
class _Streamed:
    """What of a stream has been generated so far."""

    text: str = ""
    identity: dict[str, Any] = field(default_factory=dict)

    def note(self, chunk: dict[str, Any]) -> None:
        """Take in one chunk."""
        self.identity = {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        for choice in chunk.get("choices", []):
            self.text += choice.get("delta", {}).get("content") or ""


class Meter:
    """The proxy's handlers.

    Parameters
    ----------
    tokens : ProviderTokens
        Counts streams.
    bill : Bill
        The provider's books.
    """

    def __init__(self, settings: MeterSettings, *, tokens: ProviderTokens, bill: Bill) -> None:
        self._settings = settings
        self._tokens = tokens
        self._bill = bill
        self._rng = random.Random(f"{settings.seed}/network")
        self._server = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application()
        app.cleanup_ctx.append(self._connect)
        app.router.add_get("/meter", self._show)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    async def _connect(self, _: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=UPSTREAM_S_MAX)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            self._session = session
            yield
        self._bill.close()

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response(self._bill.totals())

    async def _models(self, request: web.Request) -> web.Response:
        if not self._may(request):
            return _error(401, "invalid_api_key", "the API key is missing or wrong")
        async with self._upstream().get(f"{self._settings.upstream}/models") as reply:
            return web.json_response(await reply.json(), status=reply.status)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if not self._may(request):
            return _error(401, "invalid_api_key", "the API key is missing or wrong")
        try:
            body = await request.json()
        except json.JSONDecodeError as error:
            return _error(400, "invalid_json", f"the body is no JSON: {error}")
        if not isinstance(body, dict):
            return _error(400, "invalid_json", "the body must be an object")
        body.pop("stream_options", None)
        await asyncio.sleep(self._one_way_s())
        async with self._server:
            if _gone(request):
                self._bill.note_unbilled()
                return web.Response(status=499)
            try:
                if body.get("stream") is True:
                    return await self._stream(request, body)
                reply = await self._plain(body)
            except aiohttp.ClientConnectionError as error:
                self._bill.note_unbilled()
                return _error(502, "upstream_unreachable", f"the model server is away: {error}")
        await asyncio.sleep(self._one_way_s())
        return reply

    async def _plain(self, body: dict[str, Any]) -> web.Response:
        """A plain answer; its own usage is billed."""
        async with self._post(body) as reply:
            payload = await reply.read()
            if reply.status == web.HTTPOk.status_code:
                usage = json.loads(payload)["usage"]
                self._bill.add(
                    stream=False,
                    prompt_tokens=usage["prompt_tokens"],
                    completion_tokens=usage["completion_tokens"],
                    aborted=False,
                )
            else:
                self._bill.note_unbilled()
            return web.Response(body=payload, status=reply.status, content_type="application/json")

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """A streamed answer; billed for what was generated, however it ends."""
        async with self._post(body) as reply:
            if reply.status != web.HTTPOk.status_code:
                self._bill.note_unbilled()
                return web.Response(
                    body=await reply.read(), status=reply.status, content_type="application/json"
                )
            await asyncio.sleep(self._one_way_s())
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            streamed = _Streamed()
            ended = False
            try:
                await response.prepare(request)
                ended = await self._relay(request, reply, response, streamed)
            except (ConnectionResetError, aiohttp.ClientError, TimeoutError) as error:
                print(f"a stream broke: {error!r}", flush=True)
            finally:
                usage = self._bill_stream(body, streamed, aborted=not ended)
        if ended and not _gone(request):
            await response.write(_event(json.dumps({**streamed.identity, **usage})))
            await response.write(_event(_DONE))
            await response.write_eof()
        elif request.transport is not None:
            # A broken upstream: the client must not take what it has for the whole answer.
            request.transport.close()
        return response

    async def _relay(
        self,
        request: web.Request,
        reply: aiohttp.ClientResponse,
        response: web.StreamResponse,
        streamed: _Streamed,
    ) -> bool:
        """Hand on the chunks; whether the answer came to its end."""
        async for line in reply.content:
            if not line.startswith(_EVENT):
                continue
            data = line.removeprefix(_EVENT).strip().decode()
            if data == _DONE:
                return True
            streamed.note(json.loads(data))
            if _gone(request):
                return False
            await response.write(_event(data))
        return False

    def _bill_stream(
        self, body: dict[str, Any], streamed: _Streamed, *, aborted: bool
    ) -> dict[str, Any]:
        prompt_tokens = self._tokens.prompt_tokens(body["messages"])
        completion_tokens = self._tokens.completion_tokens(streamed.text)
        self._bill.add(
            stream=True,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            aborted=aborted,
        )
        return {
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }

    def _may(self, request: web.Request) -> bool:
        given = request.headers.get("authorization", "")
        return compare_digest(given.encode(), f"Bearer {self._settings.api_key}".encode())

    def _one_way_s(self) -> float:
        """Half of a round trip, in seconds."""
        spread = self._settings.network_jitter_ms
        round_trip_ms = self._settings.network_ms + self._rng.uniform(-spread, spread)
        return max(round_trip_ms, NETWORK_MS_MIN) / 2_000.0

    def _upstream(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the proxy is used before it was started")
        return self._session

    def _post(self, body: dict[str, Any]) -> Any:
        return self._upstream().post(f"{self._settings.upstream}/chat/completions", json=body)


def _gone(request: web.Request) -> bool:
    """Whether the client has closed its connection."""
    return request.transport is None or request.transport.is_closing()


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


def _error(status: int, code: str, message: str) -> web.Response:
    envelope = {"error": {"message": message, "type": "proxy_error", "param": None, "code": code}}
    return web.json_response(envelope, status=status)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A metering proxy before a model server.")
    prices = PriceList()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="base URL of the server, with /v1")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file, to count tokens")
    parser.add_argument("--bill", type=Path, required=True, help="append-only log of the bill")
    parser.add_argument("--input-usd-per-mtok", default=prices.input_usd_per_mtok)
    parser.add_argument("--output-usd-per-mtok", default=prices.output_usd_per_mtok)
    parser.add_argument("--request-usd", default=prices.request_usd)
    parser.add_argument("--network-ms", type=float, default=80.0)
    parser.add_argument("--network-jitter-ms", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Serve until asked to stop. The API key comes from the environment."""
    options = _arguments()
    api_key = os.environ.get(CLOUD_KEY_VARIABLE)
    if not api_key:
        raise SystemExit(f"{CLOUD_KEY_VARIABLE} is not set: it holds the provider's API key")
    prices = PriceList(
        input_usd_per_mtok=options.input_usd_per_mtok,
        output_usd_per_mtok=options.output_usd_per_mtok,
        request_usd=options.request_usd,
    )
    settings = MeterSettings(
        upstream=options.upstream,
        api_key=api_key,
        network_ms=options.network_ms,
        network_jitter_ms=options.network_jitter_ms,
        seed=options.seed,
    )
    bill = Bill(options.bill, price=prices.price, now_unix_ms=lambda: time.time_ns() // 1_000_000)
    meter = Meter(settings, tokens=ProviderTokens(options.model), bill=bill)
    web.run_app(meter.app(), host="127.0.0.1", port=options.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
