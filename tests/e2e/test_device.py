"""What the user of a device touches: doctor, bench, reload, keys from afar, and who it is."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.adapters.model_bench import Measured, save_results
from edge_agent.adapters.model_bench.measure import BatchSpeed
from edge_agent.ports import LocalModel
from tests.e2e.fleet import (
    CONTEXT_TOKENS,
    TINY,
    Agent,
    CloudArm,
    Fleet,
    chat_body,
    model_toml,
    run,
    wait_for,
)
from tests.e2e.provider import KEY, Provider

pytestmark = pytest.mark.e2e


def doctor(agent: Agent, *, expect: int) -> dict[str, dict[str, str]]:
    """What the doctor finds beside a running agent, by check."""
    done = run(
        *("edge_agent.app", "doctor", "--config", str(agent.config), "--format", "json"),
        expect=expect,
    )
    return {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_the_doctor_finds_a_working_device_well(
    fleet: Fleet, edge: Agent, provider: Provider
) -> None:
    """Beside the running agent, whom it does not disturb; the provider sees no request."""
    seen = len(provider.seen)
    found = doctor(edge, expect=0)
    assert "this device is active" in found["coordinator"]["says"]
    assert "the agent is running" in found["port"]["says"]
    assert "ok" == found["books"]["verdict"]
    assert ["ok", "ok"] == [found[f"model {arm}"]["verdict"] for arm in ("tiny", "slow")]
    assert "127.0.0.1 answers" in found["cloud cloud"]["says"]
    assert abs(float(found["clock"]["says"].split()[0])) < 1.0
    assert seen == len(provider.seen)
    assert fleet.device(edge.name).connected


def test_the_doctor_names_what_stands_in_the_way(fleet: Fleet) -> None:
    """A coordinator that is not there, and a device that is shut out."""
    agent = fleet.start_agent("patient", device_class="edge")
    fleet.tidectl("device", "revoke", "patient", "--yes")
    found = doctor(agent, expect=1)
    assert "this device is revoked" in found["coordinator"]["says"]
    text = agent.config.read_text()
    agent.config.write_text(text.replace(fleet.address, "127.0.0.1:9"))
    found = doctor(agent, expect=1)
    assert "does not answer" in found["coordinator"]["says"]
    assert "is the coordinator running" in found["coordinator"]["remedy"]
    fleet.children.stop(agent.child)


def test_a_device_is_the_same_after_a_restart(fleet: Fleet) -> None:
    """Its token is used up, and its identity is in its books."""
    agent = fleet.start_agent("steady", device_class="edge")
    before = fleet.device("steady")
    fleet.children.stop(agent.child)
    again = fleet.restart_agent(agent)
    wait_for(lambda: fleet.device("steady").incarnation != before.incarnation, what="a hello")
    after = fleet.device("steady")
    assert (before.id, before.joined_unix_ms) == (after.id, after.joined_unix_ms)
    assert 1 == sum(d["name"] == "steady" for d in fleet.json("device", "list")["devices"])
    fleet.children.stop(again.child)


def test_a_device_tells_its_condition(fleet: Fleet, edge: Agent) -> None:
    """What the board gives, for operators and for Prometheus."""
    state = wait_for(
        lambda: fleet.json("device", "show", edge.name)["device_state"], what="a heartbeat"
    )
    assert 0 < state["memory_available_bytes"] <= state["memory_total_bytes"]
    assert [] == state["limited"]
    with edge.http() as client:
        metrics = client.get("/metrics").text
    assert "tidegate_device_memory_total_bytes" in metrics
    assert 'tidegate_device_arms_closed{kind="local"} 0.0' in metrics


def test_a_limit_of_the_device_closes_its_arms(fleet: Fleet) -> None:
    """With its reason in the answer's headers, in `/health`, and before the operator."""
    limit = '[limits.local]\nmemory_bytes_min = "1000GiB"\n'
    agent = fleet.start_agent("short", device_class="edge", models=model_toml("tiny") + limit)
    wait_for(agent.may_spend, what="a lease")
    refused = agent.chat("for the local model", model="tiny")
    assert (503, True) == (refused.status, "tiny: memory" in refused.message)
    assert "tiny=memory" in agent.chat("for any").reason
    assert any("closed by a limit" in problem for problem in agent.get("/health")["problems"])
    shown = wait_for(
        lambda: fleet.json("device", "show", "short")["device_state"]["limited"], what="it"
    )
    assert [{"arm": "local", "reason": "memory"}] == shown
    fleet.children.stop(agent.child)


def test_what_was_measured_becomes_the_coordinators_prior(
    new_fleet: Callable[[], Fleet], provider: Provider
) -> None:
    """A device that is slow by its own bench is taken to be slow before its first answer."""
    fleet = new_fleet()
    fleet.start(
        clouds={"cloud": CloudArm(provider.base_url)},
        classes={"edge": ["tiny", "cloud"], "other": ["tiny", "cloud"]},
    )
    agent = fleet.start_agent("measured", device_class="edge")
    fleet.children.stop(agent.child)
    model = LocalModel("tiny", str(TINY), CONTEXT_TOKENS, threads=1, batch_sequences=4)
    slow = Measured("tiny", 0.0, 100, 100.0, (BatchSpeed(1, 10.0),))
    save_results(agent.state, [(model, slow)], unix_ms=1)
    fleet.restart_agent(agent)

    def p50_ms() -> dict[str, int]:
        arm = fleet.json("arm", "show", "tiny")
        contexts = [each for each in arm["contexts"] if each["task_class"] == "other"]
        return {each["device_class"]: each["latency_p50_ms"] for each in contexts}

    wait_for(lambda: p50_ms().get("edge", 0) > 10_000, what="a prior from the bench")
    assert p50_ms()["other"] < 2_000


def hang_up(agent: Agent) -> None:
    """SIGHUP."""
    os.kill(agent.child.pid, signal.SIGHUP)


def test_a_reload_takes_over_what_it_can(fleet: Fleet) -> None:
    """Keys and models at once; a broken file changes nothing; the rest is named."""
    key_file = fleet.write("reload-key", "first-key")
    agent = fleet.start_agent(
        "reloading",
        device_class="edge",
        head=f'[[keys]]\nkey = "file:{key_file}"\ntag = "reloading"\n',
        models=model_toml("tiny"),
    )

    def ask(key: str, *, model: str = "tiny") -> int:
        headers = {"authorization": f"Bearer {key}"}
        return agent.chat("again", model=model, max_tokens=4, headers=headers).status

    assert (200, 401) == (ask("first-key"), ask("second-key"))
    second = fleet.write("second-key", "second-key")
    text = agent.config.read_text().replace(str(key_file), str(second))
    agent.config.write_text(text.replace('drain = "2s"', 'drain = "3s"') + model_toml("slow"))
    hang_up(agent)
    wait_for(lambda: '"event": "reloaded"' in agent.log(), what="the reload")
    assert (401, 200, 200) == (
        ask("first-key"),
        ask("second-key"),
        ask("second-key", model="slow"),
    )
    assert '"keys": ["drain"], "event": "restart_needed"' in agent.log()
    wait_for(lambda: "slow" in fleet.device("reloading").local_arms, what="the new hello")
    agent.config.write_text(agent.config.read_text() + "nonsense = 1\n")
    hang_up(agent)
    wait_for(lambda: '"event": "reload_refused"' in agent.log(), what="the refusal")
    assert 200 == ask("second-key")
    fleet.children.stop(agent.child)


def test_an_answer_that_outlasts_the_drain_ends_with_an_error(fleet: Fleet) -> None:
    """On SIGTERM a client is told that its stream is not whole; the books are closed as usual."""
    pace = model_toml("slow", pace=1.0)
    agent = fleet.start_agent("leaving", device_class="edge", models=pace)
    body = chat_body("far too long", model="slow", stream=True)
    with agent.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: {")
        os.kill(agent.child.pid, signal.SIGTERM)
        last = [line for line in lines if line][-1]
    assert "stopping" == json.loads(last.removeprefix("data: "))["error"]["code"]
    request_id = reply.headers["x-tidegate-request-id"]
    assert "interrupted" == fleet.wait_booked(request_id).outcome.attempts[-1].error
    assert "Traceback" not in agent.log()
    fleet.children.stop(agent.child)


@pytest.mark.slow
def test_a_key_comes_over_tls_and_is_rotated(
    new_fleet: Callable[[], Fleet],
    provider: Provider,
    certificates: Path,
) -> None:
    """The device has none of its own, writes none down, and follows the coordinator's file."""
    fleet = new_fleet()
    key_file = fleet.write("provider-key", "sk-out-of-date")
    ca_file = certificates / "ca.pem"
    fleet.use_tls(
        f'[tls]\ncert_file = "{certificates / "server.pem"}"\n'
        f'key_file = "{certificates / "server.key"}"\n'
        f'[provider_keys]\npaid = "file:{key_file}"\n',
        ca_file=ca_file,
    )
    fleet.start(
        clouds={"cloud": CloudArm(provider.base_url, reward=0.9, api_key="coordinator:paid")},
        classes={"edge": ["tiny", "cloud"]},
    )
    agent = fleet.start_agent("keyless", device_class="edge", link=f'ca_file = "{ca_file}"\n')
    agent.ca_file = None
    wait_for(agent.may_spend, what="a lease")
    refused = agent.chat("with the old key")
    assert ("tiny", True) == (refused.arm, "cloud=http_401" in refused.reason)
    key_file.write_text(KEY)
    assert fleet.coordinator is not None
    os.kill(fleet.coordinator.pid, signal.SIGHUP)
    wait_for(
        lambda: agent.chat("with the new key", model="cloud").status == 200, what="the new key"
    )
    kept = [path.read_bytes() for path in agent.state.iterdir() if path.is_file()]
    with sqlite3.connect(f"file:{agent.state / 'books.db'}?mode=ro", uri=True) as books:
        kept.append("\n".join(books.iterdump()).encode())
    shown = [*kept, agent.log().encode(), fleet.coordinator.log.read_bytes()]
    assert not any(key.encode() in text for text in shown for key in (KEY, "sk-out-of-date"))


def test_a_fleet_file_with_an_unknown_key_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    """By `diff` and `apply` alike, with the section to put it in."""
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET_WITH_KEY)
    for command in ("diff", "apply"):
        yes: tuple[Any, ...] = ("--yes",) if command == "apply" else ()
        done = fleet.tidectl(command, *yes, "-f", str(path), expect=1)
        assert "no provider key 'paid'" in done.stderr
        assert "[provider_keys]" in done.stderr


FLEET_WITH_KEY = """
[fleet]
name = "keys"
[window]
length = "1h"
slot = "1s"
[budget]
amount_usd = "1"
[arms.cloud]
kind = "cloud"
model = "paid"
base_url = "https://cloud.example/v1"
api_key = "coordinator:paid"
price = { input_usd_per_mtok = "1", output_usd_per_mtok = "1", request_usd = "0" }
[device_classes.edge]
arms = ["cloud"]
"""
