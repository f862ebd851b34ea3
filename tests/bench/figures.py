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
