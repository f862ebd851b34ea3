"""A paid request through the agent and through LiteLLM's proxy, each before the same endpoint.

LiteLLM's proxy lives in an environment of its own, whose `litellm` command `LITELLM` names:

    python3 -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]~=1.106.0'
    LITELLM=/tmp/litellm/bin/litellm make bench ARGS="--only passthrough"
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx

from deploy.demo.processes import free_ports
from shared.errors import ConfigError
from tests.bench.figures import ROUNDS, Figure

TOGETHER: Final = 16
SECONDS: Final = 3.0
READY_S: Final = 300.0
FASTER_MIN: Final = 20.0
ADDED_MAX: Final = 0.1


@dataclass
class Target:
    """Something that takes chat requests, and what was measured of it."""

    port: int
    model: str
    per_s: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round: many clients, then one."""
        self.per_s.append(self._load(connections=TOGETHER)["per_s"])
        self.alone_ms.append(statistics.median(self._load(connections=1)["times_ms"]))

    def warm_up(self) -> None:
        """Whatever is done once is done before the first round."""
        self._load(connections=TOGETHER)

    def _load(self, *, connections: int) -> dict[str, Any]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.bench.passthrough.load"),
                *(str(self.port), str(connections), str(SECONDS), self.model),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        if found["problems"]:
            raise RuntimeError(f"port {self.port}: {found['problems'][0]}")
        return found


def passthrough() -> list[Figure]:
    """Requests a second at 16 clients and the time added at one, the agent's over LiteLLM's."""
    litellm = os.environ.get("LITELLM", "")
    if not litellm:
        raise ConfigError(
            "LITELLM", "name the `litellm` command; tests/bench/passthrough/compare.py"
        )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stub_port, agent_port, proxy_port = free_ports(3)
        base_url = f"http://127.0.0.1:{stub_port}/v1"
        config = Path(folder) / "litellm.yaml"
        config.write_text(_proxy_config(base_url))
        stack.enter_context(_running("tests.bench.passthrough.stub", str(stub_port)))
        stack.enter_context(
            _running("tests.bench.passthrough.agent", str(agent_port), base_url, folder)
        )
        stack.enter_context(
            _process(
                [
                    litellm,
                    "--config",
                    str(config),
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(proxy_port),
                ],
                folder=folder,
            )
        )
        stub, agent, proxy = (
            Target(stub_port, "auto"),
            Target(agent_port, "auto"),
            Target(proxy_port, "paid"),
        )
        for url in (f"{agent_port}/livez", f"{proxy_port}/health/liveliness"):
            _wait_for(f"http://127.0.0.1:{url}")
        for target in (stub, agent, proxy):
            target.warm_up()
        for _ in range(ROUNDS):
            for target in (stub, agent, proxy):
                target.measure()
    return _figures(stub, agent=agent, proxy=proxy)


def _figures(stub: Target, *, agent: Target, proxy: Target) -> list[Figure]:
    per_s = {name: statistics.median(t.per_s) for name, t in (("agent", agent), ("proxy", proxy))}
    bare_ms = statistics.median(stub.alone_ms)
    added = {
        name: statistics.median(t.alone_ms) - bare_ms
        for name, t in (("agent", agent), ("proxy", proxy))
    }
    faster = statistics.median(a / p for a, p in zip(agent.per_s, proxy.per_s, strict=True))
    share = added["agent"] / added["proxy"]
    return [
        Figure(
            name="pass-through, 16 clients",
            figure=round(faster, 1),
            unit="x",
            against=f"LiteLLM's proxy: {per_s['agent']:.0f} and {per_s['proxy']:.0f} requests/s",
            target=f">= {FASTER_MIN:g}",
            holds=faster >= FASTER_MIN,
        ),
        Figure(
            name="pass-through, added at one client",
            figure=round(share, 3),
            unit="x",
            against=f"LiteLLM's proxy: {added['agent']:.2f} and {added['proxy']:.1f} ms",
            target=f"<= {ADDED_MAX:g}",
            holds=share <= ADDED_MAX,
        ),
    ]


def _proxy_config(base_url: str) -> str:
    return (
        "model_list:\n"
        "  - model_name: paid\n"
        "    litellm_params:\n"
        "      model: openai/stub\n"
        f"      api_base: {base_url}\n"
        "      api_key: sk-bench\n"
        "litellm_settings:\n"
        "  num_retries: 0\n"
        "  telemetry: false\n"
        "general_settings:\n"
        "  dangerously_permit_weak_or_unset_master_key: true\n"  # the agent asks for no key either
    )


def _running(module: str, *arguments: str) -> Any:
    return _process([sys.executable, "-m", module, *arguments], folder=".")


@contextmanager
def _process(command: list[str], *, folder: str) -> Iterator[None]:
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} did not answer within {READY_S:g} s")
        time.sleep(0.2)
