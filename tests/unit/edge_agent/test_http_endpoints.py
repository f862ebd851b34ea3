"""Legacy completions, embeddings and cross-origin pages on the HTTP face."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from edge_agent.adapters.http_api import ApiKey
from edge_agent.requests import Answer, ClientRequest, RequestKind, RequestRefused
from tests.fakes.http_face import (
    BODY,
    Bench,
    FixedAnswer,
    chunk,
    error_of,
    failing,
    served_agent,
    whole,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
ORIGIN = "https://app.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Bench]:
    """One server for all tests of this file, open to the pages of one origin."""
    async with served_agent(cors_origins=[ORIGIN], api_keys=[ApiKey("none", "test")]) as bench:
        yield bench


@pytest.fixture
def bench(served: Bench) -> Bench:
    """The served agent as new."""
    served.agent.reset()
    return served


def choice(text: str, *, index: int = 0, **more: Any) -> dict[str, Any]:
    """A choice of a chat answer."""
    message = {"role": "assistant", "content": text}
    return {"index": index, "message": message, "finish_reason": "stop", **more}


async def echoing(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
    """Answer each prompt with its own text, `n` times, in the order of their arrival or not."""
    del gone
    prompt = request.body["messages"][0]["content"]
    n = request.body.get("n", 1)
    if not request.stream:
        choices = [choice(f"<{prompt}{at}>", index=at) for at in range(n)]
        return FixedAnswer(request, response={"created": 9, "choices": choices})

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        for at in range(n):
            yield {"created": 9, "choices": [{"index": at, "delta": {"role": "assistant"}}]}
            for letter in prompt:
                yield {"created": 9, "choices": [{"index": at, "delta": {"content": letter}}]}
            yield {
                "created": 9,
                "choices": [{"index": at, "delta": {}, "finish_reason": "stop"}],
            }
        if request.include_usage:
            yield {"created": 9, "choices": [], "usage": {"prompt_tokens": 1}}

    return FixedAnswer(request, chunks=chunks())


async def test_the_official_client_completes_several_prompts(bench: Bench) -> None:
    """Choices follow the prompts, usage and cost are those of all of them."""
    bench.agent.play = echoing
    raw = await bench.openai.completions.with_raw_response.create(
        model="auto", prompt=["a", "b"], n=2, echo=True
    )
    found = raw.parse()
    assert [(0, "a<a0>"), (1, "a<a1>"), (2, "b<b0>"), (3, "b<b1>")] == [
        (each.index, each.text) for each in found.choices
    ]
    assert ("text_completion", 9, "llama") == (found.object, found.created, found.model)
    assert "0.002469134" == raw.headers["x-tidegate-cost-usd"]
    assert {"cost_usd": "0.002469134"} == raw.http_response.json()["usage"]
    request_id = raw.headers["x-tidegate-request-id"]
    assert [f"{request_id}.1", f"{request_id}.2"] == [r.request_id for r in bench.agent.requests]


async def test_a_single_prompt_keeps_the_request_s_id(bench: Bench) -> None:
    """It is what `/v1/feedback` takes."""
    reply = await bench.post(
        {"model": "auto", "prompt": "a"}, path="/v1/completions", authorization="Bearer none"
    )
    assert 200 == reply.status_code
    assert reply.headers["x-tidegate-request-id"] == bench.agent.requests[0].request_id


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_an_answer_given_again_has_the_id_that_can_be_graded(bench: Bench, path: str) -> None:
    """The books know it by the first request's id, so that is the one to hand out."""

    async def kept(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        first = await whole(request, gone)
        first.head = replace(first.head, request_id="req-first")
        return first

    bench.agent.play = kept
    asked = BODY if path.startswith("/v1/chat") else {"model": "auto", "prompt": "a"}
    reply = await bench.post(asked, path=path, authorization="Bearer none")
    assert ["req-first"] == reply.headers.get_list("x-tidegate-request-id")


async def test_the_official_client_streams_several_prompts(bench: Bench) -> None:
    """The pieces of all choices come in one stream, each with its index, and end with usage."""
    bench.agent.play = echoing
    texts = dict.fromkeys(range(4), "")
    reasons: dict[int, str] = {}
    usage = None
    async for piece in await bench.openai.completions.create(
        model="auto",
        prompt=["abc", "de"],
        n=2,
        echo=True,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = piece.usage or usage
        for each in piece.choices:
            texts[each.index] += each.text
            if each.finish_reason:
                reasons[each.index] = each.finish_reason
    assert {0: "abcabc", 1: "abcabc", 2: "dede", 3: "dede"} == texts
    assert dict.fromkeys(range(4), "stop") == reasons
    assert usage is not None


async def test_log_probabilities_come_in_the_older_form(bench: Bench) -> None:
    """Lists that run in parallel, with the place of each token in the text."""
    tokens = [
        {"token": word, "logprob": -number, "top_logprobs": [{"token": "x", "logprob": -9}]}
        for number, word in enumerate(("He", "llo"))
    ]

    async def answer(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        del gone
        choices = [choice("Hello", logprobs={"content": tokens})]
        return FixedAnswer(request, response={"created": 1, "choices": choices})

    bench.agent.play = answer
    found = await bench.openai.completions.create(model="auto", prompt="a", logprobs=1)
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert (["He", "llo"], [0, -1], [0, 2]) == (
        logprobs.tokens,
        logprobs.token_logprobs,
        logprobs.text_offset,
    )
    assert [{"x": -9}, {"x": -9}] == logprobs.top_logprobs


async def test_one_prompt_that_is_refused_refuses_the_completion(bench: Bench) -> None:
    """The error is the client's to see, and the other answers are given up."""
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        try:
            yield chunk("a")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def answer(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        del gone
        if request.body["messages"][0]["content"] == "bad":
            raise RequestRefused(429, "budget_exceeded", "no money")
        return FixedAnswer(request, chunks=chunks())

    bench.agent.play = answer
    reply = await bench.post(
        {"model": "auto", "prompt": ["good", "bad"], "stream": True},
        path="/v1/completions",
        authorization="Bearer none",
    )
    assert (429, "budget_exceeded") == (reply.status_code, error_of(reply)["code"])
    await closed.wait()


async def test_an_error_in_the_middle_ends_the_stream_of_all(bench: Bench) -> None:
    """It is the last event, as in a chat."""

    async def chunks() -> AsyncIterator[Mapping[str, Any]]:
        yield chunk("a")
        raise RequestRefused(502, "stream_broken", "the arm broke off")

    async def answer(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        del gone
        return FixedAnswer(request, chunks=chunks())

    bench.agent.play = answer
    body = {"model": "auto", "prompt": ["a", "b"], "stream": True}
    reply = await bench.post(body, path="/v1/completions", authorization="Bearer none")
    last = reply.text.strip().split("\n\n")[-1]
    assert '"code":"stream_broken"' in last


async def test_steering_holds_for_all_prompts_together(bench: Bench) -> None:
    """Each prompt has a key of its own, and its share of the cap."""
    await bench.post(
        {"model": "auto", "prompt": ["a", "b"]},
        path="/v1/completions",
        authorization="Bearer none",
        x_tidegate_max_cost_usd="0.000000003",
        idempotency_key="k",
    )
    assert [("test k.1", 1), ("test k.2", 1)] == [
        (each.idempotency_key, each.max_cost_nanos) for each in bench.agent.requests
    ]


VECTORS = [[0.5, -2.0], [0.25, 3.0]]


async def embedding(request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
    """Two vectors."""
    del gone
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(VECTORS)
    ]
    usage = {"prompt_tokens": 3, "total_tokens": 3, "cost_usd": "0"}
    response = {"object": "list", "data": data, "model": "e", "usage": usage}
    return FixedAnswer(request, response=response)


async def test_the_official_client_gets_embeddings(bench: Bench) -> None:
    """It asks for base64 by itself and reads float32 out of it."""
    bench.agent.play = embedding
    raw = await bench.openai.embeddings.with_raw_response.create(model="e", input=["a", "b"])
    found = raw.parse()
    assert VECTORS == [each.embedding for each in found.data]
    assert 3 == found.usage.prompt_tokens
    assert "llama" == raw.headers["x-tidegate-arm"]
    (request,) = bench.agent.requests
    assert (RequestKind.EMBEDDINGS, {"model": "e", "input": ["a", "b"]}) == (
        request.kind,
        request.body,
    )


async def test_embeddings_come_as_numbers_unless_base64_is_asked_for(bench: Bench) -> None:
    """Both forms hold the same vectors."""
    bench.agent.play = embedding
    body = {"model": "e", "input": ["a", "b"]}
    key = {"path": "/v1/embeddings", "authorization": "Bearer none"}
    plain = (await bench.post(body, **key)).json()
    packed = (await bench.post({**body, "encoding_format": "base64"}, **key)).json()
    assert VECTORS == [each["embedding"] for each in plain["data"]]
    assert VECTORS == [
        list(struct.unpack("<2f", base64.b64decode(each["embedding"]))) for each in packed["data"]
    ]


async def test_embeddings_that_are_refused_have_the_envelope(bench: Bench) -> None:
    """Like everything else."""
    bench.agent.play = failing(RequestRefused(400, "ambiguous_model", "two", param="model"))
    body = {"model": "auto", "input": "a"}
    reply = await bench.post(body, path="/v1/embeddings", authorization="Bearer none")
    assert "ambiguous_model" == error_of(reply)["code"]


@pytest.mark.parametrize("field", ["prompt", "input"])
async def test_a_refusal_names_the_prompt_as_its_endpoint_does(bench: Bench, field: str) -> None:
    """A completion has no `messages`, nor have embeddings."""
    empty = RequestRefused(400, "invalid_request", "the prompt is empty", param="messages")
    bench.agent.play = failing(empty)
    path = "/v1/completions" if field == "prompt" else "/v1/embeddings"
    reply = await bench.post({"model": "auto", field: "a"}, path=path, authorization="Bearer none")
    assert field == error_of(reply)["param"]


async def test_a_page_of_the_origin_may_call(bench: Bench) -> None:
    """The browser's question is answered without a key; the call itself needs it."""
    asked = await bench.http.options(
        "/v1/chat/completions",
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-tidegate-task",
        },
    )
    assert (200, ORIGIN) == (asked.status_code, asked.headers["access-control-allow-origin"])
    assert "x-tidegate-task" in asked.headers["access-control-allow-headers"]
    bench.agent.play = whole
    reply = await bench.post(BODY, origin=ORIGIN, authorization="Bearer none")
    assert (200, ORIGIN) == (reply.status_code, reply.headers["access-control-allow-origin"])
    assert "x-tidegate-cost-usd" in reply.headers["access-control-expose-headers"]
    refused = await bench.post(BODY, origin=ORIGIN)
    assert (401, ORIGIN) == (refused.status_code, refused.headers["access-control-allow-origin"])


async def test_a_page_of_another_origin_may_not(bench: Bench) -> None:
    """Neither the question nor a reply says yes."""
    asked = await bench.http.options(
        "/v1/chat/completions",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    reply = await bench.post(BODY, origin="https://evil.example", authorization="Bearer none")
    assert 400 == asked.status_code
    assert "access-control-allow-origin" not in reply.headers


async def test_without_origins_no_page_may_call() -> None:
    """Off is the default: a browser's question is a method that is not allowed."""
    async with served_agent() as closed:
        asked = await closed.http.options(
            "/v1/chat/completions",
            headers={"origin": ORIGIN, "access-control-request-method": "POST"},
        )
        reply = await closed.post(BODY, origin=ORIGIN)
        assert [] == closed.agent.requests, "nor one that takes the agent for its own server"
        assert 200 == (await closed.post(BODY, origin="app://desktop")).status_code
    assert (405, 403) == (asked.status_code, reply.status_code)
    assert ("origin_not_allowed", "origin") == tuple(error_of(reply)[k] for k in ("code", "param"))
    assert "access-control-allow-origin" not in reply.headers


async def test_without_keys_the_agent_answers_to_its_own_names() -> None:
    """Addresses and localhost are nobody's to give away; other names are in `cors_origins`."""
    hosts = (
        *("localhost", "LOCALHOST:7480", "app.localhost:1", "localhost.:80", "127.0.0.1:7480"),
        *("[::1]:80", "[::1]", "192.168.7.9:7480", "known.example", "Other.example:8443"),
    )
    named = ["http://known.example", "https://other.example:8443"]
    async with served_agent(cors_origins=named) as bench:
        for host in hosts:
            reply = await bench.http.get("/v1/models", headers={"host": host})
            assert 200 == reply.status_code, host


async def test_without_keys_a_page_whose_name_was_rebound_reads_nothing() -> None:
    """Its browser takes it for the agent's own, so no rule of the browser's keeps it out."""
    hosts = (
        *("rebound.example:7480", "known.example", "localhost.rebound.example", "x" * 2_000),
        *("127.0.0.1.nip.example", "user@localhost", "localhost@rebound.example"),
        *("[::1]rebound.example", "[::1]:7480:80", "::1", "["),
    )
    async with served_agent(cors_origins=["http://known.example:7480"]) as bench:
        for host in hosts:
            for path in ("/v1/models", "/metrics", "/health", "/nowhere"):
                reply = await bench.http.get(path, headers={"host": host})
                error = error_of(reply)
                assert ("host_not_allowed", "host") == (error["code"], error["param"])
                assert 403 == reply.status_code
                assert f"add 'http://{host[:100]}" in error["message"]
                assert len(error["message"]) < 500
        assert 403 == (await bench.post(BODY, host="rebound.example")).status_code
    assert [] == bench.agent.requests


@pytest.mark.parametrize(
    "options", [{"api_keys": [ApiKey("none", "test")]}, {"cors_origins": ["*"]}]
)
async def test_with_keys_or_for_all_pages_every_name_is_answered_to(options: Any) -> None:
    """Behind a proxy, for one."""
    async with served_agent(**options) as bench:
        headers = {"host": "anything.example", "authorization": "Bearer none"}
        assert 200 == (await bench.http.get("/v1/models", headers=headers)).status_code
        assert 200 == (await bench.http.get("/health", headers=headers)).status_code


async def test_a_client_that_names_no_host_is_no_browser() -> None:
    """HTTP/1.0, as simple probes speak it."""
    async with served_agent() as bench:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
        writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
