"""What the coordinator's books, the agents and the provider say at the end of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from deploy.demo import loopback
from deploy.demo.cloud import Cloud
from deploy.demo.fleet import Fleet
from deploy.demo.processes import DemoError
from deploy.demo.watch import spools_empty
from shared.pb.v1 import types_pb2

DECISIONS_MAX: Final = 10_000
DRAIN_S_MAX: Final = 20.0
POLL_S: Final = 0.25
# Every request that comes to an end spools one outcome, in the same transaction.
SPOOLED_METRIC: Final = "tidegate_requests_total"


@dataclass(frozen=True, kw_only=True)
class Booked:
    """One request as the coordinator booked it.

    Attributes
    ----------
    hit : bool
        Whether its device saw the last token leave within the deadline.
    answered : bool
        Whether it was answered to its end.
    cost_nanos_by_arm : mapping of str to int
        What its paid attempts cost.
    """

    request_id: str
    arm: str
    hit: bool
    answered: bool
    cost_nanos_by_arm: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Books:
    """The final figures; amounts in nano-dollars.

    Attributes
    ----------
    drained : bool
        Whether every spool was empty in time.
    outcomes_spooled : int
        Outcomes that the agents committed to their spools.
    """

    drained: bool
    budget_nanos: int
    booked_spend_nanos: int
    billed_nanos: int
    provider_requests: int
    provider_aborted: int
    outcomes_spooled: int
    booked: Sequence[Booked]


def read_books(fleet: Fleet, cloud: Cloud) -> Books:
    """Wait, bounded, for the spools to empty, and read all books.

    Raises
    ------
    DemoError
        When the budget's window has ended, so that its figures are no longer shown.
    """
    drained = _wait(lambda: spools_empty(fleet))
    budget = fleet.admin.tidectl("budget", "show")
    if int(budget["window_start_unix_ms"]) > 1_000 * fleet.window_start_s + 1_000:
        raise DemoError(
            "the budget's window ended before the books were read: the machine is too busy for "
            "the demo's schedule; run it again when less else is running"
        )
    totals = cloud.totals()
    return Books(
        drained=drained,
        budget_nanos=int(budget["target_nanos"]),
        booked_spend_nanos=int(budget["settled_nanos"]) + int(budget["unconfirmed_nanos"]),
        billed_nanos=totals["billed_nanos"],
        provider_requests=totals["requests"],
        provider_aborted=totals["aborted"],
        outcomes_spooled=sum(_spooled(url) for url in fleet.agent_urls.values()),
        booked=_booked(fleet),
    )


def _booked(fleet: Fleet) -> list[Booked]:
    found = []
    for decision in fleet.admin.decisions(limit=DECISIONS_MAX):
        outcome = decision.outcome
        costs: dict[str, int] = {}
        for attempt in outcome.attempts:
            costs[attempt.arm] = costs.get(attempt.arm, 0) + attempt.cost_nanos
        found.append(
            Booked(
                request_id=outcome.request_id,
                arm=outcome.arm,
                hit=outcome.hit,
                answered=outcome.status == types_pb2.REQUEST_STATUS_OK,
                cost_nanos_by_arm=costs,
            )
        )
    return found


def _spooled(url: str) -> int:
    """How many outcomes an agent has committed to its spool, from its metrics."""
    text = loopback.fetch(f"{url}/metrics").decode()
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == SPOOLED_METRIC
    )


def _wait(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DRAIN_S_MAX
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
