"""Paid, OpenAI-compatible endpoints over aiohttp: one attempt a call, never a second."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import cache, partial
from typing import Any, Final, TypeVar

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from edge_agent.adapters.cloud_answers import (
    AnswerError,
    StreamTally,
    embeddings_answer,
    error_text,
    shortened,
    whole_answer,
)
from edge_agent.adapters.sse import DONE, EventParser
from edge_agent.openai_request import serialise
from edge_agent.ports import (
    NOTHING_SENT,
    ArmFailed,
    ChatCall,
    ChatEvent,
    CloudClient,
    EmbedCall,
    Embedded,
    Finished,
    Usage,
)
from edge_agent.provider_keys import ProviderKeys
from shared.decision.types import Arm, CloudSettings, SettleKind
from shared.errors import ConfigError, InvariantError, LimitError
from shared.limits import REQUESTS_IN_FLIGHT_MAX
from shared.settings import read_secret
from shared.version import SOFTWARE_VERSION

RESPONSE_BYTES_MAX: Final = 32 * 1024 * 1024
EVENT_BYTES_MAX: Final = 1024 * 1024
ERROR_BYTES_MAX: Final = 64 * 1024
PIECE_BYTES: Final = 64 * 1024
KEEPALIVE_S: Final = 30.0
RETRY_AFTER_S_MAX: Final = 86_400
# After the last event most servers end the response at once; waiting a moment for that keeps the
# connection for the next call, and a server that lingers costs no more than this.
END_WAIT_S: Final = 0.05
_CLIENT_ERRORS: Final = frozenset({400, 422})
T = TypeVar("T")
_CONTEXT_CODE: Final = "context_length_exceeded"


class OpenAiCloud(CloudClient):
    """Calls cloud arms.

    A POST is sent once: aiohttp repeats requests on a lost connection for idempotent methods
    only, and redirects are not followed (rule S_1).

    Parameters
    ----------
    environ : mapping
        Where `env:NAME` references are looked up, at every call.
    keys : ProviderKeys, optional
        Where `coordinator:NAME` references are looked up.
    tls : ssl.SSLContext, optional
        Trusts more than the system's authorities, for a private endpoint.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        keys: ProviderKeys | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._environ = environ
        self._keys = keys or ProviderKeys()
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def chat(self, call: ChatCall) -> AsyncGenerator[ChatEvent, None]:
        """Answer a call; see `ChatBackend.chat`."""
        attempt = self._attempt(call.arm, _sent_body(call), stream=call.stream)
        texts = "prompt" in call.body
        path = "/completions" if texts else "/chat/completions"
        response = await attempt.post(self._open_session(), path=path)
        try:
            if not 200 <= response.status < 300:
                raise await attempt.refused(response)
            if not call.stream:
                answer, usage = await attempt.whole(
                    response, read=partial(whole_answer, texts=texts)
                )
                yield Finished(usage, answer)
                return
            async with aclosing(attempt.events(response, texts=texts)) as events:
                async for event in events:
                    yield event
        finally:
            # Does nothing to a connection whose response was read to its end.
            response.close()

    async def embed(self, call: EmbedCall) -> Embedded:
        """Embed a call's texts; see `EmbeddingBackend.embed`."""
        texts = call.token_inputs or call.inputs
        body = {**call.fields, "model": call.arm.model, "input": texts}
        attempt = self._attempt(call.arm, body)
        response = await attempt.post(self._open_session(), path="/embeddings")
        try:
            if not 200 <= response.status < 300:
                raise await attempt.refused(response)
            read = partial(embeddings_answer, inputs=len(texts))
            return Embedded(*await attempt.whole(response, read=read))
        finally:
            response.close()

    def _attempt(self, arm: Arm, body: Mapping[str, Any], *, stream: bool = False) -> _Attempt:
        settings = arm.cloud
        if settings is None:
            raise InvariantError(f"arm {arm.id} is no cloud arm")
        return _Attempt(arm, body, stream=stream, settings=settings, secret=self._secret(arm))

    def key_problem(self, arm: Arm) -> str:
        """What a call of this arm would fail with before it is made."""
        try:
            self._secret(arm)
        except ArmFailed as error:
            return str(error)
        return ""

    async def close(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _secret(self, arm: Arm) -> str:
        """The arm's key, read now; empty where the arm needs none."""
        if arm.cloud is None or not arm.cloud.api_key_ref:
            return ""
        if name := arm.cloud.provider_key:
            key = self._keys.get(name)
            if key is None:
                raise ArmFailed(
                    "no_provider_key",
                    f"the key of arm {arm.id}, {name!r}, has not come from the coordinator yet",
                )
            return key
        try:
            return read_secret(arm.cloud.api_key_ref, environ=self._environ)
        except ConfigError as error:
            raise ArmFailed("api_key_missing", f"the key of arm {arm.id}: {error}") from None

    def _open_session(self) -> aiohttp.ClientSession:
        """The one session, made at the first call because it belongs to the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    limit=REQUESTS_IN_FLIGHT_MAX,
                    keepalive_timeout=KEEPALIVE_S,
                    ssl=True if self._tls is None else self._tls,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"tidegate-agent/{SOFTWARE_VERSION}"},
            )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """Lets each request's body know that there is a connection for it, a new one or a used one."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the name is aiohttp's
    ) -> Connection:
        connection = await super().connect(req, traces=traces, timeout=timeout)
        if isinstance(req.body, _Body):
            req.body.connected = True
        return connection


class _Body(aiohttp.payload.Payload):
    """A request body in pieces, which knows whether its end may have left this machine.

    Attributes
    ----------
    handed_over : bool
        Set before the last piece is written. Until then the endpoint cannot have the whole
        request, so it cannot have executed it (rule S_2).
    connected : bool
        Set as soon as there is a connection. Until then nothing at all has left.
    """

    def __init__(self, content: bytes, *, on_progress: Callable[[], None]) -> None:
        super().__init__(content, content_type="application/json")
        self._size = len(content)
        self._content = content
        self._on_progress = on_progress
        self.handed_over = self.connected = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for start in range(0, len(self._content), PIECE_BYTES):
            end = start + PIECE_BYTES
            self.handed_over = end >= len(self._content)
            self._on_progress()
            await writer.write(self._content[start:end])
            await writer.drain()


class _Attempt:
    """One call from the first byte sent to the last one read."""

    def __init__(
        self,
        arm: Arm,
        body: Mapping[str, Any],
        *,
        stream: bool,
        settings: CloudSettings,
        secret: str,
    ) -> None:
        self._arm_id = arm.id
        self._settings = settings
        self._secret = secret
        self._connect_s = settings.connect_timeout_ms / 1000
        self._wait_s = settings.first_byte_timeout_ms / 1000
        self._choices = int(body.get("n", 1))
        self._stream = stream
        self._content = serialise(body)
        self._deadline = 0.0
        self._read_bytes = 0

    async def post(self, session: aiohttp.ClientSession, *, path: str) -> aiohttp.ClientResponse:
        """Send the request and wait for the response's headers."""
        loop = asyncio.get_running_loop()

        def on_progress() -> None:
            self._deadline = loop.time() + self._wait_s
            # The response may come, or the wait be over, before the body has left.
            if waiting and not limit.expired():
                limit.reschedule(self._deadline)

        waiting = True
        body = _Body(self._content, on_progress=on_progress)
        try:
            # aiohttp limits the time to connect; from then on the limit moves with each piece.
            async with asyncio.timeout(None) as limit:
                return await session.post(
                    self._settings.base_url.rstrip("/") + path,
                    data=body,
                    headers=self._headers(),
                    allow_redirects=False,
                    timeout=_connecting_within(self._connect_s),
                )
        except asyncio.CancelledError:
            if body.connected:
                raise
            raise asyncio.CancelledError(NOTHING_SENT) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # aiohttp's errors hold the request's headers, and so the key: they end here.
            raise self._not_answered(error, handed_over=body.handed_over) from None
        finally:
            waiting = False

    def _headers(self) -> dict[str, str]:
        """Headers of the request; compression would only delay a stream."""
        headers = {
            "Accept": "text/event-stream" if self._stream else "application/json",
            "Accept-Encoding": "identity",
        }
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        return headers

    def _not_answered(self, error: Exception, *, handed_over: bool) -> ArmFailed:
        """The failure of a request that got no response."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            reason, problem = "connect_timeout", f"no connection within {self._connect_s:g} s"
        elif isinstance(error, TimeoutError):
            reason, problem = "timeout", f"no response within {self._wait_s:g} s"
        elif isinstance(error, aiohttp.ClientConnectorError):
            reason, problem = "connect_failed", str(error)
        elif isinstance(error, ValueError):
            reason, problem = "invalid_base_url", f"{error}: correct the arm's base_url"
        else:
            reason, problem = "connection_lost", str(error) or type(error).__name__
        return self._failed(
            reason, problem, settle=SettleKind.UNKNOWN if handed_over else SettleKind.RELEASED
        )

    async def refused(self, response: aiohttp.ClientResponse) -> ArmFailed:
        """The failure that a status other than success stands for."""
        status = response.status
        unbilled = status in self._settings.unbilled_statuses
        settle = SettleKind.RELEASED if unbilled else SettleKind.UNKNOWN
        if 300 <= status < 400:
            target = response.headers.get("Location", "nowhere")
            problem = f"HTTP {status}, a redirect to {target}: correct the arm's base_url"
            return self._failed("redirected", problem, settle=settle)
        message, code = error_text(await self._error_body(response), secret=self._secret)
        client_error = status in _CLIENT_ERRORS and code != _CONTEXT_CODE
        if code == _CONTEXT_CODE:
            reason = _CONTEXT_CODE
        else:
            reason = "invalid_request" if client_error else f"http_{status}"
        failure = self._failed(
            reason, f"HTTP {status}: {message}", settle=settle, client_error=client_error
        )
        failure.retry_after_s = _retry_after_s(response.headers.get("Retry-After", ""))
        return failure

    async def _error_body(self, response: aiohttp.ClientResponse) -> bytes:
        """The start of an error reply; what cannot be read does not change its meaning."""
        body = b""
        try:
            while len(body) < ERROR_BYTES_MAX and (read := await self._read(response)):
                body += read
        except ArmFailed as error:
            return body or str(error).encode()
        return body[:ERROR_BYTES_MAX]

    async def whole(
        self,
        response: aiohttp.ClientResponse,
        *,
        read: Callable[[bytes], tuple[T, Usage | None]],
    ) -> tuple[T, Usage | None]:
        """The answer of a call that is not streamed, by the function that reads its body."""
        body = bytearray()
        while piece := await self._read(response):
            body += piece
        try:
            return read(bytes(body))
        except AnswerError as error:
            raise self._unusable(error) from error

    async def events(
        self, response: aiohttp.ClientResponse, *, texts: bool
    ) -> AsyncGenerator[ChatEvent, None]:
        """The chunks of a streamed answer and its end."""
        if response.content_type == "application/json":
            raise await self._not_a_stream(response)
        tally = StreamTally(choices=self._choices, texts=texts)
        try:
            async with aclosing(self._event_data(response, tally)) as data:
                async for each in data:
                    if each.strip() == DONE:
                        await self._reach_end(response)
                        break
                    chunk = tally.take(each)
                    if chunk is not None:
                        yield chunk
                    self._extend_deadline()
                else:
                    if not tally.complete:
                        raise self._failed(
                            "stream_broken", "the stream ended before the answer was finished"
                        )
        except AnswerError as error:
            raise self._unusable(error) from error
        if not tally.started:
            raise self._failed("bad_response", "the stream held no chunk", usage=tally.usage)
        yield Finished(usage=tally.usage)

    async def _event_data(
        self, response: aiohttp.ClientResponse, tally: StreamTally
    ) -> AsyncGenerator[bytes, None]:
        """The data of each event. A connection that breaks after the answer's end just ends."""
        parser = EventParser(event_bytes_max=EVENT_BYTES_MAX)
        try:
            while read := await self._read(response):
                for data in parser.feed(read):
                    yield data
            last = parser.finish()
        except LimitError as error:
            raise self._failed("bad_response", str(error)) from error
        except ArmFailed:
            if not tally.complete:
                raise
            return
        if last is not None:
            yield last

    async def _not_a_stream(self, response: aiohttp.ClientResponse) -> ArmFailed:
        """The failure of a server that answers a streamed call in one piece, or with an error."""
        body = bytearray()
        while read := await self._read(response):
            body += read
        try:
            _, usage = whole_answer(bytes(body))
        except AnswerError as error:
            return self._unusable(error)
        return self._failed("bad_response", "a streamed call got one JSON object", usage=usage)

    async def _reach_end(self, response: aiohttp.ClientResponse) -> None:
        """Give the response a moment to end, so that its connection can be used again."""
        try:
            async with asyncio.timeout(END_WAIT_S):
                while await response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            # The answer is whole; only the connection is not worth keeping.
            response.close()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """What has arrived, waiting for it up to the deadline; empty at the end."""
        if response.content.at_eof() and response.content.exception() is None:
            return b""
        try:
            read = response.content.read_nowait()  # most answers are here whole: no timer for them
            if not read:
                async with asyncio.timeout_at(self._deadline):
                    read = await response.content.readany()
        except TimeoutError as error:
            problem = f"nothing came for {self._wait_s:g} s"
            raise self._failed("timeout", problem) from error
        except (aiohttp.ClientError, OSError) as error:
            problem = f"the connection broke: {error}"
            raise self._failed("stream_broken", problem) from error
        self._read_bytes += len(read)
        if self._read_bytes > RESPONSE_BYTES_MAX:
            problem = f"the response is longer than {RESPONSE_BYTES_MAX} bytes"
            raise self._failed("bad_response", problem)
        if not self._stream:
            self._extend_deadline()
        return read

    def _extend_deadline(self) -> None:
        """Something came: the endpoint has the full time again until the next."""
        self._deadline = asyncio.get_running_loop().time() + self._wait_s

    def _unusable(self, error: AnswerError) -> ArmFailed:
        """The failure that an unusable answer stands for."""
        return self._failed(error.reason, str(error), usage=error.usage)

    def _failed(
        self,
        reason: str,
        problem: str,
        *,
        settle: SettleKind = SettleKind.UNKNOWN,
        usage: Usage | None = None,
        client_error: bool = False,
    ) -> ArmFailed:
        """A failure of this arm, in words that hold no secret; a known usage settles it."""
        return ArmFailed(
            reason,
            f"arm {self._arm_id}: {shortened(problem, secret=self._secret)}",
            settle=settle if usage is None else SettleKind.REPORTED,
            usage=usage,
            client_error=client_error,
        )


@cache
def _connecting_within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds)


def _sent_body(call: ChatCall) -> dict[str, Any]:
    """The call's body, with the fields that say how it is delivered (rule A_2: all set here)."""
    body = {name: value for name, value in call.body.items() if name not in _DELIVERY}
    if "prompt" in body and body.pop("logprobs", False):
        body["logprobs"] = body.pop("top_logprobs", 0)  # the older API's one field for both
    if call.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def _retry_after_s(text: str) -> int:
    """A `Retry-After` in seconds, rounded up; 0 if there is none, or one that is a date."""
    try:
        seconds = float(text)
    except ValueError:
        return 0
    return math.ceil(seconds) if 0 < seconds <= RETRY_AFTER_S_MAX else 0


_DELIVERY: Final = frozenset({"stream", "stream_options"})
