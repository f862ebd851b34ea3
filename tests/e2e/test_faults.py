"""Kills, outages and broken files: devices go on answering, and the books come out right."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from shared.pb.v1 import types_pb2
from tests.e2e.fleet import Agent, CloudArm, Fleet, Reply, chat_body, model_toml, wait_for
from tests.e2e.provider import Provider

pytestmark = pytest.mark.e2e

LOCAL = {"x-tidegate-privacy": "local"}
NO_END = {"2": -100}
"""Keeps a local model from ending its answer by itself."""


@pytest.fixture(scope="module")
def rough(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet whose processes the tests of this module kill."""
    made = Fleet(tmp_path_factory.mktemp("rough"))
    try:
        made.start(
            clouds={"cloud": CloudArm(provider.base_url, reward=0.9)},
            local_arms=("tiny", "slow", "broken", "missing"),
            classes={
                "edge": ["tiny", "slow", "cloud"],
                "hurt": ["tiny", "broken", "missing", "cloud"],
                "bare": ["broken", "missing"],
            },
            close_wait="2s",
        )
        made.start_agent(
            "edge", device_class="edge", models=model_toml("tiny") + model_toml("slow", pace=15.0)
        )
        yield made
    finally:
        made.close()


@pytest.fixture
def agent(rough: Fleet) -> Agent:
    """The fleet's agent, ready to spend."""
    running = rough.agents["edge"]
    wait_for(running.may_spend, what="a lease")
    return running


def in_background(call: Callable[[], Reply]) -> Future[Reply]:
    """Start a call in a thread."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def kill_worker(agent: Agent) -> None:
    """`kill -9` of the model process."""
    workers = agent.workers()
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


def answers_soon(agent: Agent) -> None:
    """The very next local request after a crash is answered."""
    reply = agent.chat("next", model="tiny", max_tokens=4)
    assert 200 == reply.status, reply.json


def test_a_worker_killed_in_mid_stream_ends_the_stream_with_an_error(
    rough: Fleet, agent: Agent
) -> None:
    """A stream that had begun ends with an error event, and the next request is answered."""
    body = chat_body("copy: abc", model="slow", stream=True, max_tokens=120, logit_bias=NO_END)
    with agent.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
        request_id = reply.headers["x-tidegate-request-id"]
        lines = reply.iter_lines()
        next(lines)
        kill_worker(agent)
        rest = [line for line in lines if line.startswith("data: ")]
    assert "error" in json.loads(rest[-1].removeprefix("data: "))
    assert "data: [DONE]" not in rest
    answers_soon(agent)
    outcome = rough.wait_booked(request_id).outcome
    assert types_pb2.REQUEST_STATUS_ERROR == outcome.status


def test_a_worker_killed_before_the_answer_lets_another_arm_answer(
    rough: Fleet, agent: Agent, provider: Provider
) -> None:
    """A plain request whose model dies goes on to the next arm, or ends with a clear error."""

    def ask() -> Reply:
        return agent.chat(
            "copy: abc", model="slow", max_tokens=120, logit_bias=NO_END, headers=LOCAL
        )

    def hit() -> Reply | None:
        asked = in_background(ask)
        wait_for(lambda: agent.details()["requests_in_flight"] == 1, what="the request's start")
        kill_worker(agent)
        reply = asked.result(timeout=40.0)
        # A worker that had not been given the request yet is started again, and answers.
        assert reply.status in (200, 503)
        return reply if reply.status == 503 else None

    reply = wait_for(hit, what="a kill in mid-answer")
    assert "slow:" in reply.message
    answers_soon(agent)


def test_broken_and_missing_models_leave_the_others_working(rough: Fleet, tmp_path: Path) -> None:
    """The agent runs, `/health` names each bad model, and every other arm answers."""
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but no more")
    bad = model_toml("broken", path=tmp_path / "broken.gguf") + model_toml(
        "missing", path=tmp_path / "missing.gguf"
    )
    hurt = rough.start_agent("hurt", device_class="hurt", models=model_toml("tiny") + bad)
    wait_for(hurt.may_spend, what="a lease")
    problems = "\n".join(hurt.get("/health")["problems"])
    assert "broken: " in problems
    assert "missing: " in problems
    assert "tiny" == hurt.chat("copy: ab", headers=LOCAL, max_tokens=4).arm
    assert "cloud" == hurt.chat("to the cloud").arm
    pinned = hurt.chat("pinned", model="broken")
    assert (503, "no_candidate") == (pinned.status, pinned.code)
    assert "broken: model_" in pinned.message
    states = rough.device("hurt").device_state.broken_arms
    assert {"broken", "missing"} == {each.arm for each in states}


def test_without_any_candidate_each_arm_is_named(rough: Fleet, tmp_path: Path) -> None:
    """An agent with nothing to answer with says 503 and why each arm fell out."""
    (tmp_path / "broken.gguf").write_bytes(b"")
    models = model_toml("broken", path=tmp_path / "broken.gguf")
    bare = rough.start_agent("bare", device_class="bare", models=models)
    reply = bare.chat("anybody")
    assert (503, "no_candidate") == (reply.status, reply.code)
    named = {each["arm"]: each["reason"] for each in reply.json["error"]["tidegate"]["arms"]}
    assert {"broken", "missing"} == set(named)
    assert "not_on_this_device" == named["missing"]
    assert "retry-after" in reply.headers
    with bare.http() as client:
        assert 503 == client.get("/readyz").status_code
        assert 200 == client.get("/livez").status_code
    assert "unavailable" == bare.get("/health")["status"]


def test_an_outage_of_the_coordinator_loses_and_doubles_nothing(
    rough: Fleet, agent: Agent, provider: Provider
) -> None:
    """`kill -9` of the coordinator: devices answer on, and later each answer is booked once."""
    answered = [agent.chat(f"before {i}", model=m) for i, m in enumerate(["tiny", "cloud"] * 3)]
    version = agent.details()["table_version"]
    rough.kill_coordinator()
    answered += [agent.chat(f"during {i}", model="tiny", max_tokens=4) for i in range(5)]
    answered += [agent.chat(f"during auto {i}") for i in range(5)]
    assert {200} == {reply.status for reply in answered}
    assert answered[-1].headers["x-tidegate-table-version"] == str(version)
    graded = answered[-1].request_id
    assert 200 == agent.post("/v1/feedback", {"request_id": graded, "score": 1}).status
    rough.start_coordinator()
    wait_for(lambda: agent.details()["spool_waiting"] == 0, what="an empty spool")
    ids = [reply.request_id for reply in answered]
    booked = Counter(decision.outcome.request_id for decision in rough.decisions())
    assert [1] * len(ids) == [booked[request_id] for request_id in ids]
    assert rough.wait_booked(graded).graded
    assert agent.details()["table_version"] >= version
    check_ledger(rough)
    for reply in answered:
        cost = rough.booked_nanos(reply.request_id)
        assert (cost > 0) == (reply.arm == "cloud")


def test_an_agent_killed_in_a_paid_call_books_it_at_the_reservation(
    rough: Fleet, agent: Agent, provider: Provider
) -> None:
    """`kill -9` in mid-call: after the restart the lease closes and the call counts in full."""
    before = [agent.chat(f"before the kill {i}", model="cloud").request_id for i in range(3)]
    leases_before = {row.lease_number for row in rough.ledger() if row.kind == "grant"}
    prompt = "!hang until the kill"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.chat, prompt, model="cloud")
        wait_for(lambda: provider.calls(prompt) == 1, what="the call")
        rough.kill_agent(agent)
        with pytest.raises(httpx.TransportError):
            asked.result(timeout=20.0)
    again = rough.restart_agent(agent)
    device = rough.device("edge").id

    def interrupted() -> list[Any]:
        return [
            decision.outcome
            for decision in rough.decisions(device=device)
            if decision.outcome.status == types_pb2.REQUEST_STATUS_INTERRUPTED
        ]

    (outcome,) = wait_for(interrupted, what="the booking of the interrupted call")
    (attempt,) = outcome.attempts
    assert types_pb2.SETTLE_KIND_UNKNOWN == attempt.settle
    assert 0 < provider.bill[prompt] <= attempt.cost_nanos == attempt.reserved_nanos
    assert attempt.cost_nanos == rough.booked_nanos(outcome.request_id)
    wait_for(again.may_spend, what="a new lease")
    rows = [row for row in rough.ledger() if row.device_id == device]
    closed = {row.lease_number for row in rows if row.kind == "close"}
    granted = {row.lease_number for row in rows if row.kind == "grant"}
    assert granted & leases_before <= closed
    assert attempt.lease_number in closed
    assert 200 == again.chat("and on", model="cloud").status
    for request_id in before:
        assert 1 == len(rough.decisions(request_id=request_id))
    check_ledger(rough)


def garble(path: Path) -> None:
    """All but the beginning of a file becomes something else."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(byte ^ 0x5A for byte in whole[4096:]))


def truncate(path: Path) -> None:
    """A file loses its second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [garble, truncate])
def test_corrupt_books_cost_the_leases_in_full_and_not_the_device(
    rough: Fleet, provider: Provider, damage: Callable[[Path], None]
) -> None:
    """It comes back as itself, in quarantine, says why, and spends again once it is readmitted."""
    name = f"hurt-{damage.__name__}"
    agent = rough.start_agent(name, device_class="edge")
    wait_for(agent.may_spend, what="a lease")
    rough.wait_booked(agent.chat(f"{name}: before", model="cloud").request_id)
    known = rough.device(name)
    rough.kill_agent(agent)
    leases = [row for row in rough.ledger() if row.device_id == known.id and row.kind == "grant"]
    damage(agent.state / "books.db")
    (agent.state / "books.db-wal").unlink(missing_ok=True)
    again = rough.restart_agent(agent, wait=False)
    wait_for(lambda: rough.device(name).state == "quarantined", what="the quarantine")
    assert "tiny" == again.chat("alone", headers=LOCAL, max_tokens=4).arm
    held = again.chat(f"{name}: held", model="cloud")
    assert (503, "quarantined") == (
        held.status,
        held.json["error"]["tidegate"]["arms"][0]["reason"],
    )
    remedy = f"tidectl device readmit {known.id}"
    assert any(remedy in problem for problem in again.get("/health")["problems"])
    assert remedy in again.log()
    listed = rough.tidectl("device", "list").stdout
    assert f"{name} is quarantined: it came without its resume token" in listed
    assert f"tidectl device readmit {name}" in listed
    assert list(agent.state.glob("books.db.corrupt-*"))

    rows = [row for row in rough.ledger() if row.device_id == known.id]
    ended = {row.lease_number for row in rows if row.kind == "close"}
    assert {row.lease_number for row in leases} == ended
    kinds: Counter[str] = Counter()
    for row in rows:
        kinds[row.kind] += row.amount_nanos
    spent = kinds["settle"] + kinds["unconfirmed"]
    assert kinds["grant"] == spent + kinds["release"]
    assert spent >= max(row.amount_nanos for row in leases), "the last lease in full"

    rough.tidectl("device", "readmit", name)
    wait_for(again.may_spend, what="a new lease")
    assert 200 == again.chat(f"{name}: after", model="cloud").status
    assert [known.id] == [d.id for d in rough.devices() if d.name == name]
    assert not any("corrupt" in problem for problem in again.get("/health")["problems"])
    assert 0 == provider.calls(f"{name}: held")
    check_ledger(rough)
    rough.kill_agent(again)


def test_a_pause_stops_paid_calls_and_outlives_a_restart(
    rough: Fleet, agent: Agent, provider: Provider
) -> None:
    """`pause-spend` closes every paid arm at once, stays after a restart, until `resume-spend`."""
    assert 200 == agent.chat("before the pause", model="cloud").status
    try:
        rough.tidectl("pause-spend")
        wait_for(lambda: agent.chat("paused?", model="cloud").status == 429, what="the pause")
        refused = agent.chat("while paused", model="cloud")
        assert (429, "budget_exceeded") == (refused.status, refused.code)
        assert "spend_paused" in refused.message
        assert agent.chat("auto while paused").arm in ("tiny", "slow")
        rough.stop_coordinator()
        assert 429 == agent.chat("still paused", model="cloud").status
        rough.start_coordinator()
        assert rough.json("budget", "show")["spend_paused"]
        wait_for(lambda: rough.device("edge").connected, what="the agent's return")
        assert 429 == agent.chat("paused again", model="cloud").status
    finally:
        rough.tidectl("resume-spend")
    wait_for(
        lambda: agent.chat("after the pause", model="cloud").status == 200, what="paid answers"
    )
    for prompt in ("while paused", "auto while paused", "still paused", "paused again"):
        assert 0 == provider.calls(prompt)


def check_ledger(fleet: Fleet) -> None:
    """The balances are what the ledger's rows add up to, and within the budget (I1)."""

    def settled_sums() -> tuple[dict[str, int], Any] | None:
        rows, balance = fleet.ledger(), fleet.budget()
        kinds: Counter[str] = Counter()
        for row in rows:
            kinds[row.kind] += row.amount_nanos
        return (kinds, balance) if len(fleet.ledger()) == len(rows) else None

    # Costs may still be on their way: rows and balances count when no row came in between.
    kinds, balance = wait_for(settled_sums, what="a quiet ledger")
    settled = sum(kinds[k] for k in ("settle", "confirm", "overrun", "unsettle", "adjust"))
    unconfirmed = kinds["unconfirmed"] + kinds["writeoff"] - kinds["confirm"] - kinds["refund"]
    assert settled == balance.settled_nanos
    assert unconfirmed == balance.unconfirmed_nanos
    committed = balance.settled_nanos + balance.unconfirmed_nanos + balance.outstanding_nanos
    assert committed <= balance.enforced_nanos
