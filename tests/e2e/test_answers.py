"""What clients get from an agent: answers, usage, headers, grades, and clear refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
from decimal import Decimal

import openai
import pytest

from shared.decision.money import dollars
from shared.limits import BODY_BYTES_MAX
from tests.e2e.fleet import CONTEXT_TOKENS, Agent, Fleet, chat_body, wait_for
from tests.e2e.provider import COMPLETION_TOKENS, Provider

pytestmark = pytest.mark.e2e

DECIDED = ("x-tidegate-arm", "x-tidegate-reason", "x-tidegate-table-version")


def client_of(agent: Agent) -> openai.OpenAI:
    """The official client, as an application would make it."""
    return openai.OpenAI(base_url=f"{agent.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize(("model", "arm"), [("auto", "cloud"), ("tiny", "tiny")])
def test_the_openai_client_gets_an_answer_with_usage_and_headers(
    edge: Agent, model: str, arm: str
) -> None:
    """A plain answer names its arm, its reason, its table and its cost."""
    raw = client_of(edge).chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": f"plain {model}"}], max_tokens=8
    )
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )
    assert arm == answer.model == raw.headers["x-tidegate-arm"]
    assert raw.headers["x-tidegate-request-id"].startswith("req")
    assert int(raw.headers["x-tidegate-table-version"]) >= 1
    assert ("pinned" if model != "auto" else "table") == raw.headers["x-tidegate-reason"]
    assert (Decimal(raw.headers["x-tidegate-cost-usd"]) > 0) == (arm == "cloud")


@pytest.mark.parametrize("model", ["cloud", "tiny"])
def test_the_openai_client_gets_a_stream_with_usage_at_its_end(edge: Agent, model: str) -> None:
    """A stream that asks for usage ends with it, also from a model that counts nothing itself."""
    stream = client_of(edge).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": f"stream {model}"}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    headers = stream.response.headers
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
    assert all(name in headers for name in DECIDED)
    assert model == headers["x-tidegate-arm"]


async def test_the_async_client_works_the_same(edge: Agent) -> None:
    """The asynchronous client gets plain and streamed answers."""
    async with openai.AsyncOpenAI(
        base_url=f"{edge.url}/v1", api_key="unused", max_retries=0
    ) as client:
        plain = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "copy: ab"}], max_tokens=4
        )
        stream = await client.chat.completions.create(
            model="cloud",
            messages=[{"role": "user", "content": "async stream"}],
            max_tokens=4,
            stream=True,
        )
        pieces = [chunk async for chunk in stream]
    assert plain.usage is not None
    assert len(pieces) >= 4
    assert any(piece.choices[0].finish_reason for piece in pieces if piece.choices)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("stream", [False, True])
def test_curl_gets_an_answer(edge: Agent, stream: bool) -> None:
    """Plain HTTP without any library is enough, streamed or not."""
    body = json.dumps(chat_body("curl", model="tiny", max_tokens=4, stream=stream))
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--no-buffer", "--include"),
            *("--header", "content-type: application/json", "--data", body),
            f"{edge.url}/v1/chat/completions",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    head, _, content = done.stdout.partition("\n\n")
    assert "200 OK" in head
    assert "x-tidegate-arm: tiny" in head.lower()
    if stream:
        assert content.rstrip().endswith("data: [DONE]")
    else:
        assert json.loads(content)["choices"][0]["message"]["role"] == "assistant"


def test_models_lists_auto_and_the_arms_of_the_device(edge: Agent) -> None:
    """The client sees what it can ask for."""
    listed = [model.id for model in client_of(edge).models.list()]
    assert ["auto", "cloud", "odd", "slow", "tiny"] == sorted(listed)


def test_a_grade_counts_once(edge: Agent, fleet: Fleet) -> None:
    """The same grade again changes nothing; another one is a conflict; a stranger is unknown."""
    request_id = edge.chat("grade me", model="tiny", max_tokens=4).request_id
    grade = {"request_id": request_id, "score": 0.5}
    first = edge.post("/v1/feedback", grade)
    again = edge.post("/v1/feedback", grade)
    other = edge.post("/v1/feedback", {**grade, "score": 1.0})
    unknown = edge.post("/v1/feedback", {"request_id": "req-nobody", "score": 1})
    assert [200, 200, 409, 404] == [r.status for r in (first, again, other, unknown)]
    assert ["now", "before"] == [first.json["recorded"], again.json["recorded"]]
    assert "0.5" in other.message
    wait_for(lambda: fleet.wait_booked(request_id).graded, what="the grade's booking")
    assert 500_000 == fleet.wait_booked(request_id).reward_ppm


def test_route_decides_without_calling(edge: Agent, provider: Provider) -> None:
    """`/v1/route` tells the arm, the propensity, the fallbacks and the worst case; nobody pays."""
    decision = edge.post("/v1/route", chat_body("only decide", model="auto", max_tokens=8)).json
    assert "cloud" == decision["arm"]
    assert 1_000_000 == decision["propensity_ppm"]
    assert Decimal(decision["worst_case_usd"]) > 0
    assert 0 == provider.calls("only decide")


def test_a_pinned_paid_arm_costs_what_the_provider_bills(
    edge: Agent, fleet: Fleet, provider: Provider
) -> None:
    """The provider's bill, the header, the usage and the ledger agree to the nano-dollar."""
    before = fleet.budget()
    reply = edge.chat("what does it cost", model="cloud", max_tokens=8)
    billed = provider.bill["what does it cost"]
    assert COMPLETION_TOKENS == reply.json["usage"]["completion_tokens"]
    assert dollars(billed) == reply.headers["x-tidegate-cost-usd"]
    assert billed == fleet.booked_nanos(reply.request_id)
    shown = fleet.json("budget", "show")
    assert billed <= int(shown["settled_nanos"]) - before.settled_nanos
    (attempt,) = fleet.wait_booked(reply.request_id).outcome.attempts
    assert billed == attempt.cost_nanos <= attempt.reserved_nanos


def test_what_leaves_the_device_is_only_what_the_arm_lists(edge: Agent, provider: Provider) -> None:
    """A listed field goes to the paid arm with the arm's own model name, an unlisted one never."""
    allowed = edge.chat("with temperature", model="cloud", temperature=0.5)
    refused = edge.chat("with a seed", model="cloud", seed=3)
    (sent,) = [b for b in provider.seen if b["messages"][-1]["content"] == "with temperature"]
    assert {"model", "messages", "max_tokens", "temperature"} == set(sent)
    assert "paid-model" == sent["model"]
    assert 200 == allowed.status
    assert (400, "unsupported_field") == (refused.status, refused.code)
    assert "'seed'" in refused.message
    assert "seed" == refused.json["error"]["param"]
    assert 0 == provider.calls("with a seed")


def test_an_unlisted_field_sends_auto_to_a_local_arm(edge: Agent, provider: Provider) -> None:
    """With `auto`, a field that no paid arm lists only takes those arms out."""
    reply = edge.chat("auto with a seed", seed=3, max_tokens=4)
    assert 200 == reply.status
    assert reply.arm in ("tiny", "slow")
    assert "cloud=field:seed" in reply.reason
    assert 0 == provider.calls("auto with a seed")


@pytest.mark.parametrize("headers", [{"x-tidegate-privacy": "local"}, {"x-tidegate-task": "notes"}])
def test_a_private_request_stays_on_the_device(
    edge: Agent, provider: Provider, headers: dict[str, str]
) -> None:
    """Neither the header nor a private task class lets a prompt leave, pinned or not."""
    prompt = f"private {headers}"
    reply = edge.chat(prompt, headers=headers, max_tokens=4)
    pinned = edge.chat(prompt, model="cloud", headers=headers)
    assert 200 == reply.status
    assert reply.arm in ("tiny", "slow")
    assert (400, "no_candidate") == (pinned.status, pinned.code)
    assert "cloud: privacy" in pinned.message
    assert 0 == provider.calls(prompt)


def test_the_deadline_header_reaches_the_books(edge: Agent, fleet: Fleet) -> None:
    """The client's deadline goes over the class's, and decides whether the answer counts."""
    late = edge.chat("hurry", model="slow", max_tokens=6, headers={"x-tidegate-deadline-ms": "1"})
    early = edge.chat("no hurry", model="tiny", max_tokens=4)
    booked_late, booked_early = (fleet.wait_booked(r.request_id).outcome for r in (late, early))
    assert (1, False) == (booked_late.deadline_ms, booked_late.hit)
    assert (30_000, True) == (booked_early.deadline_ms, booked_early.hit)


def test_bad_input_is_refused_in_the_openai_envelope(edge: Agent) -> None:
    """Each kind of bad input has its status and code, and the agent goes on answering."""
    chat = "/v1/chat/completions"
    long_prompt = "x" * (20 * CONTEXT_TOKENS * 4)
    replies = [
        edge.chat("hello", model="nobody"),
        edge.chat(long_prompt),
        edge.chat(long_prompt, model="tiny"),
        edge.post(chat, b"{not json"),
        edge.post(chat, b'{"pad": "' + b"x" * BODY_BYTES_MAX + b'"}'),
        edge.chat("hello", nonsense=1),
        edge.chat("hello", headers={"x-tidegate-deadline-ms": "soon"}),
        edge.chat("hello", headers={"x-tidegate-privacy": "public"}),
        edge.post(chat, {"model": "auto"}),
    ]
    expected = [404, 400, 400, 400, 413, 400, 400, 400, 400]
    assert expected == [reply.status for reply in replies]
    assert "model_not_found" == replies[0].code
    assert "tiny" in replies[0].message
    assert "context_length_exceeded" == replies[1].code == replies[2].code
    assert "nonsense" == replies[5].json["error"]["param"]
    assert 200 == edge.chat("still there", model="tiny", max_tokens=4).status


def test_an_idempotency_key_pays_once(edge: Agent, provider: Provider) -> None:
    """The same request with the same key is answered from memory; the provider is asked once."""
    headers = {"idempotency-key": "e2e-once"}
    replies = [edge.chat("pay once", model="cloud", headers=headers) for _ in range(2)]
    assert [200, 200] == [reply.status for reply in replies]
    assert replies[0].json["choices"] == replies[1].json["choices"]
    assert 1 == provider.calls("pay once")
