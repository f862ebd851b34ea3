"""Every client makes the same calls in its own way; what it gets is the same."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from shared.decision.money import dollars
from tests.compat.conftest import CLIENTS, Run
from tests.e2e.fleet import ROOT, Agent, Fleet, wait_for
from tests.e2e.provider import Provider

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
PAID: Final = "paid paid paid paid paid paid "
CLIENTS_NAMES: Final = ("openai-python", "openai-js", "litellm", "langchain")


@dataclass(frozen=True)
class Found:
    """What one client found, by check; `refused` counts its requests that lacked money."""

    client: str
    checks: dict[str, Any]
    refused: int

    @property
    def mark(self) -> str:
        """Two letters in each of its prompts and tags."""
        return {"openai-python": "py", "openai-js": "js", "litellm": "ll", "langchain": "lc"}[
            self.client
        ]

    def __getitem__(self, check: str) -> Any:
        result = self.checks[check]
        assert "failed" not in result, result["failed"]
        return result


def only(*clients: str) -> pytest.MarkDecorator:
    """For what not every client can do."""
    return pytest.mark.parametrize("found", clients, indirect=True)


@pytest.fixture(scope="module", params=CLIENTS_NAMES)
def found(
    request: pytest.FixtureRequest, run_client: Run, environment: Path, poor_agent: Agent
) -> Found:
    """What a client found, in one run of its script."""
    python = environment / "bin" / "python"
    commands: dict[str, tuple[str | Path, ...]] = {
        "openai-python": (sys.executable, "-m", "tests.compat.clients.openai_python"),
        "openai-js": ("node", CLIENTS / "openai_js.cjs"),
        "litellm": (python, "-m", "tests.compat.clients.litellm_python"),
        "langchain": (python, "-m", "tests.compat.clients.langchain_python"),
    }
    more = {"PYTHONPATH": str(ROOT), "NODE_PACKAGES": str(environment / "js")}
    before = refusals(poor_agent)
    checks = run_client(*commands[request.param], **more)
    return Found(request.param, checks, refusals(poor_agent) - before)


def refusals(agent: Agent) -> int:
    """How many requests an agent has refused."""
    with agent.http() as client:
        lines = client.get("/metrics").text.splitlines()
    counters = [line for line in lines if line.startswith("tidegate_requests_total{")]
    return sum(round(float(c.split()[-1])) for c in counters if 'status="refused"' in c)


def counted(usage: dict[str, Any]) -> tuple[int, int]:
    """Prompt and completion tokens, which add up to the total."""
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["prompt_tokens"], usage["completion_tokens"]


def test_a_real_model_answers(found: Found) -> None:
    """Text, usage, and the headers that tell who answered and at which cost."""
    chat = found["chat"]
    assert ("banana", "local", "0.000000000") == (chat["text"], chat["arm"], chat["cost"])
    prompt, completion = counted(chat["usage"])
    assert prompt > 0
    assert completion > 0


def test_several_answers_to_one_question(found: Found) -> None:
    """`n` reaches an arm that lists it."""
    assert ["paid paid paid "] * 2 == found["choices"]["texts"]
    assert (len(f"{found.mark} choices"), 3) == counted(found["choices"]["usage"])


def test_a_local_stream_with_usage(found: Found) -> None:
    """The pieces make the whole, one of them says why it ends, and the usage comes at the end."""
    stream = found["stream"]
    assert ("banana", ["stop"]) == (stream["text"], stream["reasons"])
    assert min(counted(stream["usage"])) > 0


def test_a_paid_stream(found: Found) -> None:
    """Each of the provider's chunks arrives."""
    assert PAID == found["paid_stream"]["text"]
    assert found["paid_stream"]["chunks"] >= 6


@only("openai-python", "openai-js")
def test_the_client_s_own_helper_for_streams(found: Found) -> None:
    """What it puts together is what came in pieces."""
    assert {"text": PAID, "final": PAID} == found["stream_helper"]


@only("openai-python", "litellm", "langchain")
def test_an_asynchronous_stream(found: Found) -> None:
    """The same from an event loop; in JavaScript every call is of that kind."""
    assert {"text": PAID} == found["async_stream"]


def test_tools_are_called_and_answered(found: Found) -> None:
    """The call comes with its arguments, and its result leads to an answer."""
    tools = found["tools"]
    assert ("weather", {"city": "word"}) == (tools["name"], tools["arguments"])
    assert ("tool_calls", PAID) == (tools["reason"], tools["text"])


def test_a_call_of_a_tool_is_streamed(found: Found) -> None:
    """Its arguments come in pieces that fit together."""
    assert {"name": "weather", "arguments": {"city": "word"}} == found["streamed_tools"]


def test_answers_follow_a_schema(found: Found) -> None:
    """A local model is held to it by a grammar, a paid one by its provider."""
    answers = found["structured"]
    assert {"local": ["good"], "auto": ["good"]} == {k: list(v) for k, v in answers.items()}
    assert isinstance(answers["local"]["good"], bool)
    assert answers["auto"]["good"] is True


@pytest.mark.parametrize(
    ("mistake", "name", "status", "code", "param"),
    [
        ("key", "AuthenticationError", 401, "invalid_api_key", None),
        ("model", "NotFoundError", 404, "model_not_found", "model"),
        ("field", "BadRequestError", 400, "unknown_parameter", "nonsense"),
        ("value", "BadRequestError", 400, "invalid_value", "temperature"),
        ("tools", "BadRequestError", 400, "unsupported_capability", "tools"),
        ("budget", "RateLimitError", 429, "budget_exceeded", None),
    ],
)
def test_errors_are_the_client_s_own_types(
    found: Found, mistake: str, name: str, status: int, code: str, param: str | None
) -> None:
    """A typed exception with status, code and the field at fault."""
    error = found["errors"][mistake]
    assert name in error["types"], error
    assert status == error["status"]
    if found.client != "litellm":  # it keeps neither code nor field
        assert (code, param) == (error["code"], error["param"])


@only("openai-python", "openai-js", "langchain")
def test_a_refusal_for_money_says_when_to_come_back(found: Found) -> None:
    """`Retry-After` is there for whoever keeps the response's headers."""
    assert "5" == found["errors"]["budget"]["retry_after"]


def test_a_refusal_for_money_is_not_repeated(found: Found) -> None:
    """The client may retry twice, and was told that it is no use."""
    assert 1 == found.refused


def test_a_stream_that_breaks_is_an_error(found: Found) -> None:
    """Half an answer is not passed off as a whole one."""
    assert found["broken_stream"]["types"]


def test_a_client_that_retries_waits_as_it_is_told(found: Found, provider: Provider) -> None:
    """The provider's 429 reaches the client with its `Retry-After`; the second try succeeds."""
    assert {"text": "paid paid "} == found["retry"]
    assert 2 == provider.calls(f"!once=429 {found.mark} retry")


@pytest.mark.parametrize(("arm", "drained"), [("cloud", True), ("hasty", False)])
def test_a_client_that_leaves_is_settled_as_its_arm_says(
    found: Found, provider: Provider, booked_as: Callable[[str], Any], arm: str, drained: bool
) -> None:
    """Drained: the true usage is booked. Cancelled: what was reserved, which is no less."""
    assert {} == found["cancel"]
    decision = booked_as(f"{found.mark}-{arm}")
    (attempt,) = decision.outcome.attempts
    prompt = f"!slow {found.mark} {arm}"
    wait_for(lambda: provider.bill.get(prompt), what="the provider's bill")
    billed = provider.bill[prompt]
    if drained:
        assert billed == attempt.cost_nanos < attempt.reserved_nanos
    else:
        assert billed <= attempt.cost_nanos == attempt.reserved_nanos


def test_the_legacy_completions(found: Found) -> None:
    """Several prompts, and a stream."""
    assert ["banana", "orange"] == found["completions"]["texts"]
    assert "banana" == found["completions"]["streamed"]


def test_embeddings(found: Found) -> None:
    """One vector for each text, exact to the last bit, and what it counted."""
    assert [[0.25, -0.5], [0.5, -0.5]] == found["embeddings"]["vectors"]
    if "usage" in found["embeddings"]:
        assert 6 == found["embeddings"]["usage"]["prompt_tokens"]


@only("openai-python", "openai-js")
def test_models_are_listed(found: Found) -> None:
    """`auto` and the arms of the device."""
    assert {"auto", "local", "cloud", "hasty", "embed"} == set(found["models"]["listed"])
    assert "local" == found["models"]["one"]


def test_what_the_clients_cost_is_what_the_provider_bills(
    agent: Agent, fleet: Fleet, provider: Provider
) -> None:
    """After all that, the ledger holds no less than the bill."""
    del agent
    wait_for(
        lambda: fleet.budget().settled_nanos >= provider.billed_nanos,
        what=f"the booking of {dollars(provider.billed_nanos)}",
    )


def test_the_clients_are_there() -> None:
    """`.ci/run` and `bootstrap.py compat` provide them."""
    missing = [name for name in ("node", "npm", "curl") if shutil.which(name) is None]
    assert [] == missing
