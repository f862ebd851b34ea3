"""What the end-to-end tests share: one provider and one fleet for a whole run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.demo.processes import free_ports
from tests.e2e.fleet import Agent, CloudArm, Fleet, model_toml, wait_for
from tests.e2e.provider import Provider


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    """A paid provider."""
    running = Provider()
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def fleet(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with plenty of money that the tests share; it prefers to pay.

    `cloud` behaves, `odd` is for misbehaviour (its breaker may open), `dead` is not there.
    """
    (closed_port,) = free_ports(1)
    shared = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        shared.start(
            clouds={
                "cloud": CloudArm(provider.base_url, reward=0.9),
                "odd": CloudArm(provider.base_url, reward=0.3),
                "dead": CloudArm(f"http://127.0.0.1:{closed_port}/v1", reward=0.9),
            },
            local_arms=("tiny", "slow"),
            classes={"edge": ["tiny", "slow", "cloud", "odd"], "cut": ["tiny", "dead"]},
        )
        yield shared
    finally:
        shared.close()


@pytest.fixture(scope="session")
def edge(fleet: Fleet) -> Agent:
    """An agent with two local models and a paid provider, ready to spend."""
    agent = fleet.start_agent(
        "edge-1",
        device_class="edge",
        models=model_toml("tiny") + model_toml("slow", pace=15.0),
    )
    wait_for(agent.may_spend, what="the first lease")
    return agent


@pytest.fixture
def new_fleet(tmp_path: Path) -> Iterator[Callable[[], Fleet]]:
    """Makes fleets that one test has for itself."""
    with ExitStack() as stack:

        def make() -> Fleet:
            made = Fleet(tmp_path)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and a certificate for 127.0.0.1 and localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: it makes the certificates of this test")
    folder = tmp_path_factory.mktemp("tls")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=e2e-ca"],
        ["req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=e2e"],
        [
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-out", "server.pem", "-extfile", "names"),
        ],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder
