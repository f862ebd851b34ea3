"""The conditions under which a run counts as a success."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploy.demo.board import Record
from deploy.demo.books import Booked

SPENT_SHARE_MIN: Final = 0.70
BOOKED_TO_BILLED_MAX: Final = 1.15
ARMS_SERVING_MIN: Final = 3
ARM_SHARE_MIN: Final = 0.05
LP_SHARE_MIN: Final = 0.90


@dataclass(frozen=True)
class Check:
    """One condition, what was measured, and whether it holds."""

    name: str
    figure: str
    holds: bool


def run_checks(
    figures: Mapping[str, Any], *, answered: Sequence[Record], booked: Sequence[Booked]
) -> list[Check]:
    """Judge a run.

    Parameters
    ----------
    figures : mapping
        The report's figures.
    answered : sequence of Record
        Requests with a complete answer, as their clients saw them.
    booked : sequence of Booked
        What the coordinator booked.
    """
    return [
        *_money(figures),
        _arms(figures),
        _booked_once(answered, booked),
        _complete(figures),
        Check(
            "requests were answered while the coordinator was down",
            f"{figures['answered_while_coordinator_down']} "
            f"in {figures['coordinator_down_s']:.0f} s",
            figures["answered_while_coordinator_down"] > 0,
        ),
        *_rewards(figures),
    ]


def _money(figures: Mapping[str, Any]) -> list[Check]:
    budget, billed = figures["budget_nanos"], figures["billed_nanos"]
    booked = figures["booked_spend_nanos"]
    spent = billed / budget
    ratio = booked / billed if billed else 0.0
    return [
        Check("billed <= budget", f"{billed:,} of {budget:,} nano-dollars", billed <= budget),
        Check(
            f"at least {SPENT_SHARE_MIN:.0%} of the budget spent",
            f"{spent:.1%}",
            spent >= SPENT_SHARE_MIN,
        ),
        Check(
            f"1 <= booked / billed <= {BOOKED_TO_BILLED_MAX}",
            f"{ratio:.4f}",
            billed <= booked and ratio <= BOOKED_TO_BILLED_MAX and billed > 0,
        ),
    ]


def _arms(figures: Mapping[str, Any]) -> Check:
    total = figures["answered_total"]
    shares = {
        arm: numbers["requests"] / total if total else 0.0
        for arm, numbers in figures["by_arm"].items()
    }
    serving = sum(share >= ARM_SHARE_MIN for share in shares.values())
    return Check(
        f"at least {ARMS_SERVING_MIN} arms serve {ARM_SHARE_MIN:.0%} or more",
        ", ".join(f"{arm} {share:.1%}" for arm, share in shares.items()),
        serving >= ARMS_SERVING_MIN,
    )


def _booked_once(answered: Sequence[Record], booked: Sequence[Booked]) -> Check:
    times = Counter(request.request_id for request in booked)
    missing = sum(times[record.request_id] == 0 for record in answered)
    doubled = sum(count > 1 for count in times.values())
    nameless = sum(not record.request_id for record in answered)
    return Check(
        "every answered request is booked exactly once",
        f"{len(answered)} answered, {missing} missing, {doubled} doubled",
        not missing and not doubled and not nameless and bool(answered),
    )


def _complete(figures: Mapping[str, Any]) -> Check:
    spooled, booked = figures["outcomes_spooled"], figures["outcomes_booked"]
    return Check(
        "every spooled outcome is booked, and the spools are empty",
        f"{booked} of {spooled}",
        bool(figures["spools_drained"]) and spooled == booked,
    )


def _rewards(figures: Mapping[str, Any]) -> list[Check]:
    mean, best = figures["reward_mean"], figures["lp_reward_mean"]
    local, cloud = figures["always_local_reward_mean"], figures["always_cloud_reward_mean"]
    share = mean / best if best else 0.0
    return [
        Check(
            f"mean reward >= {LP_SHARE_MIN} of the best mixture in hindsight",
            f"{mean:.4f} of {best:.4f}, {share:.1%}",
            share >= LP_SHARE_MIN,
        ),
        Check("better than always_local", f"{mean:.4f} against {local:.4f}", mean > local),
        Check("better than always_cloud", f"{mean:.4f} against {cloud:.4f}", mean > cloud),
    ]
