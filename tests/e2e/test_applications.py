"""Applications on one agent: keys, budgets and tags; graders and judges; observing and pinning."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared.decision.money import dollars, nanos_from_dollars
from tests.e2e.fleet import Agent, CloudArm, Fleet, Reply, chat_body, model_toml, wait_for
from tests.e2e.provider import JUDGE_MODEL, Provider

pytestmark = pytest.mark.e2e

GRADING = """
[judge]
arm = "judge"
[task_classes.talk]
judge = true
judge_share = 0.999999
[task_classes.sum.grader]
kind = "contains"
[signals.retry]
weight = 0.25
"""
SHOP_NANOS = 4_000_000
KEYS = """
[[keys]]
key = "file:{folder}/shop-key"
tag = "shop"
task_class = "sum"
budget_usd = "{shop_usd}"
[[keys]]
key = "file:{folder}/lab-key"
tag = "lab"
refine_tag = true
"""


@pytest.fixture(scope="module")
def paid(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that prefers to pay, and has answers graded."""
    fleet = Fleet(tmp_path_factory.mktemp("applications"))
    judge = CloudArm(provider.base_url, model=JUDGE_MODEL)
    try:
        fleet.start(
            clouds={"cloud": CloudArm(provider.base_url, reward=0.9), "judge": judge},
            classes={"edge": ["tiny", "cloud"]},
            more=GRADING,
        )
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def agent(paid: Fleet) -> Agent:
    """An agent with two applications; the key `shop` has a budget of its own."""
    for name in ("shop", "lab"):
        paid.write(f"{name}-key", f"{name}-secret")
    keys = KEYS.format(folder=paid.folder, shop_usd=dollars(SHOP_NANOS))
    agent = paid.start_agent("shared", device_class="edge", models=model_toml("tiny") + keys)
    wait_for(agent.may_spend, what="the first lease")
    return agent


def said(agent: Agent, prompt: str, *, key: str = "lab", **more: Any) -> Reply:
    """A chat of an application."""
    headers = {"authorization": f"Bearer {key}-secret", **more.pop("headers", {})}
    return agent.chat(prompt, headers=headers, **more)


def paid_for(agent: Agent, prompt: str, **more: Any) -> Reply:
    """A paid answer at the first try: a lease or a watermark that is behind is waited for."""
    reply = said(agent, prompt, model="cloud", **more)
    assert 200 == reply.status, reply
    return reply


def exported(fleet: Fleet) -> Counter[tuple[str, str]]:
    """What `tidectl export` says was settled, in nano-dollars by arm and tag."""
    spent = Counter[tuple[str, str]]()
    for line in csv.DictReader(io.StringIO(fleet.tidectl("export").stdout)):
        spent[line["arm"], line["tag"]] += nanos_from_dollars(line["settled_usd"])
    return spent


def metric(agent: Agent, name: str) -> float:
    """The value of one line of `/metrics`."""
    with agent.http() as client:
        lines = client.get("/metrics").text.splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
    return float(value)


def test_an_application_shows_its_key_and_has_its_tag(paid: Fleet, agent: Agent) -> None:
    """Who shows none, or another, is refused; a key may let its requests say more."""
    assert 401 == agent.chat("who is there").status
    assert 401 == said(agent, "who is there", key="other").status
    tagged = {"x-tidegate-tag": "night"}
    refused = said(agent, "not allowed", key="shop", headers=tagged)
    assert (400, "tag_not_allowed") == (refused.status, refused.code)
    shop, lab = said(agent, "a shop asks", key="shop"), said(agent, "a lab asks", headers=tagged)
    outcomes = [paid.wait_booked(reply.request_id).outcome for reply in (shop, lab)]
    assert [("shop", "sum"), ("lab/night", "other")] == [
        (outcome.tag, outcome.task_class) for outcome in outcomes
    ]


def test_a_keys_budget_ends_its_paid_calls_and_no_others(
    paid: Fleet, agent: Agent, provider: Provider
) -> None:
    """Pinned ones are told why and until when; the rest is local; other keys go on paying."""
    decision = {"authorization": "Bearer shop-secret"}
    body = chat_body("spend 00", model="cloud")
    worst = nanos_from_dollars(agent.post("/v1/route", body, decision).json["worst_case_usd"])
    before = provider.billed_nanos
    replies: list[Reply] = []

    def spent() -> bool:
        replies.append(said(agent, f"spend {len(replies):02}", key="shop", model="cloud"))
        return replies[-1].status == 429 and "budget of key shop" in replies[-1].message

    wait_for(spent, what="the end of the key's budget")
    refused = replies[-1]
    assert "budget_exceeded" == refused.code
    assert 0 < int(refused.headers["retry-after"]) <= 24 * 3_600
    free = said(agent, "anything, as long as before", key="shop")
    assert (200, "tiny") == (free.status, free.arm)
    assert 200 == paid_for(agent, "the lab pays").status
    used = 'tidegate_key_budget_dollars{part="settled",tag="shop"}'
    left = (SHOP_NANOS - worst) / 1e9
    wait_for(lambda: metric(agent, used) > left, what="a gauge without room for a worst case")
    assert metric(agent, used) <= SHOP_NANOS / 1e9
    assert provider.billed_nanos - before <= SHOP_NANOS + worst
    paid.kill_agent(agent)
    again = paid.restart_agent(agent)
    wait_for(again.may_spend, what="a lease of the next process")
    assert 429 == said(again, "after a kill", key="shop", model="cloud").status


def test_a_grader_and_a_judge_grade_and_are_booked(
    paid: Fleet, agent: Agent, provider: Provider
) -> None:
    """By rule for nothing; the judge's call as the paid call that it is (rule S_1)."""
    right = paid_for(
        agent, "is it paid",
        headers={"x-tidegate-task": "sum", "x-tidegate-expected": "paid%20paid"},
    )  # fmt: skip
    wait_for(lambda: paid.wait_booked(right.request_id).graded, what="the grader's word")
    booked = paid.wait_booked(right.request_id)
    assert (1_000_000, "grader:contains") == (booked.reward_ppm, booked.graded_by)

    talk = {"x-tidegate-task": "talk"}
    judged = paid_for(agent, "how good is it", headers=talk)
    wait_for(lambda: paid.wait_booked(judged.request_id).graded, what="the judge's word")
    booked = paid.wait_booked(judged.request_id)
    assert (800_000, "judge:judge") == (booked.reward_ppm, booked.graded_by)
    assert 999_999 == booked.outcome.grading_ppm, "the chance of being drawn"
    (asked,) = [body for body in provider.seen if body["model"] == JUDGE_MODEL]
    bill = provider.bill[asked["messages"][-1]["content"]]
    call_id = f"{judged.request_id}.judge"
    assert bill == sum(row.amount_nanos for row in paid.ledger() if row.request_id == call_id) > 0

    private = said(
        agent, "keep it here", headers={**talk, "x-tidegate-privacy": "local"}, max_tokens=4
    )
    assert not paid.wait_booked(private.request_id).graded
    assert 1 == sum(body["model"] == JUDGE_MODEL for body in provider.seen)


def test_a_grade_comes_late_and_once(paid: Fleet, agent: Agent) -> None:
    """After the agent's restart, by the request's id; the same again changes nothing."""
    reply = said(agent, "how was it")
    running = paid.agents[agent.name]
    paid.kill_agent(running)
    again = paid.restart_agent(running)
    key = {"authorization": "Bearer lab-secret"}
    grade = {"request_id": reply.request_id, "thumbs": "down"}
    first, same = (again.post("/v1/feedback", grade, key) for _ in range(2))
    other = again.post("/v1/feedback", {**grade, "thumbs": "up"}, key)
    assert [200, 200, 409] == [each.status for each in (first, same, other)]
    assert ["now", "before"] == [first.json["recorded"], same.json["recorded"]]
    wait_for(lambda: paid.wait_booked(reply.request_id).graded, what="the grade's booking")
    assert 0 == paid.wait_booked(reply.request_id).reward_ppm


def test_the_same_prompt_again_is_a_weak_grade_of_the_first_answer(
    paid: Fleet, agent: Agent
) -> None:
    """It is in the books, and leaves room for a full one."""

    def grades() -> list[tuple[Any, ...]]:
        database = paid.folder / "coordinator" / "coordinator.db"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as books:
            what = "SELECT arm, source, reward_ppm, weight_ppm FROM grade WHERE request_id = ?"
            return books.execute(what, [first.request_id]).fetchall()

    first, _ = (said(agent, "tell me again", max_tokens=4) for _ in range(2))
    wait_for(grades, what="the weak grade's booking")
    assert [(first.arm, "signal:retry", 0, 250_000)] == grades()
    assert not paid.wait_booked(first.request_id).graded
    lab = {"authorization": "Bearer lab-secret"}
    full = {"request_id": first.request_id, "score": 1}
    assert 200 == agent.post("/v1/feedback", full, lab).status
    wait_for(lambda: paid.wait_booked(first.request_id).graded, what="the full grade's booking")


def test_an_export_is_what_the_ledger_says(paid: Fleet, agent: Agent, tmp_path: Path) -> None:
    """To the nano-dollar, by day, arm and tag, as CSV and as JSON; and the ledger verifies."""
    wait_for(agent.may_spend, what="a lease")
    last = paid_for(agent, "the last one", headers={"x-tidegate-tag": "day"})
    assert "lab/day" == paid.wait_booked(last.request_id).outcome.tag
    wait_for(lambda: not paid.device(agent.name).spooled_records, what="an empty outbox")
    spent = exported(paid)
    assert paid.budget().settled_nanos == sum(spent.values()) > 0
    assert {("judge", ""), ("cloud", "shop"), ("cloud", "lab"), ("cloud", "lab/day")} <= set(spent)
    assert spent["cloud", "lab/day"] == nanos_from_dollars(last.headers["x-tidegate-cost-usd"])
    out = tmp_path / "spend.json"
    paid.tidectl("--format", "json", "export", "--out", str(out))
    lines = paid.json("export")
    assert sum(spent.values()) == sum(nanos_from_dollars(line["settled_usd"]) for line in lines)
    assert {"day", "arm", "tag", "settled_usd", "unconfirmed_usd"} == set(lines[0])
    assert lines == json.loads(out.read_text())
    paid.tidectl("ledger", "verify")
    assert [] == paid.json("export", "--until", "2020-01-01")


def test_an_observing_agent_only_logs_what_it_would_have_done(
    paid: Fleet, provider: Provider
) -> None:
    """The fixed arm answers; the decision is in the books with its probability."""
    agent = paid.start_agent(
        "observing", device_class="edge", head='mode = "observe"\nobserve_arm = "tiny"\n'
    )
    wait_for(agent.may_spend, what="a lease")
    seen = len(provider.seen)
    reply = agent.chat("what would you do", max_tokens=4)
    assert (200, "tiny", "observe") == (reply.status, reply.arm, reply.reason)
    outcome = paid.wait_booked(reply.request_id).outcome
    assert ("cloud", 1_000_000) == (outcome.observed.arm, outcome.observed.propensity_ppm)
    assert ("tiny", 1_000_000) == (outcome.drawn_arm, outcome.propensity_ppm)
    assert seen == len(provider.seen)
    listed = paid.tidectl("decision", "list", "--request-id", reply.request_id).stdout
    assert "observe, else cloud" in listed
    assert "cloud" == agent.chat("but this one", model="cloud").arm, "a pinned arm is obeyed"


def test_a_pinned_table_holds_until_it_is_unpinned(paid: Fleet, agent: Agent) -> None:
    """Over new plans and a restart; an earlier one is put back and decides on the devices."""

    def version() -> int:
        return int(said(agent, "which table", max_tokens=4).headers["x-tidegate-table-version"])

    def listed() -> dict[str, Any]:
        (found,) = paid.json("table", "list", "edge")["classes"]
        return dict(found)

    paid.tidectl("table", "pin", "edge")
    first = listed()["pinned"]["version"]
    wait_for(lambda: version() == first, what="the table on the device")
    paid.tidectl("arm", "disable", "cloud")
    paid.stop_coordinator()
    paid.start_coordinator()
    wait_for(lambda: said(agent, "who now", max_tokens=4).arm == "tiny", what="the closed arm")
    slot = paid.json("status")["slot"]
    wait_for(lambda: paid.json("status")["slot"] > slot + 1, what="two more plans")
    assert (first, first) == (listed()["version"], version())
    assert first == paid.json("status")["pinned_tables"][0]["version"]

    paid.tidectl("table", "unpin", "edge")
    wait_for(lambda: version() > first, what="the table of the present plan")
    paid.tidectl("arm", "enable", "cloud")
    paid.tidectl("table", "rollback", "edge", str(first), "--yes")
    wait_for(lambda: version() == first, what="the earlier table")
    assert first == listed()["pinned"]["version"]
    paid.tidectl("table", "unpin", "edge")
