"""The HTTP face on real uvicorn, with OpenAI's own client and with raw sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import pytest_asyncio
from starlette.types import Message
from structlog.testing import capture_logs

from edge_agent.adapters.http_api import ApiKey, bodies, delivery
from edge_agent.adapters.http_api.delivery import task_header
from edge_agent.requests import (
    Answer,
    ClientRequest,
    Readiness,
    RequestRefused,
    TaskOrigin,
    TaskSource,
)
from shared import http_protocol
from shared.decision.types import Fallout
from shared.errors import BooksFullError, ConfigError, ConflictError, NotFoundError
from shared.http_server import serve
from shared.limits import BODY_BYTES_MAX
from tests.fakes.http_face import (
    BODY,
    RESPONSE,
    Bench,
    FakeAgent,
    FixedAnswer,
    app_of,
    chunk,
    connect,
    error_of,
    failing,
    served_agent,
    streaming,
    whole,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = [ApiKey("one", "shop", task_class="sales"), ApiKey("two", "lab", refine_tag=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Bench]:
    """One server for all tests of this file."""
    async with served_agent() as bench:
        yield bench


@pytest.fixture
def bench(served: Bench) -> Bench:
    """The served agent as new."""
    served.agent.reset()
    return served


async def test_the_official_client_gets_a_plain_answer(bench: Bench) -> None:
    """The response arrives as it is, with the decision and the exact cost in its headers."""
    raw = await bench.openai.chat.completions.with_raw_response.create(
        model="auto",
        messages=[{"role": "user", "content": "hi"}],
        max_completion_tokens=9,
        extra_headers={"x-tidegate-task": "code", "Idempotency-Key": "k"},
    )
    assert raw.parse().choices[0].message.content == "Grüße \ud83d"
    (request,) = bench.agent.requests
    told = {name: text for name, text in raw.headers.items() if name.startswith("x-tidegate")}
    assert told == {
        "x-tidegate-request-id": request.request_id,
        "x-tidegate-arm": "llama",
        "x-tidegate-reason": "weighted",
        "x-tidegate-table-version": "7",
        "x-tidegate-task": "code;source=header",
        "x-tidegate-max-tokens": "256",
        "x-tidegate-cost-usd": "0.001234567",
    }
    assert (request.task_class, request.idempotency_key) == ("code", "k")
    assert (request.arrived_unix_ms, request.arrived_monotonic_ms) == (1_000, 50.0)
    assert request.body["max_tokens"] == 9


async def test_the_official_client_gets_each_chunk_at_once(bench: Bench) -> None:
    """The second chunk is made only after the first was read, so nothing is held back."""
    read = asyncio.Event()

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        yield chunk("a")
        await read.wait()
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        yield {**chunk(""), "choices": [], "usage": {**usage, "cost_usd": "0.000000005"}}

    bench.agent.play = streaming(chunks)
    stream = await bench.openai.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert stream.response.headers["x-tidegate-arm"] == "llama"
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    got = []
    async for each in stream:
        got.append(each)
        read.set()
    assert got[0].choices[0].delta.content == "a"
    assert got[1].usage is not None
    assert got[1].usage.model_dump()["cost_usd"] == "0.000000005"
    assert bench.agent.requests[0].include_usage


async def test_a_stream_ends_with_done(bench: Bench) -> None:
    """The bytes on the wire are OpenAI's, also for an answer without any chunk; a comment, which
    clients pass over, tells usage and cost to those who did not ask for a chunk with them."""

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        for text in texts:
            yield chunk(text)

    texts = ["a"]
    bench.agent.play = streaming(chunks)
    reply = await bench.post({**BODY, "stream": True})
    event = json.dumps(chunk("a"), separators=(",", ":"))
    ending = ': {"usage":{"cost_usd":"0.001234567"}}\n\ndata: [DONE]\n\n'
    assert reply.text == f"data: {event}\n\n{ending}"
    texts = []
    reply = await bench.post({**BODY, "stream": True})
    assert reply.text == ending


async def test_an_error_after_the_first_token_goes_into_the_stream(bench: Bench) -> None:
    """The client has its status already: the error is the last event, and there is no [DONE]."""

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        yield chunk("a")
        raise RequestRefused(502, "stream_broken", "the arm broke off")

    bench.agent.play = streaming(chunks)
    reply = await bench.post({**BODY, "stream": True})
    assert reply.status_code == 200
    *_, last, end = reply.text.split("\n\n")
    assert end == ""
    assert json.loads(last.removeprefix("data: ")) == {
        "error": {
            "message": "the arm broke off",
            "type": "api_error",
            "param": None,
            "code": "stream_broken",
        }
    }
    stream = await bench.openai.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match="the arm broke off"):
        [each async for each in stream]


async def test_a_defect_in_a_stream_is_told_without_its_traceback(bench: Bench) -> None:
    """The client learns the request id, the log the rest."""

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        yield chunk("a")
        raise ZeroDivisionError("secret detail")

    bench.agent.play = streaming(chunks)
    with capture_logs() as logs:
        reply = await bench.post({**BODY, "stream": True})
    request_id = reply.headers["x-tidegate-request-id"]
    assert "secret detail" not in reply.text
    assert request_id in reply.text
    assert [(each["event"], each["request_id"]) for each in logs] == [
        ("request_failed", request_id)
    ]


async def test_an_answer_that_fails_before_its_first_chunk_is_a_plain_error(bench: Bench) -> None:
    """No token was sent, so the client gets a status."""

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        raise RequestRefused(502, "arm_failed", "nothing came")
        yield chunk("never")

    bench.agent.play = streaming(chunks)
    reply = await bench.post({**BODY, "stream": True})
    assert (reply.status_code, error_of(reply)["code"]) == (502, "arm_failed")


async def test_a_client_that_leaves_a_stream_closes_it(bench: Bench) -> None:
    """The iterator ends where it waits, and its clean-up runs."""
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        try:
            yield chunk("a")
            await asyncio.Event().wait()
        finally:
            closed.set()

    bench.agent.play = streaming(chunks)
    reader, writer = await connect(bench.server, {**BODY, "stream": True})
    assert b"data: " in await reader.readuntil(b"\n\n")
    writer.transport.abort()
    async with asyncio.timeout(5):
        await closed.wait()


async def test_a_stream_whose_client_has_gone_early_is_closed_too(bench: Bench) -> None:
    """The client leaves while the first chunk is awaited: the iterator still runs its clean-up."""
    asked, closed = asyncio.Event(), asyncio.Event()

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        try:
            while True:
                yield chunk("a")
        finally:
            closed.set()

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        asked.set()
        await asyncio.wait({gone})
        return FixedAnswer(request, chunks=chunks())

    bench.agent.play = chat
    _, writer = await connect(bench.server, {**BODY, "stream": True})
    await asked.wait()
    writer.transport.abort()
    async with asyncio.timeout(5):
        await closed.wait()


def until_the_client_goes(bench: Bench) -> tuple[asyncio.Event, asyncio.Event]:
    """Have the agent answer nobody: set when it is asked, and when it is told of the leaving."""
    asked, noticed = asyncio.Event(), asyncio.Event()

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        asked.set()
        await asyncio.wait({gone})
        noticed.set()
        return FixedAnswer(request, response=RESPONSE)

    bench.agent.play = chat
    return asked, noticed


async def test_a_client_that_leaves_while_it_waits_is_noticed(bench: Bench) -> None:
    """A plain call's service sees `gone`, and decides itself what to do."""
    asked, noticed = until_the_client_goes(bench)
    _, writer = await connect(bench.server, BODY)
    await asked.wait()
    assert not noticed.is_set()
    writer.transport.abort()
    async with asyncio.timeout(5):
        await noticed.wait()


async def test_a_client_that_leaves_after_a_large_body_is_noticed(bench: Bench) -> None:
    """Such a body stops the reading for a while, and with it the word that the client has gone."""
    asked, noticed = until_the_client_goes(bench)
    large = {**BODY, "messages": [{"role": "user", "content": "x" * 200_000}]}
    _, writer = await connect(bench.server, large)
    await asked.wait()
    writer.close()
    async with asyncio.timeout(5):
        await noticed.wait()


async def test_a_pipelined_request_is_told_too_that_its_client_has_gone(bench: Bench) -> None:
    """The first of two on one connection, which uvicorn's own word does not reach."""
    asked, noticed = until_the_client_goes(bench)
    _, writer = await connect(bench.server, BODY, times=2)
    await asked.wait()
    writer.transport.abort()
    async with asyncio.timeout(5):
        await noticed.wait()


async def test_a_client_that_leaves_with_another_request_sent_is_noticed(bench: Bench) -> None:
    """That request, which waits behind the first, stops the reading when it comes."""
    asked, noticed = until_the_client_goes(bench)
    _, writer = await connect(bench.server, BODY)
    await asked.wait()
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    writer.close()
    async with asyncio.timeout(5):
        await noticed.wait()


async def test_a_client_that_does_not_read_is_given_up(bench: Bench) -> None:
    """A stream that nobody takes does not hold its arm for ever."""
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        try:
            while True:
                yield chunk("a")
        finally:
            closed.set()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    request = ClientRequest("req-1", 0, 0.0, BODY, 0, "auto", True, False)
    answer = FixedAnswer(request, chunks=chunks())
    with capture_logs() as logs:
        await delivery.send_stream(answer, send=send, gone=asyncio.Future(), write_wait_s=0.01)
    assert closed.is_set()
    assert [each["event"] for each in logs] == ["client_too_slow"]


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        (RequestRefused(400, "invalid_value", "x", param="n"), "invalid_request_error"),
        (RequestRefused(404, "model_not_found", "x", param="model"), "not_found_error"),
        (RequestRefused(409, "idempotency_conflict", "x"), "invalid_request_error"),
        (RequestRefused(429, "too_many", "x"), "rate_limit_error"),
        (RequestRefused(429, "budget_exceeded", "x"), "insufficient_quota"),
        (RequestRefused(503, "no_arm", "x"), "api_error"),
        (RequestRefused(504, "deadline", "x"), "api_error"),
    ],
)
async def test_a_refusal_becomes_an_openai_error(
    bench: Bench, refused: RequestRefused, kind: str
) -> None:
    """Status, code and field are the refusal's; the type is the one that OpenAI would use."""
    bench.agent.play = failing(refused)
    reply = await bench.post(BODY)
    assert reply.status_code == refused.status
    assert error_of(reply) == {
        "message": "x",
        "type": kind,
        "param": refused.param,
        "code": refused.code,
    }


async def test_a_budget_refusal_says_when_and_why(bench: Bench) -> None:
    """Retry-After, the reason, and each arm that was no candidate; OpenAI's client gives up."""
    bench.agent.play = failing(
        RequestRefused(
            429,
            "budget_exceeded",
            "the budget 'ops' is spent",
            retry_after_s=90,
            fallouts=[Fallout("gpt", "no_lease"), Fallout("llama", "not_loaded")],
            reason="lease\r\nx: y",
        )
    )
    with pytest.raises(openai.RateLimitError) as caught:
        await bench.openai.with_options(max_retries=3).chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "hi"}]
        )
    assert len(bench.agent.requests) == 1
    reply = caught.value.response
    assert reply.headers["x-should-retry"] == "false"
    assert reply.headers["retry-after"] == "90"
    assert reply.headers["x-tidegate-reason"] == "lease??x: y"
    error = error_of(reply)
    assert error["message"] == "the budget 'ops' is spent"
    assert error["tidegate"]["arms"] == [
        {"arm": "gpt", "reason": "no_lease"},
        {"arm": "llama", "reason": "not_loaded"},
    ]


async def test_a_busy_agent_says_when_to_come_again(bench: Bench) -> None:
    """Every 503 has a Retry-After, and those in the books' errors too."""
    for error in (RequestRefused(503, "no_arm", "x"), BooksFullError("the disk is full")):
        bench.agent.play = failing(error)
        reply = await bench.post(BODY)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


async def test_a_defect_is_told_by_its_request_id_alone(bench: Bench) -> None:
    """500, without a traceback; the log has it, under the same id."""
    bench.agent.play = failing(ZeroDivisionError("secret detail"))
    with capture_logs() as logs:
        reply = await bench.post(BODY)
    request_id = reply.headers["x-tidegate-request-id"]
    assert (reply.status_code, error_of(reply)["type"]) == (500, "api_error")
    assert request_id in error_of(reply)["message"]
    assert "secret detail" not in reply.text
    assert [(each["event"], each["request_id"]) for each in logs] == [
        ("request_failed", request_id)
    ]


async def test_a_wrong_body_or_header_never_reaches_the_service(bench: Bench) -> None:
    """The edge refuses it, and names what is wrong."""
    reply = await bench.post({**BODY, "temperature": 3})
    assert (reply.status_code, error_of(reply)["param"]) == (400, "temperature")
    reply = await bench.post(b"\xff")
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_json")
    reply = await bench.post(BODY, x_tidegate_deadline_ms="soon")
    assert (reply.status_code, error_of(reply)["param"]) == (400, "x-tidegate-deadline-ms")
    assert bench.agent.requests == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x-tidegate-max-cost-usd", ("0", "9")),
        ("x-tidegate-privacy", ("local", "none")),
        ("x-tidegate-task", ("sort", "add")),
        ("idempotency-key", ("one", "two")),
    ],
)
async def test_a_header_that_comes_twice_is_refused(
    bench: Bench, name: str, values: Sequence[str]
) -> None:
    """Whichever counted, the other would be passed over in silence."""
    headers = [(name, value) for value in values]
    reply = await bench.http.post("/v1/chat/completions", json=BODY, headers=headers)
    assert (reply.status_code, error_of(reply)["param"]) == (400, name)
    assert bench.agent.requests == []


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_only_json_is_taken(bench: Bench, media_type: str) -> None:
    """A type that a strange web page could send unasked is refused."""
    reply = await bench.post(BODY, content_type=media_type)
    assert (reply.status_code, error_of(reply)["param"]) == (415, "content-type")
    reply = await bench.post(BODY, content_encoding="gzip")
    assert (reply.status_code, error_of(reply)["param"]) == (415, "content-encoding")


async def test_a_large_body_is_refused_by_its_announced_length(bench: Bench) -> None:
    """Not a byte of it is awaited."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        + f"Content-Type: application/json\r\nContent-Length: {BODY_BYTES_MAX + 1}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 413 ")


async def test_a_large_body_is_refused_while_it_is_counted(bench: Bench) -> None:
    """A body without an announced length is cut off at the limit."""

    async def content() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 2**20 + 1):
            yield b" " * 2**20

    reply = await bench.http.post(
        "/v1/chat/completions", content=content(), headers={"content-type": "application/json"}
    )
    assert (reply.status_code, error_of(reply)["code"]) == (413, "request_too_large")


async def test_a_body_that_never_ends_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that stops in the middle of its body does not wait for ever."""
    monkeypatch.setattr(bodies, "BODY_WAIT_S", 0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    writer.write(
        b"POST /v1/route HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10\r\n\r\n{"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_never_ends_a_head_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has asked before; whoever waits for an answer is left alone."""
    monkeypatch.setattr(http_protocol, "HEAD_WAIT_S", 2.0)
    go_on = asyncio.Event()

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        await go_on.wait()
        return await whole(request, gone)

    async def said(content: bytes) -> bytes:
        """All that comes back until the agent closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
        writer.write(content)
        reply = await reader.read()
        writer.close()
        return reply

    bench.agent.play = chat
    answered = asyncio.create_task(bench.post(BODY))
    begun = b"POST /v1/chat/completions HTTP/1.1\r\nHost: l"
    asked = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with asyncio.timeout(60):
        *unasked, after_one = await asyncio.gather(
            said(b""), said(b"P"), said(begun), said(asked + begun)
        )
    assert unasked == [b""] * 3
    assert after_one.startswith(b"HTTP/1.1 200 ")
    go_on.set()
    assert (await answered).status_code == 200


async def test_a_client_that_leaves_while_it_sends_is_only_noted(bench: Bench) -> None:
    """There is nobody to answer, and nothing has failed."""
    app = app_of(bench.agent)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/feedback",
        "headers": [(b"content-type", b"application/json")],
    }
    with capture_logs() as logs:
        await app(scope, receive, send)
    assert sent == []
    assert [each["event"] for each in logs] == ["client_gone_while_sending"]


async def test_too_many_requests_at_once_are_turned_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 above the limit, and room again afterwards."""
    monkeypatch.setattr("edge_agent.adapters.http_api.answers.REQUESTS_IN_FLIGHT_MAX", 1)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        asked.set()
        await go_on.wait()
        return await whole(request, gone)

    bench.agent.play = chat
    first = asyncio.create_task(bench.post(BODY))
    await asked.wait()
    turned_away = await bench.post(BODY)
    assert (turned_away.status_code, error_of(turned_away)["code"]) == (503, "overloaded")
    go_on.set()
    assert (await first).status_code == 200
    assert (await bench.post(BODY)).status_code == 200


async def test_unknown_addresses_and_methods_have_the_envelope(bench: Bench) -> None:
    """404 and 405 too, and 405 names the method to use."""
    for path in ("/v1/images", "/", "/health/"):
        missing = await bench.http.get(path)
        assert (missing.status_code, error_of(missing)["code"]) == (404, "unknown_url")
    wrong = await bench.http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert error_of(wrong)["code"] == "method_not_allowed"


async def test_the_official_client_lists_models(bench: Bench) -> None:
    """`auto` and the real arms, whose ids may hold a slash."""
    listed = [model.id async for model in bench.openai.models.list()]
    assert listed == ["auto", "llama", "org/gpt"]
    assert (await bench.openai.models.retrieve("org/gpt")).id == "org/gpt"
    assert (await bench.http.get("/v1/models/org/gpt")).json()["tidegate"] == {
        "kind": "cloud",
        "available": False,
        "capabilities": ["chat", "tools"],
    }
    with pytest.raises(openai.NotFoundError, match="there are auto, llama, org/gpt"):
        await bench.openai.models.retrieve("gpt-4")


async def test_a_grade_is_recorded_once(bench: Bench) -> None:
    """A repeated grade is fine and said to be known; another one is a conflict."""
    grade = {"request_id": "req-9", "thumbs": "up"}
    reply = await bench.post(grade, path="/v1/feedback")
    assert (reply.status_code, reply.json()["recorded"]) == (200, "now")
    assert bench.agent.grades == [("req-9", 1.0, "client")]
    bench.agent.feedback_result = False
    assert (await bench.post(grade, path="/v1/feedback")).json()["recorded"] == "before"
    bench.agent.feedback_result = ConflictError("graded 0 before")
    reply = await bench.post(grade, path="/v1/feedback")
    assert (reply.status_code, error_of(reply)["code"]) == (409, "conflict")
    bench.agent.feedback_result = NotFoundError("req-9 is unknown")
    reply = await bench.post(grade, path="/v1/feedback")
    assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")


async def test_a_route_is_told_without_the_call(bench: Bench) -> None:
    """The decision, its fallouts and the worst case, exact to the nano-dollar."""
    reply = await bench.post(BODY, path="/v1/route")
    assert reply.json() == {
        "object": "tidegate.route",
        "task_class": "code",
        "task": {"source": "header"},
        "arm": "llama",
        "propensity_ppm": 250_000,
        "fallbacks": ["tiny"],
        "fallouts": [{"arm": "gpt", "reason": "no_lease"}],
        "reason": "weighted",
        "table_version": 7,
        "worst_case_usd": "0.000001500",
    }


async def test_a_guessed_class_comes_with_its_confidence(bench: Bench) -> None:
    """Also the likeliest one that was not sure enough."""
    bench.agent.origin = TaskOrigin(TaskSource.CLASSIFIER, "math", 0.41234567)
    decision = (await bench.post(BODY, path="/v1/route")).json()
    assert {"source": "classifier", "likeliest": "math", "confidence": 0.4123} == decision["task"]


@pytest.mark.parametrize(
    ("task_class", "origin", "header"),
    [
        ("other", TaskOrigin(), "other;source=default"),
        ("code", TaskOrigin(TaskSource.HEADER), "code;source=header"),
        (
            "code",
            TaskOrigin(TaskSource.CLASSIFIER, "code", 0.934),
            "code;source=classifier;confidence=0.93",
        ),
        (
            "other",
            TaskOrigin(TaskSource.CLASSIFIER, "code", 0.4),
            "other;source=classifier;likeliest=code;confidence=0.40",
        ),
    ],
)
async def test_the_task_header_tells_class_and_source(
    task_class: str, origin: TaskOrigin, header: str
) -> None:
    """In the form of a structured field with parameters."""
    assert header == task_header(task_class, origin)


@pytest.mark.parametrize(
    ("readiness", "status", "ready_status"),
    [
        (Readiness(ready=True, problems=(), details={"a": 1}), "ok", 200),
        (Readiness(ready=True, problems=("disk full",), details={}), "degraded", 200),
        (Readiness(ready=False, problems=("no arm",), details={}), "unavailable", 503),
    ],
)
async def test_health_is_a_summary_and_readiness_a_verdict(
    bench: Bench, readiness: Readiness, status: str, ready_status: int
) -> None:
    """/health is 200 whatever it has to say; /readyz is 503 when no request could be answered."""
    bench.agent.ready = readiness
    health = await bench.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, status)
    assert health.json()["problems"] == list(readiness.problems)
    assert health.json()["details"] == readiness.details
    assert (await bench.http.get("/readyz")).status_code == ready_status
    assert (await bench.http.get("/livez")).status_code == 200


async def test_metrics_are_prometheus_text(bench: Bench) -> None:
    """The requests in flight are counted by the face itself."""
    reply = await bench.http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert "tidegate_requests_in_flight 0.0" in reply.text


async def test_an_api_key_guards_the_api_and_nothing_else() -> None:
    """With keys set, `/v1` asks for one of them; probes and metrics need none."""
    transport = httpx2.ASGITransport(app_of(FakeAgent(), api_keys=KEYS))
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as http:
        for header in ("", "Bearer", "Bearer three", "Basic one", "Bearer öne"):
            headers = {b"authorization": header.encode()}
            reply = await http.get("/v1/models", headers=headers)
            assert (reply.status_code, error_of(reply)["type"]) == (401, "authentication_error")
        for key in ("one", "two"):
            reply = await http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert reply.status_code == 200
        for path in ("/health", "/livez", "/readyz", "/metrics"):
            assert (await http.get(path)).status_code == 200


async def test_a_key_says_whose_request_it_is() -> None:
    """Its tag and task class; a header goes over the class, and the tag may only be refined."""
    sent: list[tuple[str, dict[str, str]]] = [
        ("one", {}),
        ("one", {"x-tidegate-task": "code", "idempotency-key": "i"}),
        ("two", {}),
        ("two", {"x-tidegate-tag": "x"}),
    ]
    async with served_agent(api_keys=KEYS) as bench:
        agent, http = bench.agent, bench.http
        for key, more in sent:
            headers = {"authorization": f"Bearer {key}", **more}
            reply = await http.post("/v1/chat/completions", json=BODY, headers=headers)
            assert 200 == reply.status_code
        for key, tag, code in (("one", "x", "tag_not_allowed"), ("two", "x" * 61, "invalid_value")):
            headers = {"authorization": f"Bearer {key}", "x-tidegate-tag": tag}
            reply = await http.post("/v1/chat/completions", json=BODY, headers=headers)
            assert (400, code) == (reply.status_code, error_of(reply)["code"])
        grade = {"request_id": "req-9", "thumbs": "up"}
        headers = {"authorization": "Bearer one"}
        assert 200 == (await http.post("/v1/feedback", json=grade, headers=headers)).status_code
    assert ["shop"] == agent.graded_by
    asked = [(each.key_tag, each.tag, each.task_class) for each in agent.requests]
    assert [
        ("shop", "shop", "sales"),
        ("shop", "shop", "code"),
        ("lab", "lab", None),
        ("lab", "lab/x", None),
    ] == asked
    assert ["key", "header"] == [each.task_source for each in agent.requests[:2]]
    assert "shop i" == agent.requests[1].idempotency_key


async def test_a_port_in_use_is_named(bench: Bench) -> None:
    """The error says which address, and what to do."""
    taken = f"127.0.0.1:{bench.server.port} is in use"
    with pytest.raises(ConfigError, match=taken) as caught:
        async with serve(app_of(FakeAgent()), host="127.0.0.1", port=bench.server.port, grace_s=1):
            pass
    assert "choose a free port" in str(caught.value)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
async def test_an_address_of_another_machine_is_refused(host: str) -> None:
    """A name that does not resolve, and an address that is not ours."""
    with pytest.raises(ConfigError, match="no address of this machine"):
        async with serve(app_of(FakeAgent()), host=host, port=0, grace_s=1):
            pass


async def test_a_certificate_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """One file without the other, and files that are no PEM."""
    garbage = tmp_path / "cert.pem"
    garbage.write_text("no certificate")
    for key in (None, garbage):
        with pytest.raises(ConfigError, match="key"):
            async with serve(
                app_of(FakeAgent()),
                host="127.0.0.1",
                port=0,
                grace_s=1,
                cert_file=garbage,
                key_file=key,
            ):
                pass


async def test_running_answers_end_before_the_server_does() -> None:
    """After the context is left, an answer under way is still sent to its end."""
    agent = FakeAgent()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        asked.set()
        await go_on.wait()
        return await whole(request, gone)

    agent.play = chat
    loop = asyncio.get_running_loop()
    async with serve(app_of(agent), host="localhost", port=0, grace_s=10) as server:
        reader, writer = await connect(server, BODY)
        await asked.wait()
        loop.call_later(0.05, go_on.set)
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_answers_that_outlast_the_grace_are_cut() -> None:
    """The server ends all the same, and the answer's iterator is cleaned up."""
    agent = FakeAgent()
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        try:
            yield chunk("a")
            await asyncio.Event().wait()
        finally:
            closed.set()

    agent.play = streaming(chunks)
    async with serve(app_of(agent), host="127.0.0.1", port=0, grace_s=0.1) as server:
        reader, writer = await connect(server, {**BODY, "stream": True})
        await reader.readuntil(b"data: ")
    assert closed.is_set()
    writer.close()


async def test_answers_ended_at_the_end_of_the_grace_tell_their_clients_why() -> None:
    """In the envelope and as a stream's last event, not by a cut connection."""
    agent = FakeAgent()
    over = asyncio.Event()
    stopping = RequestRefused(503, "stopping", "the agent is stopping", retry_after_s=2)

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        yield chunk("a")
        await over.wait()
        raise stopping

    async def chat(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        if request.stream:
            return await streaming(chunks)(request, gone)
        asked.set()
        await over.wait()
        raise stopping

    agent.play, asked = chat, asyncio.Event()
    app = app_of(agent)
    async with serve(app, host="127.0.0.1", port=0, grace_s=0, on_grace_over=over.set) as server:
        stream, to_stream = await connect(server, {**BODY, "stream": True})
        await stream.readuntil(b"data: ")
        plain, to_plain = await connect(server, BODY)
        await asked.wait()
    said, streamed = await plain.read(), await stream.read()
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"stopping"' in said
    assert b'data: {"error":' in streamed
    assert streamed.endswith(b"0\r\n\r\n")
    for writer in (to_stream, to_plain):
        writer.close()
