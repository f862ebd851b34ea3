"""The decisions of a run as lines of `shared.decision.logged`, for `tidegate-lab evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coordinator.lab.simulation.device import Device
from coordinator.lab.simulation.workers import Ask
from shared.decision.logged import LoggedDecision
from shared.decision.money import PPM
from shared.decision.types import Outcome


class Logbook:
    """Collects decisions in memory; grades are added as they are drawn.

    Parameters
    ----------
    grading_share : float
        The probability with which an answer is graded.
    """

    def __init__(self, *, grading_share: float) -> None:
        self._grading_ppm = max(1, round(grading_share * PPM))
        self._noted: dict[str, dict[str, Any]] = {}

    def note(self, device: Device, ask: Ask, outcome: Outcome) -> None:
        """A request has ended."""
        self._noted[ask.id] = {
            "request_id": ask.id,
            "arrived_unix_ms": ask.arrived_ms,
            "slot": ask.slot,
            "device_class": device.device_class,
            "task_class": ask.task_class,
            "candidates": {each.arm: each.weight_ppm for each in outcome.candidates},
            "drawn_arm": outcome.drawn_arm,
            "propensity_ppm": outcome.propensity_ppm,
            "attempts": tuple(attempt.arm for attempt in outcome.attempts),
            "arm": outcome.arm,
            "status": outcome.status,
            "reward": None,
            "grading_ppm": self._grading_ppm,
            "cost_nanos": outcome.cost_nanos,
            "latency_ms": outcome.latency_ms,
            "hit": outcome.hit,
            "table_version": outcome.table_version,
        }

    def graded(self, request_id: str, reward: float) -> None:
        """An answer has been graded."""
        self._noted[request_id]["reward"] = reward

    def decisions(self) -> Iterator[LoggedDecision]:
        """Every decision, in the order of their ends."""
        for noted in self._noted.values():
            yield LoggedDecision(**noted)
