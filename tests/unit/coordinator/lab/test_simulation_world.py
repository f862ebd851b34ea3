"""A fleet in memory: the production engines under a simulated clock, network and disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.lab.simulation.clock import EventQueue
from coordinator.lab.simulation.demand import make_demand
from coordinator.lab.simulation.logbook import Logbook
from coordinator.lab.simulation.report import judge
from coordinator.lab.simulation.schema import load_scenario
from coordinator.lab.simulation.tally import Tally
from coordinator.lab.simulation.world import World
from tests.unit.coordinator.lab.simulation_cases import event, small, write_small


def play(folder: Path, *, more: str = "", seed: int = 3, windows: int = 1) -> Tally:
    """Play the small scenario."""
    return World(small(folder, more=more), seed=seed, windows=windows).run()


def answered_by(tally: Tally, arm: str, *, first: int, last: int) -> int:
    """Requests of some slots that an arm answered."""
    columns = tally.window(tally.windows - 1)
    mine = (columns["slot"] >= first) & (columns["slot"] < last)
    return int((columns["arm"][mine] == tally.arms.index(arm)).sum())


def test_events_happen_in_order_of_time_and_then_of_scheduling() -> None:
    """A tie is broken by who came first, and the past happens now."""
    queue, seen = EventQueue(now_ms=100), list[Any]()

    queue.at(300, seen.append, "c")
    queue.at(200, seen.append, "a")
    queue.at(200, seen.append, "b")
    queue.at(50, seen.append, "late")
    queue.run_until(250)

    assert ["late", "a", "b"] == seen
    assert 250 == queue.now_ms


def test_equal_seeds_give_equal_runs_and_others_do_not(tmp_path: Path) -> None:
    """Everything follows from the scenario and the seed."""
    first, again, other = (play(tmp_path, seed=seed) for seed in (3, 3, 4))

    assert first.rows == again.rows
    assert first.ends == again.ends
    assert first.rows != other.rows


def test_every_request_ends_once_and_the_books_agree_with_the_bill(tmp_path: Path) -> None:
    """What came is what ended; what devices were billed is what the coordinator settled."""
    tally = play(tmp_path, windows=2)

    assert tally.demand.counts.sum() == tally.requests
    for index, end in enumerate(tally.ends):
        columns = tally.window(index)
        assert end.billed == end.settled, index
        assert 0 < end.billed <= end.budget, index
        assert 0 == end.unconfirmed, index
        assert columns["cost_nanos"].sum() == pytest.approx(end.billed, rel=0.05), index
        assert (columns["arm"] >= 0).all(), index


def test_the_fleet_learns_to_pay_where_it_gains_most(tmp_path: Path) -> None:
    """The cloud serves hard tasks far more often than easy ones once the truth is known."""
    tally = play(tmp_path, windows=2)
    columns, cloud = tally.window(1), tally.arms.index("cloud")
    hard = tally.demand.contexts.index(("edge", "hard"))

    paid = {
        name: float((columns["arm"][mine] == cloud).mean())
        for name, mine in (
            ("hard", columns["context"] == hard),
            ("easy", columns["context"] != hard),
        )
    }

    assert paid["hard"] > 2.0 * paid["easy"]


def test_a_dead_provider_answers_nothing_and_everybody_is_served(tmp_path: Path) -> None:
    """Calls fail at once and the local model answers."""
    tally = play(tmp_path, more=event("cloud_down", at_slot=6, until_slot=12))

    assert answered_by(tally, "cloud", first=0, last=6) > 0
    assert 0 == answered_by(tally, "cloud", first=7, last=12)
    assert (tally.window(0)["arm"] >= 0).all()


def test_the_cloud_is_used_again_after_an_outage(tmp_path: Path) -> None:
    """Calls that were not executed are held against nobody."""
    tally = play(tmp_path, more=event("cloud_down", at_slot=6, until_slot=10))

    before = answered_by(tally, "cloud", first=2, last=6)
    after = answered_by(tally, "cloud", first=14, last=18)
    assert after > 0.6 * before


def test_no_money_is_left_in_leases_and_none_is_refused_that_is_there(tmp_path: Path) -> None:
    """Where the budget binds, it is spent to the end of the window."""
    tally = play(tmp_path, windows=2)
    scenario = small(tmp_path)
    figures, _ = judge(scenario, tally=tally, seed=3)

    assert figures.stranded_share <= 0.02
    assert figures.lease_refused_share * figures.requests <= 1.0  # of 300


@pytest.mark.parametrize("kind", ["link_down", "coordinator_down"])
def test_devices_answer_while_they_are_cut_off(tmp_path: Path, kind: str) -> None:
    """Without a coordinator the last table and the local model go on, and all is told later."""
    tally = play(tmp_path, more=event(kind, at_slot=5, until_slot=14))

    columns = tally.window(0)
    cut_off = (columns["slot"] >= 6) & (columns["slot"] < 14)
    assert cut_off.sum() > 50
    assert (columns["arm"][cut_off] >= 0).all()
    # Leases last two minutes, four slots: after that nothing can be paid.
    assert 0 == answered_by(tally, "cloud", first=10, last=14)
    assert tally.ends[0].billed == tally.ends[0].settled


def test_a_budget_that_is_cut_is_kept_from_then_on(tmp_path: Path) -> None:
    """What was committed at the cut is the most that is ever spent (rule C_3)."""
    tally = play(tmp_path, more=event("budget", at_slot=10, amount_usd="0.10"))

    (end,) = tally.ends
    assert 100_000_000 == end.budget
    assert end.billed <= end.allowed
    assert [0, 10] == [regime.slot for regime in tally.regimes]
    assert 100_000_000 == tally.regimes[1].budget_nanos


def test_an_arm_that_joins_is_used_from_then_on(tmp_path: Path) -> None:
    """Before its event a new arm is not in the fleet."""
    path = write_small(
        tmp_path,
        more=event("new_arm", at_slot=10, arm="cloud"),
        **{'kind = "cloud"': 'kind = "cloud"\nabsent = true'},
    )
    tally = World(load_scenario(path), seed=3).run()

    assert 0 == answered_by(tally, "cloud", first=0, last=10)
    assert answered_by(tally, "cloud", first=10, last=20) > 0


def test_a_price_counts_from_the_slot_in_which_it_changes(tmp_path: Path) -> None:
    """Both the bill and the yardstick follow the new price."""
    tally = play(tmp_path, more=event("price", at_slot=10, arm="cloud", factor=3.0))
    columns = tally.window(0)
    paid = columns["cost_nanos"] > 0.0
    before = columns["cost_nanos"][paid & (columns["slot"] < 10)].mean()
    after = columns["cost_nanos"][paid & (columns["slot"] > 10)].mean()

    assert after > 2.0 * before
    assert 3.0 == pytest.approx(tally.regimes[1].cost[0, 0] / tally.regimes[0].cost[0, 0])


def test_demand_has_the_stated_mean_and_events_scale_the_last_window(tmp_path: Path) -> None:
    """Earlier windows know nothing of the judged one's shock."""
    more = event("demand", at_slot=10, until_slot=15, task_class="hard", factor=4.0)
    demand = make_demand(small(tmp_path, more=more), windows=2, seed=1, folder=None)
    hard = demand.contexts.index(("edge", "hard"))

    assert [6.0] * 30 == demand.mean[:30, hard].tolist()
    assert [24.0] * 5 + [6.0] * 5 == demand.mean[30:, hard].tolist()
    assert demand.mean.sum() == pytest.approx(float(demand.counts.sum()), rel=0.15)


def test_a_trace_gives_the_shape_and_the_scenario_the_level(tmp_path: Path) -> None:
    """A trace is scaled to a mean of one and used again from its beginning."""
    (tmp_path / "trace.csv").write_text("requests\n10\n30\n", encoding="utf-8")
    more = '\n[demand]\nkind = "trace"\nfile = "trace.csv"\n'
    demand = make_demand(small(tmp_path, more=more), windows=1, seed=1, folder=tmp_path)
    easy = demand.contexts.index(("edge", "easy"))

    assert [4.0, 12.0] * 10 == demand.mean[:, easy].tolist()


def test_the_log_tells_every_decision_of_the_judged_window(tmp_path: Path) -> None:
    """A line a request; the propensity is the drawn arm's share of the candidates' weights."""
    scenario = small(tmp_path)
    logbook = Logbook(grading_share=scenario.grading.share)
    tally = World(scenario, seed=3, windows=2, logbook=logbook).run()
    decisions = list(logbook.decisions())

    assert len(tally.window(1)["slot"]) == len(decisions)
    drawn = [each for each in decisions if each.drawn_arm]
    for each in drawn:
        total = sum(each.candidates.values())
        share = each.candidates[each.drawn_arm] * 10**6 // total if total else 10**6
        assert share == each.propensity_ppm, each
    assert all(each.reward is not None for each in decisions if each.arm)


def test_the_figures_of_a_run_hold_together(tmp_path: Path) -> None:
    """Shares are shares, nothing is overspent, and the yardstick is not beaten by much."""
    scenario = small(tmp_path)
    tally = World(scenario, seed=3, windows=2).run()

    figures, curves = judge(scenario, tally=tally, seed=3)

    assert 0 == figures.overrun_nanos
    assert 1.0 == pytest.approx(sum(figures.arm_shares.values()) + figures.refused_share)
    assert -0.01 < figures.regret_share < 0.25
    assert figures.requests == curves.requests.sum()
    assert curves.reward.sum() == pytest.approx(figures.reward_mean * figures.requests)
    assert np.all(curves.hits <= curves.requests)
    assert [] == figures.return_shares
