"""From a running coordinator: its decisions become a log, its estimates a trade-off curve."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from coordinator.adapters.grpc_server import start_grpc
from coordinator.cli.app import app as tidectl
from coordinator.lab import evaluate as lab_evaluate
from coordinator.lab import tradeoff as lab_tradeoff
from coordinator.lab.decision_log import read_log
from coordinator.lab.plan_remote import from_coordinator
from coordinator.messages import HelloReceived
from coordinator.service import CoordinatorService
from shared.clock import SystemClock, SystemIds
from shared.decision.types import (
    Attempt,
    Candidate,
    Feedback,
    IncarnationRange,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolRecord,
)
from shared.errors import ConfigError
from tests.fakes.memory_store import MemoryStore
from tests.fakes.samples import fleet_toml

REQUESTS = 60
COST_NANOS = 20_000
WEIGHTS = (Candidate("cloud", 400_000), Candidate("tiny", 600_000))
lab = typer.Typer()
lab.command("evaluate")(lab_evaluate.command)
lab.command("plan")(lab_tradeoff.command)


@dataclass(frozen=True)
class Running:
    """A coordinator behind a real gRPC server, with an operator's token."""

    address: str
    token: str


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """It has booked and graded sixty requests of one device, and planned."""
    ready, stop = threading.Event(), threading.Event()
    found: list[Running] = []

    async def serve() -> None:
        store = MemoryStore()
        store.open()
        clock = SystemClock()
        service = CoordinatorService(store, clock=clock, ids=SystemIds())
        token, _ = await service.create_admin_token(name="op", valid_for_s=600, actor="test")
        await service.apply_config(fleet_toml(usd="0.001"), actor="test", dry_run=False)
        await service.command(lambda engine, now: engine.tick(unix_ms=now))
        await _teach(service, now_unix_ms=clock.unix_ms())
        # A change of the budget makes it plan with what it has learned.
        await service.apply_config(fleet_toml(usd="0.0009"), actor="test", dry_run=False)
        await service.command(lambda engine, now: engine.tick(unix_ms=now))
        server = await start_grpc(
            service,
            clock=clock,
            host="127.0.0.1",
            port=0,
            keepalive_ms=30_000,
            keepalive_timeout_ms=10_000,
        )
        found.append(Running(f"127.0.0.1:{server.port}", token))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.stop(grace_s=0.1)
        await service.stop()
        store.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(timeout=30.0)
        yield found[0]
    finally:
        stop.set()
        thread.join(timeout=30.0)


async def _teach(service: CoordinatorService, *, now_unix_ms: int) -> None:
    """Book requests, two fifths of them drawn to the cloud; all but every fifth are graded."""
    join, _ = await service.create_join_token(device_class="edge", valid_for_s=60, actor="test")
    device, _ = await service.join(token=join, name="edge-1", device_class="edge")
    spool = (IncarnationRange("inc", 0, 0),)
    hello = HelloReceived("inc", "", 0, spool, 0, (), (), 0, 0, "1")
    await service.connect(service.engine.registry.device(device), hello)
    records, sequence = [], 0
    for at in range(REQUESTS):
        arm = "cloud" if at % 5 < 2 else "tiny"
        cost = COST_NANOS if arm == "cloud" else 0
        settle = SettleKind.REPORTED if cost else None
        outcome = Outcome(
            request_id=f"r{at}",
            task_class="other",
            arrived_unix_ms=now_unix_ms,
            status=RequestStatus.OK,
            arm=arm,
            drawn_arm=arm,
            propensity_ppm=400_000 if cost else 600_000,
            table_version=1,
            reason="table",
            forced=False,
            attempts=(Attempt(arm, 200, "", int(bool(cost)), 2 * cost, cost, settle),),
            hit=True,
            candidates=WEIGHTS,
        )
        sequence += 1
        records.append(SpoolRecord(sequence, "inc", outcome))
        if at % 5 != 4:
            sequence += 1
            grade = Feedback(f"r{at}", "other", arm, 900_000 if cost else 300_000, "user", 0)
            records.append(SpoolRecord(sequence, "inc", grade))
    await service.batch(device, records, incarnation="inc")


def _tidectl(running: Running, *args: str) -> str:
    env = {"TIDEGATE_ADMIN_TOKEN": running.token}
    result = CliRunner().invoke(tidectl, ["--address", running.address, *args], env=env)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_exported_decisions_are_a_log_for_the_lab(running: Running, tmp_path: Path) -> None:
    """Every decision with its candidates, oldest first; pages make no difference."""
    path = tmp_path / "log.jsonl.gz"
    _tidectl(running, "decision", "export", "--out", str(path))
    decisions = read_log(path)
    assert [f"r{at}" for at in range(REQUESTS)] == [d.request_id for d in decisions]
    first, last = decisions[0], decisions[4]
    assert {"cloud": 400_000, "tiny": 600_000} == first.candidates
    assert ("cloud", 400_000, 0.9, COST_NANOS) == (
        first.drawn_arm,
        first.propensity_ppm,
        first.reward,
        first.cost_nanos,
    )
    assert ("tiny", None) == (last.drawn_arm, last.reward)


def test_the_export_goes_to_standard_output_line_by_line(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages smaller than the log, from a position on."""
    monkeypatch.setattr("coordinator.cli.decisions.PAGE_ROWS", 7)
    whole = _tidectl(running, "decision", "export").splitlines()
    assert len(whole) == REQUESTS
    assert [] == _tidectl(running, "decision", "export", "--after", "100000").splitlines()


def test_an_exported_log_can_be_evaluated(running: Running, tmp_path: Path) -> None:
    """The known means come out: 0.9 for the cloud, 0.3 for the local arm."""
    path = tmp_path / "log.jsonl"
    _tidectl(running, "decision", "export", "--out", str(path))
    result = CliRunner().invoke(
        lab, ["evaluate", str(path), "--policy", "uniform", "--format", "json"]
    )
    report = json.loads(result.stdout)
    assert report["reward_mean"]["snips"]["value"] == pytest.approx(0.6, abs=0.02)
    assert report["grades_missing_share"] == pytest.approx(0.2)


def test_the_curve_of_a_running_coordinator(running: Running, tmp_path: Path) -> None:
    """Its present budget is marked, and reward rises with money up to what can be spent."""
    token_file = tmp_path / "token"
    token_file.write_text(running.token + "\n", encoding="utf-8")
    args = ["plan", "--from", running.address, "--token-file", str(token_file)]
    result = CliRunner().invoke(lab, [*args, "--format", "json"], catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["present_usd"] == pytest.approx(0.0009)
    assert report["arms"] == ["cloud", "tiny"]
    assert report["requests"] >= REQUESTS
    points = report["points"]
    assert points[-1]["reward_mean"] > points[0]["reward_mean"] + 0.2
    assert points[0]["spend_usd"] == 0.0


def test_without_a_token_it_says_what_to_do(running: Running) -> None:
    """One line that names the remedy."""
    with pytest.raises(ConfigError, match="TIDEGATE_ADMIN_TOKEN"):
        from_coordinator(running.address, token="")


def test_an_address_without_a_coordinator_is_named() -> None:
    """And so is one that is none."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 cannot be reached"):
        from_coordinator("127.0.0.1:1", token="t", timeout_s=5.0)
    with pytest.raises(ConfigError, match="'nowhere' should be host and port"):
        from_coordinator("nowhere", token="t")
