"""One measured figure, and how `bench-report.json` shows it."""

from __future__ import annotations

from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes
    ----------
    against : str
        What it is compared with, measured in the same run.
    target : str
        What it should be, in words; `holds` says whether it is.
    """

    name: str
    figure: float
    unit: str
    against: str
    target: str
    holds: bool

    @classmethod
    def at_most(
        cls, name: str, value: float, limit: float, *, unit: str, against: str, digits: int = 2
    ) -> Figure:
        """A figure that should not be above a limit. It is shown rounded, and judged as it is."""
        shown, target = round(value, digits or None), f"<= {limit:,g}"
        return cls(name, shown, unit, against, target, holds=value <= limit)

    @classmethod
    def at_least(
        cls, name: str, value: float, limit: float, *, unit: str, against: str, digits: int = 2
    ) -> Figure:
        """A figure that should not be below a limit; see `at_most`."""
        shown, target = round(value, digits or None), f">= {limit:,g}"
        return cls(name, shown, unit, against, target, holds=value >= limit)
