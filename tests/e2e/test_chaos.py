"""A minute of chaos with real processes: nothing overspent, lost, doubled or left unanswered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.run import Settings, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECONDS = 60.0


@pytest.mark.timeout(600)
def test_a_minute_of_chaos_leaves_the_books_right(tmp_path: Path) -> None:
    """Kills, pauses, cut and half-open links and a full disk: what was promised still holds."""
    settings = Settings(
        folder=tmp_path,
        seed=7,
        seconds=SECONDS,
        budget_usd="0.05",
        agents=2,
    )
    report = run(settings, say=print)
    told = report.json()
    assert report.faults, "nothing happened"
    assert report.answered > 0, told
    assert report.billed <= report.budget, told
    assert report.billed <= report.booked <= report.budget, told
    assert (0, 0, 0) == (report.lost, report.doubled, report.misbooked), told
    assert (0, 0) == (report.unanswered, report.unclean), told
