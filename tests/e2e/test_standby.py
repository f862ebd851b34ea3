"""A second coordinator stands by, and takes over when the first is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx2 as httpx
import psycopg
import pytest

from deploy.demo.processes import Child, Command, free_ports
from shared.pb.v1 import admin_pb2
from tests.e2e.fleet import ROOT, CloudArm, Fleet, run, wait_for
from tests.e2e.provider import Provider
from tests.fakes.postgres_server import postgres_programs, running_postgres

pytestmark = pytest.mark.e2e
TAKEOVER_S = 10.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, provider: Provider) -> Iterator[Fleet]:
    """A fleet of its own on each database, with a paid arm."""
    with ExitStack() as stack:
        made = Fleet(tmp_path)
        if request.param == "postgres":
            programs = postgres_programs()
            if programs is None:
                pytest.skip("PostgreSQL's programs are not installed")
            url = stack.enter_context(running_postgres(programs))
            config = tmp_path / "coordinator.toml"
            lines = config.read_text().splitlines()
            kept = [line for line in lines if not line.startswith("database_url")]
            config.write_text("\n".join([f'database_url = "{url}"', *kept, ""]))
        stack.callback(made.close)
        clouds = {"cloud": CloudArm(provider.base_url, reward=0.9)}
        made.start(clouds=clouds, classes={"edge": ["tiny", "cloud"]})
        yield made


def beside(fleet: Fleet, name: str, *, web_port: int = 0) -> Path:
    """The configuration of another process on the same books, with the same gRPC address."""
    state = fleet.folder / name
    state.mkdir()
    lines = (fleet.folder / "coordinator.toml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("web_listen", "state_dir"))]
    own = [f'web_listen = "127.0.0.1:{web_port}"', f'state_dir = "{state}"']
    return fleet.write(f"{name}.toml", "\n".join([*own, *kept, ""]))


def database_url(fleet: Fleet) -> str:
    """Where the fleet's books are."""
    return str(tomllib.loads((fleet.folder / "coordinator.toml").read_text())["database_url"])


def start_standby(fleet: Fleet) -> tuple[Child, str]:
    """A second process that waits; also where its page is."""
    (web_port,) = free_ports(1)
    config = beside(fleet, "standby", web_port=web_port)
    module = [sys.executable, "-m", "coordinator.app"]
    argv = [*module, "serve", "--standby", "--config", str(config)]
    child = fleet.children.start(Command(name="standby", argv=argv, cwd=ROOT))
    return child, f"http://127.0.0.1:{web_port}"


def readiness(url: str) -> tuple[int, str]:
    """What `/readyz` says; 0 before there is a page."""
    try:
        reply = httpx.get(f"{url}/readyz", trust_env=False)
    except httpx.TransportError:
        return 0, ""
    return reply.status_code, reply.text


def answers(fleet: Fleet) -> bool:
    """Whether a coordinator answers operators."""
    try:
        fleet.call("GetVersion", admin_pb2.GetVersionRequest())
    except grpc.RpcError:
        return False
    return True


def test_a_standby_takes_over_from_a_killed_coordinator(fleet: Fleet) -> None:
    """It waits and says so; after `kill -9` it serves the same books, and the device spends on."""
    agent = fleet.start_agent("edge-s", device_class="edge")
    wait_for(agent.may_spend, what="the first lease")
    first = agent.chat("before", model="cloud")
    assert 200 == first.status
    fleet.wait_booked(first.request_id)
    before = fleet.budget()
    child, url = start_standby(fleet)
    wait_for(lambda: readiness(url) == (503, "standby"), what="the standby's page")
    child.check()
    assert "coordinator_standing_by" in child.log.read_text()
    assert "tidegate_standby 1.0" in httpx.get(f"{url}/metrics", trust_env=False).text

    assert fleet.coordinator is not None
    os.kill(fleet.coordinator.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: readiness(url) == (200, "ready"), within_s=TAKEOVER_S, what="the takeover")
    wait_for(lambda: answers(fleet), within_s=TAKEOVER_S, what="an answer")
    took_s = time.monotonic() - killed

    wait_for(lambda: fleet.device("edge-s").connected, what="the device's return")
    second = agent.chat("after", model="cloud")
    assert 200 == second.status
    fleet.wait_booked(second.request_id)
    after = fleet.budget()
    assert before.window_id == after.window_id
    assert after.settled_nanos > before.settled_nanos
    ids = [row.id for row in fleet.ledger()]
    assert list(range(1, len(ids) + 1)) == ids
    assert took_s < TAKEOVER_S
    fleet.tidectl("ledger", "verify")


@pytest.mark.postgres
@pytest.mark.parametrize("fleet", ["postgres"], indirect=True)
def test_a_standby_takes_over_from_a_coordinator_that_lost_its_session(fleet: Fleet) -> None:
    """The first lives and holds the address of both: it ends, and the standby has waited for it."""
    child, url = start_standby(fleet)
    wait_for(lambda: readiness(url) == (503, "standby"), what="the standby's page")
    first = fleet.coordinator
    assert first is not None
    os.kill(
        first.pid, signal.SIGSTOP
    )  # else it might get its session back before the standby looks
    with psycopg.connect(database_url(fleet), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
    wait_for(lambda: "standby_waits_for_its_address" in child.log.read_text(), what="the takeover")
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(within_s=TAKEOVER_S)
    wait_for(lambda: readiness(url) == (200, "ready"), within_s=TAKEOVER_S, what="the standby")
    wait_for(lambda: answers(fleet), within_s=TAKEOVER_S, what="an answer")
    assert "another coordinator took over" in first.log.read_text()
    fleet.tidectl("ledger", "verify")


def test_a_second_coordinator_without_standby_is_refused(fleet: Fleet) -> None:
    """It ends with 1 and says who is in the way."""
    done = run("coordinator.app", "serve", "-c", str(beside(fleet, "second")), expect=1)
    assert "another" in done.stderr
    assert "Traceback" not in done.stderr
