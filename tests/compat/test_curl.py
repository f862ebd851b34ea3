"""Plain HTTP without any library: what a shell script sees."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from tests.compat.conftest import API_KEY
from tests.e2e.fleet import Agent, chat_body, wait_for
from tests.e2e.provider import Provider

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Said:
    """A reply as curl shows it."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def events(self) -> list[Any]:
        """The JSON of each event of a stream, without its end."""
        lines = [line.removeprefix("data: ") for line in self.text.splitlines() if line[:1] == "d"]
        assert "[DONE]" == lines.pop()
        return [json.loads(line) for line in lines]


def curl(
    url: str, body: object = None, *, key: str = API_KEY, options: tuple[str, ...] = ()
) -> Said:
    """One request."""
    data = () if body is None else ("--data", json.dumps(body))
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--noproxy", "*", "--no-buffer", "--include"),
            *("--header", "content-type: application/json"),
            *("--header", f"authorization: Bearer {key}", *data, *options, url),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    head, _, text = done.stdout.partition("\n\n")
    first, *lines = head.splitlines()
    pairs = (line.partition(": ") for line in lines)
    return Said(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, text)


def test_curl_is_there() -> None:
    """`.ci/run` provides it."""
    assert shutil.which("curl") is not None


def test_an_answer(agent: Agent) -> None:
    """Status, headers and JSON."""
    body = chat_body("copy: banana", model="local", temperature=0, max_tokens=12)
    said = curl(f"{agent.url}/v1/chat/completions", body)
    assert (200, "local") == (said.status, said.headers["x-tidegate-arm"])
    assert "banana" == json.loads(said.text)["choices"][0]["message"]["content"]


def test_an_offer_of_http_2_is_passed_over(agent: Agent) -> None:
    """As Java's client makes it with a first request: it is answered, over HTTP/1.1."""
    body = chat_body("copy: banana", model="local", temperature=0, max_tokens=12)
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA")
    options = tuple(part for header in offer for part in ("--header", header))
    said = curl(f"{agent.url}/v1/chat/completions", body, options=options)
    assert (200, "local") == (said.status, said.headers["x-tidegate-arm"])


def test_a_stream_tells_its_usage_in_a_comment(agent: Agent) -> None:
    """Whoever did not ask for the usage chunk can read it all the same, and no event holds it."""
    body = chat_body("curl stream", model="cloud", max_tokens=6, stream=True)
    said = curl(f"{agent.url}/v1/chat/completions", body)
    assert "paid " * 6 == "".join(
        each["choices"][0]["delta"].get("content", "") for each in said.events
    )
    (comment,) = [line for line in said.text.splitlines() if line.startswith(": ")]
    usage = json.loads(comment[2:])["usage"]
    assert ({"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17}.items()) <= (
        usage.items()
    )
    assert float(usage["cost_usd"]) > 0


@pytest.mark.parametrize(
    ("path", "body", "key", "status", "code"),
    [
        ("chat/completions", chat_body("x", model="local"), "wrong", 401, "invalid_api_key"),
        ("chat/completions", chat_body("x", model="nobody"), API_KEY, 404, "model_not_found"),
        ("chat/completions", {"model": "local"}, API_KEY, 400, "missing_required_parameter"),
        ("chat/completions", None, API_KEY, 405, "method_not_allowed"),
        ("models/nobody", None, API_KEY, 404, "model_not_found"),
        ("nowhere", None, API_KEY, 404, "unknown_url"),
    ],
)
def test_errors(agent: Agent, path: str, body: object, key: str, status: int, code: str) -> None:
    """The envelope, whatever is wrong."""
    said = curl(f"{agent.url}/v1/{path}", body, key=key)
    error = json.loads(said.text)["error"]
    assert (status, code) == (said.status, error["code"])
    assert {"message", "type", "param", "code"} <= set(error)


def test_no_money(poor_agent: Agent) -> None:
    """429, the name of the budget, and when to come back."""
    said = curl(f"{poor_agent.url}/v1/chat/completions", chat_body("x", model="dear"))
    assert (429, "5") == (said.status, said.headers["retry-after"])
    assert "'purse'" in json.loads(said.text)["error"]["message"]


@pytest.mark.parametrize("cap", ["0.000001", "0"])
def test_a_cap_on_the_cost(agent: Agent, provider: Provider, cap: str) -> None:
    """What might cost more is refused with the least that would do, or answered for free."""
    header = ("--header", f"x-tidegate-max-cost-usd: {cap}")
    url = f"{agent.url}/v1/chat/completions"
    refused = curl(url, chat_body(f"cap {cap}", model="cloud"), options=header)
    error = json.loads(refused.text)["error"]
    assert (400, "max_cost_exceeded") == (refused.status, error["code"])
    assert "x-tidegate-max-cost-usd" == error["param"]
    free = curl(url, chat_body(f"cap {cap}", model="auto", max_tokens=4), options=header)
    assert (200, "local") == (free.status, free.headers["x-tidegate-arm"])
    assert 0 == provider.calls(f"cap {cap}")


def test_chunks_are_relayed_one_by_one(agent: Agent, provider: Provider) -> None:
    """The provider sends its next chunk only after the last one has come out of the agent."""
    body = json.dumps(chat_body("!step curl", model="cloud", max_tokens=4, stream=True))
    process = subprocess.Popen(
        [
            *("curl", "--silent", "--noproxy", "*", "--no-buffer", "--data", body),
            *("--header", "content-type: application/json"),
            *("--header", f"authorization: Bearer {API_KEY}"),
            f"{agent.url}/v1/chat/completions",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for _ in range(4):
            provider.step.release()
            assert '"paid "' in process.stdout.readline()
            assert "\n" == process.stdout.readline()
        assert "data: [DONE]" in process.stdout.read()
    finally:
        process.kill()
        process.wait()


def test_a_conversation_keeps_its_arm(agent: Agent) -> None:
    """The next turn says so in its reason."""
    url = f"{agent.url}/v1/chat/completions"
    opening = chat_body("curl: a first turn", model="auto", max_tokens=4)
    first = curl(url, opening)
    said = json.loads(first.text)["choices"][0]["message"]
    messages = [*opening["messages"], said, {"role": "user", "content": "curl: and then?"}]
    wait_for(lambda: agent.details()["requests_in_flight"] == 0)
    second = curl(url, {**opening, "messages": messages})
    assert "table;kept" == second.headers["x-tidegate-reason"].partition(";without")[0]
    assert first.headers["x-tidegate-arm"] == second.headers["x-tidegate-arm"]
