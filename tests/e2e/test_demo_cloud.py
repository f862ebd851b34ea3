"""The demo's paid cloud with real processes: the third-party server behind the metering proxy."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest

from deploy.demo import loopback
from deploy.demo.cloud import Cloud, start_cloud, wait_cloud
from deploy.demo.processes import Children, DemoError
from deploy.demo.provider_tokens import ProviderTokens
from deploy.demo.settings import (
    CLOUD_ARM,
    DEVICES,
    MODELS,
    ROOT,
    DemoSettings,
    PriceList,
    cloud_python,
)

KEY = "test-key"
SETTLE_S_MAX = 10.0
UP_S_MAX = 90.0
DOWN_S_MAX = 30.0

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass(frozen=True)
class Provider:
    """A running cloud, its prices and its bill log."""

    cloud: Cloud
    prices: PriceList
    bill: Path

    def client(self, key: str = KEY) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=self.cloud.base_url, api_key=key, max_retries=0)

    def entries(self) -> list[dict[str, Any]]:
        """The bill, one entry a line; a line that is still being written does not count."""
        lines = self.bill.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


def settings_under(folder: Path) -> DemoSettings:
    """Settings of a quick cloud with all its state in a folder."""
    return DemoSettings(
        state=folder,
        report=folder / "report.json",
        picture=folder / "run.png",
        cloud_python=cloud_python(None),
        network_ms=10.0,
        network_jitter_ms=5.0,
    )


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """One cloud for all tests of this module."""
    folder = tmp_path_factory.mktemp("cloud")
    settings = settings_under(folder)
    if not settings.cloud_python.exists():
        pytest.fail(f"{settings.cloud_python} does not exist: run `make install`")
    children = Children(logs=settings.logs)
    try:
        cloud = start_cloud(settings, children=children, api_key=KEY)
        wait_cloud(cloud, children=children, api_key=KEY)
        yield Provider(cloud, settings.prices, folder / "bill.jsonl")
    finally:
        children.stop_all()


def ask(provider: Provider, prompt: str, *, stream: bool = False, max_tokens: int = 32) -> Any:
    """One chat completion with greedy sampling."""
    return provider.client().chat.completions.create(
        model=CLOUD_ARM,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=max_tokens,
        temperature=0.0,
        stream=stream,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait, bounded, until something that another process does has happened."""
    deadline = time.monotonic() + SETTLE_S_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def post(provider: Provider, payload: bytes) -> tuple[int, dict[str, Any]]:
    """A raw request with the right key; its status and JSON body."""
    request = Request(
        f"{provider.cloud.base_url}/chat/completions",
        data=payload,
        headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )
    try:
        with urlopen(request, timeout=30.0) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


def test_a_plain_answer_is_billed_at_its_own_usage(provider: Provider) -> None:
    """The bill of a plain answer is the server's usage times the price list."""
    before = provider.cloud.totals()
    reply = ask(provider, "copy: abcdef")
    after = provider.cloud.totals()
    expected = provider.prices.price.cost_nanos(
        prompt_tokens=reply.usage.prompt_tokens, completion_tokens=reply.usage.completion_tokens
    )
    assert expected == after["billed_nanos"] - before["billed_nanos"]
    assert after["requests"] - before["requests"] == 1


@pytest.mark.parametrize(
    "prompt", ["copy: hello", "sort: 31415926", "find in a=12 b=345: b", "add: 17+25", " Grüße "]
)
def test_a_stream_is_billed_like_the_same_plain_answer(provider: Provider, prompt: str) -> None:
    """Counting a stream with the model's tokenizer agrees with the server's own count."""
    plain = ask(provider, prompt, max_tokens=12)
    chunks = list(ask(provider, prompt, stream=True, max_tokens=12))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert plain.choices[0].message.content == text
    assert not chunks[-1].choices
    assert plain.usage.prompt_tokens == chunks[-1].usage.prompt_tokens
    counted = ProviderTokens(MODELS / f"{CLOUD_ARM}.gguf").completion_tokens(text)
    assert counted == chunks[-1].usage.completion_tokens
    # Bytes that are no whole character never reach a client, so they cannot be counted.
    assert counted <= plain.usage.completion_tokens
    if "�" not in text and text.isascii():
        assert plain.usage.completion_tokens == counted


def test_an_aborted_stream_is_billed_for_what_was_generated(provider: Provider) -> None:
    """A client that goes away pays for the prompt and for no more than it can have got."""
    billed, aborted = len(provider.entries()), provider.cloud.totals()["aborted"]
    stream = ask(provider, "copy: abcdefghijklmnop", stream=True, max_tokens=400)
    next(iter(stream))
    stream.close()
    wait_for(lambda: len(provider.entries()) > billed)
    entry = provider.entries()[billed]
    assert entry["stream"] is True
    assert entry["prompt_tokens"] > 0
    assert entry["completion_tokens"] <= 400
    wait_for(lambda: provider.cloud.totals()["requests"] > billed)
    assert aborted + entry["aborted"] == provider.cloud.totals()["aborted"]


def test_a_wrong_key_is_refused_and_costs_nothing(provider: Provider) -> None:
    """Without the key nothing reaches the server."""
    before = provider.cloud.totals()
    with pytest.raises(openai.AuthenticationError):
        provider.client("wrong").models.list()
    with pytest.raises(openai.AuthenticationError):
        provider.client("wrong").chat.completions.create(
            model=CLOUD_ARM, messages=[{"role": "user", "content": "copy: a"}]
        )
    assert before == provider.cloud.totals()


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"{not json", 400),
        (b"[]", 400),
        (b'{"model": "large", "messages": "none"}', 500),
        (
            json.dumps(
                {"messages": [{"role": "user", "content": "x" * 2000}], "max_tokens": 4}
            ).encode(),
            400,
        ),
    ],
)
def test_what_fails_before_generation_costs_nothing(
    provider: Provider, payload: bytes, status: int
) -> None:
    """Bad bodies and prompts beyond the context give the server's error and no bill."""
    before = provider.cloud.totals()["billed_nanos"]
    got, body = post(provider, payload)
    assert status == got, body
    assert before == provider.cloud.totals()["billed_nanos"]


def test_the_bill_log_adds_up_to_the_totals(provider: Provider) -> None:
    """Every billed request is one line, and the lines come to what `GET /meter` says."""
    ask(provider, "reverse: abc")
    entries, totals = provider.entries(), provider.cloud.totals()
    assert totals["requests"] == len(entries)
    assert totals["billed_nanos"] == sum(entry["cost_nanos"] for entry in entries)
    assert list(range(1, len(entries) + 1)) == [entry["number"] for entry in entries]


def test_a_missing_environment_says_what_to_do(tmp_path: Path) -> None:
    """Without the server's environment the error names the command that makes it."""
    settings = DemoSettings(
        state=tmp_path,
        report=tmp_path / "report.json",
        picture=tmp_path / "run.png",
        cloud_python=tmp_path / "missing" / "python",
    )
    with pytest.raises(DemoError, match="make install"):
        start_cloud(settings, children=Children(logs=settings.logs), api_key=KEY)


def test_no_process_outlives_the_run(tmp_path: Path) -> None:
    """After `stop_all` the processes are gone, the model server's too."""
    settings = settings_under(tmp_path)
    children = Children(logs=settings.logs)
    cloud = start_cloud(settings, children=children, api_key=KEY)
    pid = cloud.meter.pid
    children.stop_all()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.timeout(180)
def test_a_set_that_is_left_running_answers_and_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    """`--up` prints agents that answer; an interrupt ends every process and is no failure."""
    command = [sys.executable, "-m", "deploy.demo.run", "--up", "--out", str(tmp_path / "out")]
    output = tmp_path / "up.log"
    with output.open("wb") as sink:
        running = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=sink,
            stderr=subprocess.STDOUT,
            # A test run in the background ignores interrupts, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
    try:
        deadline = time.monotonic() + UP_S_MAX
        while "Ctrl-C ends everything" not in output.read_text():
            assert running.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        text = output.read_text()
        urls = set(re.findall(r"http://127\.0\.0\.1:\d+/v1(?=\s)", text))
        assert len(DEVICES) == len(urls), text
        client = openai.OpenAI(base_url=min(urls), api_key="none", max_retries=0)
        reply = client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "sort: 52418"}], temperature=0.0
        )
        assert reply.usage is not None
        assert reply.usage.completion_tokens > 0
        running.send_signal(signal.SIGINT)
        assert 0 == running.wait(timeout=DOWN_S_MAX), output.read_text()
        assert not any(loopback.answers(f"{url}/models") for url in urls)
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
            running.wait(timeout=DOWN_S_MAX)
