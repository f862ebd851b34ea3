"""A paid request through the agent and through LiteLLM's proxy, each before the same endpoint.

LiteLLM's proxy lives in an environment of its own, whose `litellm` command `LITELLM` names:

    python3 -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]~=1.106.0'
    LITELLM=/tmp/litellm/bin/litellm make bench ARGS="--only passthrough"
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx

from deploy.demo.processes import Children, Command, free_ports, wait_until
from shared.errors import ConfigError
from tests.bench.endpoints import ROOT
from tests.bench.figures import ROUNDS, Figure
from tests.bench.passthrough.stub import EVENTS

TOGETHER: Final = 16
SECONDS: Final = 3.0
READY_S: Final = 300.0
FASTER_MIN: Final = 20.0
STREAMS_FASTER_MIN: Final = 10.0  # most of it is system calls, which both have to make
ADDED_MAX: Final = 0.1


@dataclass
class Target:
    """Something that takes chat requests, and what was measured of it."""

    port: int
    model: str
    per_s: list[float] = field(default_factory=list)
    streams_per_s: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round: many clients, the same with streams, then one."""
        self.per_s.append(self._load(connections=TOGETHER)["per_s"])
        self.streams_per_s.append(self._load("stream", connections=TOGETHER)["per_s"])
        self.alone_ms.append(statistics.median(self._load(connections=1)["times_ms"]))

    def warm_up(self) -> None:
        """Whatever is done once is done before the first round."""
        self._load(connections=TOGETHER)
        self._load("stream", connections=TOGETHER)

    def _load(self, *how: str, connections: int) -> dict[str, Any]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.bench.passthrough.load"),
                *(str(self.port), str(connections), str(SECONDS), self.model, *how),
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
    ports = dict(zip(("stub", "agent", "litellm"), free_ports(3), strict=True))
    targets = [
        Target(port, "paid" if name == "litellm" else "auto") for name, port in ports.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        children = Children(logs=Path(folder) / "logs")
        try:
            _start(children, ports, litellm=litellm, folder=Path(folder))
            for target in targets:
                target.warm_up()
            for _ in range(ROUNDS):
                for target in targets:
                    target.measure()
        finally:
            children.stop_all()
    stub, agent, proxy = targets
    return _figures(stub, agent=agent, proxy=proxy)


def _start(children: Children, ports: Mapping[str, int], *, litellm: str, folder: Path) -> None:
    """Start the stub, and before it the agent and LiteLLM's proxy; return when they are ready."""
    base_url = f"http://127.0.0.1:{ports['stub']}/v1"
    config = folder / "litellm.yaml"
    config.write_text(_proxy_config(base_url))
    ours = (sys.executable, "-m")
    commands = {
        "stub": [*ours, "tests.bench.passthrough.stub", str(ports["stub"])],
        "agent": [
            *(*ours, "tests.bench.passthrough.agent", str(ports["agent"])),
            *(base_url, str(folder)),
        ],
        "litellm": [
            *(litellm, "--config", str(config)),
            *("--host", "127.0.0.1", "--port", str(ports["litellm"])),
        ],
    }
    started = {
        name: children.start(Command(name=name, argv=argv, cwd=ROOT))
        for name, argv in commands.items()
    }
    for name, path in (("agent", "livez"), ("litellm", "health/liveliness")):
        url = f"http://127.0.0.1:{ports[name]}/{path}"
        wait_until(partial(_ready, url), child=started[name], within_s=READY_S, what=name)


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _figures(stub: Target, *, agent: Target, proxy: Target) -> list[Figure]:
    bare_ms = statistics.median(stub.alone_ms)
    ours_ms, theirs_ms = (statistics.median(each.alone_ms) - bare_ms for each in (agent, proxy))
    share = ours_ms / theirs_ms
    return [
        _faster(f"pass-through, {TOGETHER} clients", agent.per_s, proxy.per_s, at_least=FASTER_MIN),
        _faster(
            f"pass-through, {TOGETHER} streams of {EVENTS} events",
            agent.streams_per_s,
            proxy.streams_per_s,
            at_least=STREAMS_FASTER_MIN,
        ),
        Figure.at_most(
            "pass-through, added at one client",
            share,
            ADDED_MAX,
            unit="x",
            against=f"LiteLLM's proxy: {ours_ms:.2f} and {theirs_ms:.1f} ms",
            digits=3,
        ),
    ]


def _faster(name: str, ours: list[float], theirs: list[float], *, at_least: float) -> Figure:
    """Our rate over theirs; the two of one round were measured side by side."""
    faster = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    rates = f"{statistics.median(ours):.0f} and {statistics.median(theirs):.1f} answers/s"
    return Figure.at_least(
        name,
        faster,
        at_least,
        unit="x",
        against=f"LiteLLM's proxy: {rates}",
        digits=1,
    )


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
