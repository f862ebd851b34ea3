"""Paid calls that go wrong, and the end of the money: nothing unbooked, nothing overspent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from deploy.demo.cloud import start_cloud, wait_cloud
from deploy.demo.settings import CLOUD_ARM, DemoSettings, cloud_python
from shared.decision.money import nanos_from_dollars
from shared.pb.v1 import types_pb2
from tests.e2e.fleet import Agent, CloudArm, Fleet, chat_body, wait_for
from tests.e2e.provider import KEY, Provider

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cut(fleet: Fleet) -> Agent:
    """An agent whose paid endpoint is not there."""
    agent = fleet.start_agent("cut-1", device_class="cut")
    wait_for(agent.may_spend, what="the first lease")
    return agent


@pytest.fixture
def odd(edge: Agent) -> Agent:
    """An agent whose arm `odd` has just worked, so that its breaker is closed."""
    wait_for(lambda: edge.chat("are you well", model="odd").status == 200, what="a well arm")
    return edge


def test_a_dead_endpoint_is_told_and_costs_nothing(cut: Agent, fleet: Fleet) -> None:
    """`auto` answers locally, names what failed, and the ledger has no row for it."""
    reply = cut.chat("is anybody there", max_tokens=4)
    assert (200, "tiny") == (reply.status, reply.arm)
    assert "fallback:dead=connect_failed" == reply.reason
    assert "0.000000000" == reply.headers["x-tidegate-cost-usd"]
    assert 0 == fleet.booked_nanos(reply.request_id)


def test_a_pinned_dead_endpoint_is_a_clear_error(cut: Agent, fleet: Fleet) -> None:
    """Who insists on a dead arm gets a 503 that names it and why."""
    reply = cut.chat("is anybody there", model="dead")
    assert (503, "no_candidate") == (reply.status, reply.code)
    assert "dead: connect_failed" in reply.message
    assert 0 == fleet.booked_nanos(reply.request_id)


def test_an_aborted_stream_is_booked_at_its_true_usage(
    odd: Agent, fleet: Fleet, provider: Provider
) -> None:
    """With `drain` the agent reads on when its client has gone, and books what was billed."""
    prompt = "!slow the client leaves"
    body = chat_body(prompt, model="odd", stream=True)
    with odd.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as reply:
        request_id = reply.headers["x-tidegate-request-id"]
        next(reply.iter_lines())
    outcome = fleet.wait_booked(request_id).outcome
    (attempt,) = outcome.attempts
    assert types_pb2.SETTLE_KIND_REPORTED == attempt.settle
    assert types_pb2.REQUEST_STATUS_ABORTED == outcome.status
    assert 0 < provider.bill[prompt] == attempt.cost_nanos == fleet.booked_nanos(request_id)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_usage_is_booked_at_the_reservation(
    odd: Agent, fleet: Fleet, provider: Provider, stream: bool
) -> None:
    """A provider that never says what it counted is believed to have billed the worst case."""
    prompt = f"!nousage {stream}"
    body = chat_body(prompt, model="odd", stream=stream)
    with odd.http() as client:
        reply = client.post("/v1/chat/completions", json=body)
    assert 200 == reply.status_code
    request_id = reply.headers["x-tidegate-request-id"]
    (attempt,) = fleet.wait_booked(request_id).outcome.attempts
    assert types_pb2.SETTLE_KIND_UNKNOWN == attempt.settle
    assert attempt.reserved_nanos == attempt.cost_nanos == fleet.booked_nanos(request_id)
    assert 0 < provider.bill[prompt] <= attempt.cost_nanos


@pytest.mark.parametrize(("status", "billed"), [(500, True), (429, False)])
def test_an_error_status_is_booked_as_the_arm_says(
    odd: Agent, fleet: Fleet, provider: Provider, status: int, billed: bool
) -> None:
    """A 429 is listed as unbilled and releases; a 500 may have been billed and counts in full."""
    prompt = f"!status={status} pinned"
    reply = odd.chat(prompt, model="odd")
    told = (503, "no_candidate") if billed else (429, "rate_limit_exceeded")
    assert told == (reply.status, reply.code)
    assert f"http_{status}" in reply.message
    (attempt,) = fleet.wait_booked(reply.request_id).outcome.attempts
    assert (attempt.reserved_nanos if billed else 0) == fleet.booked_nanos(reply.request_id)
    assert 1 == provider.calls(prompt), "a paid call is never repeated by itself"


def test_auto_goes_on_to_the_next_arm_when_the_provider_is_busy(
    odd: Agent, fleet: Fleet, provider: Provider
) -> None:
    """Each paid arm is tried once, through the gate, and then a local one answers."""
    prompt = "!status=429 auto"
    reply = odd.chat(prompt, max_tokens=4)
    assert 200 == reply.status
    assert reply.arm in ("tiny", "slow")
    assert reply.reason.startswith("fallback:")
    assert "cloud=http_429" in reply.reason
    assert 0 == fleet.booked_nanos(reply.request_id)
    assert provider.calls(prompt) <= 2
    assert 200 == odd.chat("well again", model="cloud").status


@pytest.mark.slow
def test_many_clients_cannot_overspend(new_fleet: Callable[[], Fleet], provider: Provider) -> None:
    """32 clients at once spend at most the budget; then pinned is refused and `auto` is local."""
    budget_nanos = 2_000_000
    fleet = new_fleet()
    fleet.start(
        clouds={"cloud": CloudArm(provider.base_url, reward=0.9)},
        classes={"edge": ["tiny", "cloud"]},
        budget_usd="0.002",
    )
    agent = fleet.start_agent("edge-2", device_class="edge")
    wait_for(agent.may_spend, what="the first lease")
    decision = agent.post("/v1/route", chat_body("pinned", model="cloud")).json
    worst_case = nanos_from_dollars(decision["worst_case_usd"])
    before = provider.billed_nanos

    def spend(worker: int) -> list[int]:
        return [agent.chat(f"spend {worker}.{turn}", model="cloud").status for turn in range(6)]

    with ThreadPoolExecutor(32) as pool:
        statuses = [status for each in pool.map(spend, range(32)) for status in each]
    # 503: for a moment it is the disk that is behind, not the money.
    assert {200, 429, 503} >= set(statuses)
    assert 200 in statuses

    def spent() -> bool:
        agent.chat("spends", model="cloud")
        balance = fleet.budget()
        return bool(balance.free_nanos + balance.outstanding_nanos < worst_case)

    wait_for(spent, what="the end of the money", within_s=40.0)
    reply = agent.chat("pinned", model="cloud")
    assert (429, "budget_exceeded") == (reply.status, reply.code)
    assert "'purse'" in reply.message
    # As many tokens as the pinned one: a smaller request may still fit in what is left.
    local = agent.chat("unpinned")
    assert (200, "tiny") == (local.status, local.arm)
    wait_for(lambda: agent.details()["spool_waiting"] == 0, what="an empty spool")
    balance = fleet.budget()
    billed = provider.billed_nanos - before
    committed = balance.settled_nanos + balance.unconfirmed_nanos + balance.outstanding_nanos
    assert 0.7 * budget_nanos <= billed <= balance.settled_nanos <= budget_nanos
    assert committed <= balance.enforced_nanos == budget_nanos
    assert {"pinned", "unpinned"}.isdisjoint(provider.bill)


@pytest.mark.slow
def test_a_window_that_a_wrong_clock_has_opened_is_left(
    new_fleet: Callable[[], Fleet], provider: Provider
) -> None:
    """The books are as a clock thirty days ahead would have left them; an operator rewinds."""
    ahead_ms = 30 * 24 * 3_600_000
    fleet = new_fleet()
    fleet.start(
        clouds={"cloud": CloudArm(provider.base_url, reward=0.9)},
        classes={"edge": ["tiny", "cloud"]},
    )
    agent = fleet.start_agent("edge-4", device_class="edge")
    paid = agent.chat("in the wrong time", model="cloud")
    assert 200 == paid.status
    fleet.wait_booked(paid.request_id)
    fleet.tidectl("budget", "rewind", "--reason", "too early", "--yes", expect=1)
    fleet.stop_coordinator()
    with closing(sqlite3.connect(fleet.folder / "coordinator" / "coordinator.db")) as books:
        columns = {
            "budget_window": ("id", "start_unix_ms", "end_unix_ms"),
            "lease": ("window_id",),
            "ledger": ("window_id",),
        }
        for table, names in columns.items():
            later = ", ".join(f"{name} = {name} + {ahead_ms}" for name in names)
            books.execute(f"UPDATE {table} SET {later}")
        books.commit()
    fleet.start_coordinator()
    wait_for(lambda: "clock" in fleet.tidectl("alarm", "list").stdout, what="the alarm")
    before = fleet.budget()
    assert before.window_start_unix_ms > before.now_unix_ms

    fleet.tidectl("budget", "rewind", "--reason", "ntp is back", "--yes")

    after = fleet.budget()
    assert before.window_start_unix_ms - ahead_ms <= after.window_start_unix_ms
    assert after.window_start_unix_ms <= after.now_unix_ms < after.window_end_unix_ms
    assert 0 < before.settled_nanos <= after.unconfirmed_nanos
    assert "clock" not in fleet.tidectl("alarm", "list").stdout
    wait_for(agent.may_spend, what="a lease of the true window")
    again = agent.chat("in the right time", model="cloud")
    assert 200 == again.status
    assert fleet.booked_nanos(again.request_id) > 0
    fleet.tidectl("ledger", "verify")


@pytest.mark.slow
def test_a_third_party_server_bills_what_is_booked(
    new_fleet: Callable[[], Fleet], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With `llama_cpp.server` behind the meter, bill and ledger agree, streamed or not."""
    python = cloud_python(None)
    if not python.exists():
        pytest.skip("the cloud's virtual environment is not installed: make install")
    folder = tmp_path_factory.mktemp("third-party")
    settings = DemoSettings(
        state=folder,
        report=folder / "report.json",
        picture=folder / "run.png",
        cloud_python=python,
        network_ms=10.0,
        network_jitter_ms=5.0,
    )
    fleet = new_fleet()
    cloud = start_cloud(settings, children=fleet.children, api_key=KEY)
    prices = settings.prices
    fleet.start(
        clouds={
            CLOUD_ARM: CloudArm(
                cloud.base_url,
                model=CLOUD_ARM,
                prices=(
                    prices.input_usd_per_mtok,
                    prices.output_usd_per_mtok,
                    prices.request_usd,
                ),
            )
        },
        classes={"edge": ["tiny", CLOUD_ARM]},
    )
    agent = fleet.start_agent("edge-3", device_class="edge")
    wait_cloud(cloud, children=fleet.children, api_key=KEY)
    wait_for(agent.may_spend, what="the first lease")
    ids = []
    for stream in (False, True):
        body = chat_body("copy: hello", model=CLOUD_ARM, stream=stream, temperature=0.0)
        with agent.http() as client:
            reply = client.post("/v1/chat/completions", json=body)
        assert 200 == reply.status_code, reply.text
        ids.append(reply.headers["x-tidegate-request-id"])
    booked = [fleet.booked_nanos(request_id) for request_id in ids]
    assert sum(booked) == cloud.totals()["billed_nanos"]
    assert min(booked) > 0
