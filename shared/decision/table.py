"""The selection table: context to weighted arms, and the draw from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from shared.decision.money import PPM
from shared.errors import invariant
from shared.rows import quick_dataclass


@dataclass(frozen=True)
class TableArm:
    """One arm of a row: its weight, and what the coordinator expects of it."""

    arm: str
    weight_ppm: int
    expected_reward_ppm: int = 0
    expected_cost_nanos: int = 0
    latency_p50_ms: int = 0
    latency_p90_ms: int = 0
    latency_p99_ms: int = 0


@dataclass(frozen=True)
class TableRow:
    """The arms of one task class. Weights add up to at most a million."""

    task_class: str
    arms: tuple[TableArm, ...]

    def __post_init__(self) -> None:
        invariant(
            all(arm.weight_ppm >= 0 for arm in self.arms)
            and sum(arm.weight_ppm for arm in self.arms) <= PPM,
            f"weights of row {self.task_class} must be at least 0 and add up to at most {PPM}",
        )


@dataclass(frozen=True)
class SelectionTable:
    """What a device decides by; versioned, for one device class."""

    version: int
    device_class: str
    config_version: int
    created_unix_ms: int
    rows: tuple[TableRow, ...]
    resident_arms: tuple[str, ...] = ()

    def row(self, task_class: str) -> TableRow | None:
        """The row of a task class, if the table has it."""
        return next((row for row in self.rows if row.task_class == task_class), None)

    def same_choices(self, other: SelectionTable) -> bool:
        """Whether a device would decide alike by both, so that no push is needed."""
        return self.rows == other.rows and self.resident_arms == other.resident_arms


@quick_dataclass(frozen=True)
class Draw:
    """The arm that was drawn first, its probability, and the order of the fallbacks."""

    arm: str
    propensity_ppm: int
    fallbacks: tuple[str, ...]


class RankedRow:
    """A row in the order of its fallbacks, ready to be drawn from.

    Fallbacks follow by weight, then by expected reward, then by name. If no candidate has weight,
    the one that is expected to do best is taken, with certainty.
    """

    def __init__(self, row: TableRow) -> None:
        self._weights = [(arm.arm, arm.weight_ppm) for arm in row.arms]
        ranked = sorted(
            row.arms, key=lambda arm: (-arm.weight_ppm, -arm.expected_reward_ppm, arm.arm)
        )
        self._order = [arm.arm for arm in ranked]
        self._total = sum(arm.weight_ppm for arm in row.arms)

    def draw(self, candidates: Collection[str], uniform: float) -> Draw | None:
        """Draw one candidate from the weights, renormalised over the candidates.

        Parameters
        ----------
        candidates : collection of str
            The arms of the row that may answer, each once.
        uniform : float
            A random number in [0, 1).

        Returns
        -------
        Draw or None
            None if the row names no candidate.
        """
        weights, order, total = self._weights, self._order, self._total
        if len(candidates) < len(weights):
            weights = [pair for pair in weights if pair[0] in candidates]
            order = [arm for arm in order if arm in candidates]
            total = sum([weight for _, weight in weights])
        if not weights:
            return None
        if total == 0:
            return Draw(order[0], PPM, tuple(order[1:]))
        target = int(uniform * total)
        position = 0
        while target >= weights[position][1]:
            target -= weights[position][1]
            position += 1
        chosen, weight = weights[position]
        at = order.index(chosen)
        return Draw(chosen, weight * PPM // total, tuple(order[:at] + order[at + 1 :]))

    def fallbacks(self, candidates: Collection[str], *, of: str = "") -> tuple[str, ...]:
        """The candidates in order, or those that follow an arm which was not drawn from it now."""
        return tuple(arm for arm in self._order if arm in candidates and arm != of)
