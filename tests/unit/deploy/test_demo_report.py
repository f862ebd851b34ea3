"""Tests of the demo's yardsticks, conditions, report and pictures, on made-up runs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from deploy.demo.answers import ArmAnswer
from deploy.demo.board import Board, End, Outage, Record, Sample, hit_share, reward_mean
from deploy.demo.books import Booked, Books
from deploy.demo.hindsight import Replay, measure
from deploy.demo.live import LiveView, sparkline
from deploy.demo.plot import arm_shares, plot_run, rolling_hits
from deploy.demo.report import Report, build_report, checks_of, write_report
from deploy.demo.settings import ARMS, CLOUD_ARM, DemoSettings
from deploy.demo.show import show_report
from deploy.demo.stream import Planned

REQUESTS = 90
REWARDS = {"tiny": 0.0, "small": 0.5, CLOUD_ARM: 1.0}
PROMPT_TOKENS, COMPLETION_TOKENS = 30, 5
OUTAGE = Outage(from_s=30.0, until_s=55.0)


@pytest.fixture
def settings(tmp_path: Path) -> DemoSettings:
    """Settings with a budget for a third of the requests on the cloud."""
    base = DemoSettings(
        state=tmp_path,
        report=tmp_path / "demo-report.json",
        picture=tmp_path / "demo-run.png",
        cloud_python=tmp_path / "python",
    )
    return replace(base, budget_usd=f"{REQUESTS // 3 * cost_nanos(base) / 1e9:.9f}")


def cost_nanos(settings: DemoSettings) -> int:
    """What every made-up request costs on the cloud."""
    return settings.prices.price.cost_nanos(
        prompt_tokens=PROMPT_TOKENS, completion_tokens=COMPLETION_TOKENS
    )


def planned(index: int) -> Planned:
    """One made-up request; they come once a second to a device with all arms."""
    return Planned(
        index=index,
        at_s=float(index),
        device="jetson",
        task_class="add",
        prompt=f"add: {index}+1",
        answer=str(index + 1),
        stream=False,
        abort=False,
    )


def answer(index: int, arm: str) -> ArmAnswer:
    """Tiny is never right, small for every other request, the cloud always."""
    reward = float(index % 2 == 0) if arm == "small" else REWARDS[arm]
    return ArmAnswer(
        index=index,
        arm=arm,
        text=f"{arm} {index}",
        reward=reward,
        prompt_tokens=PROMPT_TOKENS,
        completion_tokens=COMPLETION_TOKENS,
    )


def record(index: int, arm: str, *, end: End = End.ANSWERED) -> Record:
    """How a made-up request went."""
    graded = {End.ANSWERED: answer(index, arm).reward, End.FAILED: 0.0, End.ABORTED: None}
    return Record(
        index=index,
        device="jetson",
        task_class="add",
        stream=False,
        sent_s=float(index),
        done_s=index + 0.1,
        end=end,
        arm=arm,
        request_id=f"request-{index}",
        text=f"{arm} {index}",
        hit=end is End.ANSWERED,
        reward=graded[end],
    )


def arm_of(index: int) -> str:
    """Small where it is right; else the cloud, and tiny for a few."""
    if index % 2 == 0:
        return "small"
    return CLOUD_ARM if index % 3 else "tiny"


def run_report(
    settings: DemoSettings,
    *,
    booked: Sequence[Booked] | None = None,
    records: Sequence[Record] | None = None,
    billed_nanos: int | None = None,
    booked_nanos: int | None = None,
    outage: Outage | None = OUTAGE,
) -> Report:
    """The report of a made-up run that meets all conditions unless something is changed."""
    stream = [planned(index) for index in range(REQUESTS)]
    answers = [answer(item.index, arm) for item in stream for arm in ARMS]
    records = records or [record(index, arm_of(index)) for index in range(REQUESTS)]
    spent = sum(cost_nanos(settings) for item in records if item.arm == CLOUD_ARM)
    everything = [
        Booked(
            request_id=item.request_id,
            arm=item.arm,
            hit=item.hit,
            answered=True,
            cost_nanos_by_arm={item.arm: cost_nanos(settings) if item.arm == CLOUD_ARM else 0},
        )
        for item in records
    ]
    books = Books(
        drained=True,
        budget_nanos=settings.budget_nanos,
        booked_spend_nanos=spent if booked_nanos is None else booked_nanos,
        billed_nanos=spent if billed_nanos is None else billed_nanos,
        provider_requests=30,
        provider_aborted=0,
        outcomes_spooled=len(everything if booked is None else booked),
        booked=everything if booked is None else booked,
    )
    replay = Replay(stream, answers, settings=settings)
    return build_report(
        settings=settings,
        board=Board(records=list(records), outage=outage),
        books=books,
        yardsticks=measure(replay, records, settings=settings),
        duration_s=100.0,
    )


def failing(report: Report) -> list[str]:
    """The names of the conditions that do not hold."""
    return [check.name for check in checks_of(report) if not check.holds]


def test_a_good_run_meets_every_condition(settings: DemoSettings) -> None:
    """Nothing fails, and the required figures are all there."""
    report = run_report(settings)
    assert [] == failing(report)
    assert report["ok"] is True
    assert {
        *("requests_total", "answered_total", "by_arm", "by_class", "reward_mean"),
        *("always_local_reward_mean", "always_cloud_reward_mean", "budget_nanos"),
        *("booked_spend_nanos", "billed_nanos", "sla_floor", "sla_share", "outcomes_spooled"),
        *("outcomes_booked", "answered_while_coordinator_down", "lp_reward_mean", "duration_s"),
    } <= set(report)


def test_the_yardsticks_are_those_worked_out_by_hand(settings: DemoSettings) -> None:
    """A third on the cloud at 1.0 and the rest on small at 0.5 is the best mixture."""
    report = run_report(settings)
    assert report["lp_reward_mean"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["always_local_reward_mean"] == pytest.approx(0.5)
    assert report["always_cloud_reward_mean"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["replay_agreement_share"] == 1.0


@pytest.mark.parametrize(
    ("billed_share", "booked_share", "condition"),
    [
        (1.01, 1.01, "billed <= budget"),
        (0.69, 0.69, "at least 70% of the budget spent"),
        (0.80, 0.79, "1 <= booked / billed <= 1.15"),
        (0.80, 0.93, "1 <= booked / billed <= 1.15"),
        (0.00, 0.00, "1 <= booked / billed <= 1.15"),
    ],
)
def test_money_conditions_fail_on_their_own_figures(
    settings: DemoSettings, billed_share: float, booked_share: float, condition: str
) -> None:
    """Overspending, hoarding, and books that differ from the bill are each told."""
    report = run_report(
        settings,
        billed_nanos=math.ceil(billed_share * settings.budget_nanos),
        booked_nanos=math.ceil(booked_share * settings.budget_nanos),
    )
    assert condition in failing(report)
    assert report["ok"] is False


def test_a_request_missing_in_the_books_fails(settings: DemoSettings) -> None:
    """An answered request that was not booked is told, and so is one booked twice."""
    name = "every answered request is booked exactly once"
    entries = [
        Booked(request_id=f"request-{i}", arm="", hit=True, answered=True, cost_nanos_by_arm={})
        for i in range(REQUESTS)
    ]
    assert name not in failing(run_report(settings, booked=entries))
    assert name in failing(run_report(settings, booked=entries[1:]))
    assert name in failing(run_report(settings, booked=[*entries, entries[0]]))


def test_without_an_answer_in_the_outage_the_run_fails(settings: DemoSettings) -> None:
    """The outage must have happened, and requests must have been answered in it."""
    name = "requests were answered while the coordinator was down"
    assert name in failing(run_report(settings, outage=None))
    assert name in failing(run_report(settings, outage=Outage(from_s=200.0, until_s=225.0)))
    assert 25 == run_report(settings)["answered_while_coordinator_down"]


def test_an_idle_arm_fails_the_run(settings: DemoSettings) -> None:
    """Three arms must serve a share that counts."""
    records = [
        record(index, "small" if arm_of(index) == "tiny" else arm_of(index))
        for index in range(REQUESTS)
    ]
    assert "at least 3 arms serve 5% or more" in failing(run_report(settings, records=records))


def test_failures_count_as_nothing_earned_and_aborts_do_not_count(settings: DemoSettings) -> None:
    """A failure is a miss with reward 0; a client that left says nothing about an answer."""
    records = [record(index, arm_of(index)) for index in range(REQUESTS)]
    records[0] = record(0, "small", end=End.FAILED)
    records[2] = record(2, "small", end=End.ABORTED)
    report = run_report(settings, records=records)
    waited = [item for item in records if item.end is not End.ABORTED]
    assert report["failed_total"] == report["aborted_total"] == 1
    assert reward_mean(waited) == pytest.approx(report["reward_mean"], abs=1e-6)
    assert hit_share(waited) == pytest.approx((REQUESTS - 2) / (REQUESTS - 1))
    assert report["answered_total"] == REQUESTS - 2


def test_a_missing_replayed_answer_is_an_error(settings: DemoSettings) -> None:
    """Yardsticks are never computed from half a replay."""
    stream = [planned(index) for index in range(3)]
    with pytest.raises(ValueError, match="1 answers"):
        Replay(stream, [answer(i, arm) for i in range(3) for arm in ARMS][:-1], settings=settings)


def test_the_report_can_be_read_back_and_shown(settings: DemoSettings) -> None:
    """As JSON, and as tables with every condition."""
    report = run_report(settings)
    write_report(settings.report, report)
    assert report == json.loads(settings.report.read_text())
    sink = io.StringIO()
    show_report(report, console=Console(file=sink, width=160))
    for check in checks_of(report):
        assert check.name in sink.getvalue()


def test_the_picture_is_drawn_with_and_without_an_outage(settings: DemoSettings) -> None:
    """Also for a run that has hardly begun."""
    records = [record(index, arm_of(index)) for index in range(REQUESTS)]
    samples = [Sample(at_s=float(i), up=not 30 < i < 55, billed_nanos=i) for i in range(REQUESTS)]
    full = Board(records=records, samples=samples, outage=OUTAGE)
    for board in (full, Board()):
        settings.picture.unlink(missing_ok=True)
        plot_run(settings.picture, board=board, settings=settings)
        assert settings.picture.read_bytes().startswith(b"\x89PNG")


def test_series_of_the_picture_are_shares() -> None:
    """Arm shares add up to 1 in every bin; rolling hits count the last 15 s."""
    records = [record(index, arm_of(index)) for index in range(REQUESTS)]
    times, shares = arm_shares(records, drive_s=float(REQUESTS))
    assert times.size == len(shares[0])
    assert sum(shares) == pytest.approx([1.0] * times.size)
    records[50] = replace(records[50], hit=False)
    _, hits = rolling_hits(records, drive_s=float(REQUESTS))
    assert 1.0 == max(hits)
    assert min(hits) == pytest.approx(14 / 15)


def test_the_live_view_shows_money_and_an_absent_coordinator(settings: DemoSettings) -> None:
    """Both the panel and the plain line tell when the coordinator is away."""
    board = Board(records=[record(0, "small")])
    board.samples.append(Sample(at_s=1.0, up=False, billed_nanos=1_000_000))
    console = Console(file=io.StringIO(), width=120)
    view = LiveView(board, settings=settings, console=console, now_s=lambda: 2.0)
    assert "DOWN" in view.line()
    with console.capture() as capture:
        console.print(view.view())
    assert "$0.001000" in capture.get()
    assert "coordinator away" in capture.get()
    assert "" == sparkline([0, 0])
    assert "▄█" == sparkline([1, 2])
