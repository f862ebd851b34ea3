"""Alarms stand until they are resolved, and each mark of a budget is announced once a window."""

from __future__ import annotations

from dataclasses import replace

from coordinator.alerts import AlertBoard, AlertKind, kind_of
from coordinator.records import WindowRow

WINDOW = WindowRow(id=7, start_unix_ms=0, end_unix_ms=10, target_nanos=1_000)
PERCENTS = (50, 80, 100)


def marks(board: AlertBoard, window: WindowRow) -> list[str]:
    """What a look at a window announces."""
    board.look_at(window, name="cloud", percents=PERCENTS)
    return [alert.key for alert in board.take(unix_ms=5)[0]]


def again(board: AlertBoard) -> AlertBoard:
    """The board of the next process."""
    return AlertBoard.from_json(board.to_json())


def test_a_mark_is_announced_when_it_is_reached_and_once_a_window() -> None:
    """Settled and unconfirmed money count; a restart and a second look announce nothing."""
    board = AlertBoard()
    assert [] == marks(board, replace(WINDOW, settled_nanos=499, outstanding_nanos=400))
    half = replace(WINDOW, settled_nanos=400, unconfirmed_nanos=100)
    assert ["budget:50"] == marks(board, half)
    assert [] == marks(board, half)
    board = again(board)
    assert [] == marks(board, half)
    assert ["budget:80", "budget:100"] == marks(board, replace(WINDOW, settled_nanos=1_001))
    assert ["budget:50"] == marks(board, replace(half, id=8))


def test_a_budget_of_nothing_has_no_marks() -> None:
    """Nothing can be spent of it."""
    assert [] == marks(AlertBoard(), replace(WINDOW, target_nanos=0))


def test_a_refusal_is_announced_once_a_window() -> None:
    """However many devices ask."""
    board = AlertBoard()
    for _ in range(3):
        board.refused(WINDOW, reason="budget cloud: 0 of 1000 nano-dollars are free")
    (alert,), _ = board.take(unix_ms=9)
    assert (AlertKind.REFUSED, 7, 9) == (alert.kind, alert.window_id, alert.at_unix_ms)


def test_an_alarm_stands_across_restarts_and_is_announced_at_both_ends() -> None:
    """Newer words replace the older ones and are not announced again."""
    board = AlertBoard()
    board.raise_alarm("overrun:large", "billed 5")
    (raised,), state = board.take(unix_ms=3)
    assert state is not None
    assert (AlertKind.OVERRUN, False, 3) == (raised.kind, raised.cleared, raised.at_unix_ms)
    board.raise_alarm("overrun:large", "billed 6")
    assert [] == board.take(unix_ms=4)[0]
    board = again(board)
    (alarm,) = board.alarms
    assert ("billed 6", 3) == (alarm.text, alarm.since_unix_ms)
    board.clear("overrun:large", why="open again")
    board.clear("overrun:large", why="open again")
    (cleared,), _ = board.take(unix_ms=6)
    assert cleared.cleared
    assert () == again(board).alarms


def test_nothing_is_stored_when_nothing_has_changed() -> None:
    """The hot path of a batch writes no state."""
    board = AlertBoard()
    marks(board, WINDOW)
    assert ([], None) == board.take(unix_ms=2)
    board.raise_alarm("missing:d", "gap")
    board.take(unix_ms=3)
    board.raise_alarm("missing:d", "gap")
    assert ([], None) == board.take(unix_ms=4)


def test_every_key_begins_with_its_kind() -> None:
    """Metrics label by it, so that labels are bounded."""
    assert AlertKind.RESTORED is kind_of("restored")
    assert AlertKind.OVERRUN is kind_of("overrun:d/late")
