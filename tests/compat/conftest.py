"""One agent with a real model and a paid provider, and the clients in their own environments."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.fleet import ROOT, Agent, CloudArm, Fleet, model_toml, wait_for
from tests.e2e.provider import Provider

API_KEY: Final = "compat-key-4711"
CLIENTS: Final = Path(__file__).parent / "clients"
MODEL: Final = ROOT / "deploy" / "demo" / "models" / "large.gguf"
CLIENT_S: Final = 100.0
FIELDS: Final = (
    *("frequency_penalty", "logprobs", "max_tokens", "n", "parallel_tool_calls"),
    *("presence_penalty", "response_format", "seed", "stop", "temperature", "tool_choice"),
    *("tools", "top_logprobs", "top_p", "user"),
)
CAN: Final = ("json_schema", "tools")

Run = Callable[..., dict[str, Any]]
"""Runs a client's script; gives what each of its checks found."""


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """A paid provider."""
    running = Provider()
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def fleet(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that prefers to pay: `cloud` is drained when a client goes, `hasty` is cancelled.

    No budget allows a request to `dear`, which only devices of the class `poor` have.
    """
    url = provider.base_url
    dear = ("900000", "900000", "0")
    made = Fleet(tmp_path_factory.mktemp("compat"))
    try:
        made.start(
            clouds={
                "cloud": CloudArm(url, reward=0.9, fields=FIELDS, capabilities=CAN),
                "hasty": CloudArm(
                    url, reward=0.3, on_abort="cancel", fields=FIELDS, capabilities=CAN
                ),
                "dear": CloudArm(url, reward=0.3, prices=dear, fields=FIELDS, capabilities=CAN),
                "embed": CloudArm(url, reward=0.3, capabilities=("embeddings",)),
            },
            local_arms=("local",),
            classes={"edge": ["local", "cloud", "hasty", "embed"], "poor": ["local", "dear"]},
        )
        yield made
    finally:
        made.close()


def start(fleet: Fleet, device_class: str) -> Agent:
    """An agent that asks for a key."""
    key = fleet.write(f"api-key-{device_class}", API_KEY)
    return fleet.start_agent(
        device_class,
        device_class=device_class,
        models=model_toml("local", path=MODEL),
        head=f'[[keys]]\nkey = "file:{key}"\ntag = "compat"\nrefine_tag = true\n',
    )


@pytest.fixture(scope="session")
def agent(fleet: Fleet) -> Agent:
    """An agent that is ready to answer and to spend."""
    running = start(fleet, "edge")
    wait_for(running.may_spend, what="the first lease")
    return running


@pytest.fixture(scope="session")
def poor_agent(fleet: Fleet) -> Agent:
    """An agent whose paid arm costs more than there is."""
    return start(fleet, "poor")


@pytest.fixture(scope="session")
def environment() -> Path:
    """The environment of the clients that clash with ours: `bootstrap.py compat` makes it."""
    folder = ROOT / os.environ.get("COMPAT_VENV", ".venv-compat")
    if not (folder / ".installed").exists():
        pytest.fail(f"{folder} is not there: python3 deploy/dev/bootstrap.py compat {folder}")
    return folder


@pytest.fixture(scope="session")
def run_client(agent: Agent, poor_agent: Agent, environment: Path) -> Run:
    """Runs one of the scripts in `clients/` against the agent."""

    def run(*command: str | Path, **more: str) -> dict[str, Any]:
        done = subprocess.run(
            list(map(str, command)),
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(agent.state),
                "BASE_URL": f"{agent.url}/v1",
                "POOR_BASE_URL": f"{poor_agent.url}/v1",
                "API_KEY": API_KEY,
                **more,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
        )
        assert 0 == done.returncode, done.stderr[-4_000:]
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


@pytest.fixture(scope="session")
def booked_as(fleet: Fleet) -> Callable[[str], Any]:
    """The one decision with a tag, once it is booked."""

    def find(tag: str) -> Any:
        def booked() -> list[Any]:
            whole = f"compat/{tag}"
            return [each for each in fleet.decisions() if each.outcome.tag == whole]

        (found,) = wait_for(booked, what=f"the booking of {tag}")
        return found

    return find
