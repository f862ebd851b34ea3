"""How long a coordinator with a long history is away after `kill -9`."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from shared.decision.types import Attempt, Outcome, RequestStatus, SettleKind
from shared.limits import BATCH_RECORDS_MAX
from shared.pb.v1 import admin_pb2
from shared.wire import encode_run
from tests.bench.figures import Figure
from tests.e2e.fleet import CloudArm, Fleet, wait_for

OUTCOMES: Final = 1_000_000
SINCE_SNAPSHOT: Final = 10_000
"""Booked in the slot that the kill cut short: they are learned again."""
LEASES: Final = 1_000
COST_NANOS: Final = 100
ROUNDS: Final = 3
TARGET_S: Final = 5.0
DEVICE: Final = "dev-bench"
EMPTY: Final = ""


def recovery() -> Figure:
    """Seconds from the start of a process on a killed one's books to its first table."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder))
        try:
            fleet.start(
                clouds={"cloud": CloudArm("http://127.0.0.1:9/v1")},
                classes={"edge": ["tiny", "cloud"]},
                budget_usd="100",
            )
            database = Path(folder) / "coordinator" / "coordinator.db"
            wait_for(lambda: _has_table(database), what="the first snapshot")
            fleet.kill_coordinator()
            with closing(sqlite3.connect(database, isolation_level=None)) as books:
                _fill(books)
            seconds = [_back_again(fleet, database) for _ in range(ROUNDS)]
        finally:
            fleet.close()
    took = statistics.median(seconds)
    return Figure.at_most(
        "recovery",
        took,
        TARGET_S,
        unit="s to the first table",
        against=f"kill -9 with {OUTCOMES:,} booked outcomes on SQLite, start of Python included",
    )


def _back_again(fleet: Fleet, database: Path) -> float:
    """Start on the books as the kill left them, ask for a device's table, and kill again."""
    with closing(sqlite3.connect(database, isolation_level=None)) as books:
        books.execute("UPDATE snapshot SET position = ?", (OUTCOMES - SINCE_SNAPSHOT,))
    began = time.perf_counter()
    fleet.start_coordinator()
    table = fleet.call("GetTable", admin_pb2.GetTableRequest(device=DEVICE))
    took = time.perf_counter() - began
    if not table.rows:
        raise RuntimeError("the table has no rows: there is nothing to measure")
    fleet.kill_coordinator()
    return took


def _has_table(database: Path) -> bool:
    with closing(sqlite3.connect(database)) as books:
        (tables,) = books.execute("SELECT count(*) FROM selection_table").fetchone()
        (snapshots,) = books.execute("SELECT count(*) FROM snapshot").fetchone()
    return bool(tables and snapshots)


def _fill(books: sqlite3.Connection) -> None:
    """A device's history: every other outcome paid, on leases of the present window."""
    (window,) = books.execute("SELECT max(id) FROM budget_window").fetchone()
    now_ms = window + 60_000
    run = encode_run([_outcome()] * BATCH_RECORDS_MAX)
    paid = OUTCOMES // 2
    per_lease = paid // LEASES
    books.execute("BEGIN IMMEDIATE")
    texts = ("bench", "edge", "x" * 64)
    books.execute(
        "INSERT INTO device VALUES (?, ?, ?, ?, ?, 'active', '', 'inc', '', '', ?, 0, 0, ?, '1')",
        (DEVICE, *texts, now_ms, LEASES, now_ms),
    )
    books.executemany(
        f"INSERT INTO outcome VALUES ({', '.join('?' * 13)})",
        (
            (n, DEVICE, "edge", n, 0, f"req-{n:016x}", "other", "cloud" if n % 2 else "tiny", "ok",
             COST_NANOS if n % 2 else 0, now_ms,
             n - (n - 1) % BATCH_RECORDS_MAX, (n - 1) % BATCH_RECORDS_MAX)
            for n in range(1, OUTCOMES + 1)
        ),
    )  # fmt: skip
    books.executemany(
        "INSERT INTO outcome_run VALUES (?, ?)",
        ((first, run) for first in range(1, OUTCOMES + 1, BATCH_RECORDS_MAX)),
    )
    books.executemany(
        f"INSERT INTO ledger VALUES ({', '.join('?' * 9)})",
        ((at, now_ms, window, *row) for at, row in enumerate(_ledger(per_lease), start=1)),
    )
    books.executemany(
        "INSERT INTO lease VALUES (?, ?, 'inc', ?, ?, 1, ?, ?, 0, ?)",
        (
            (DEVICE, number, window, per_lease * COST_NANOS, now_ms, per_lease * COST_NANOS,
             "open" if number == LEASES else "closed")
            for number in range(1, LEASES + 1)
        ),
    )  # fmt: skip
    books.execute(
        "UPDATE budget_window SET settled_nanos = ? WHERE id = ?", (paid * COST_NANOS, window)
    )
    books.execute("COMMIT")


def _ledger(per_lease: int) -> list[tuple[str, str, int, int, str, str]]:
    """The rows of every lease: granted, settled request by request, closed but for the last."""
    rows = []
    for number in range(1, LEASES + 1):
        rows.append(("grant", DEVICE, number, per_lease * COST_NANOS, EMPTY, EMPTY))
        first = (number - 1) * per_lease
        rows += [
            ("settle", DEVICE, number, COST_NANOS, f"req-{2 * (first + n) + 1:016x}", EMPTY)
            for n in range(per_lease)
        ]
        if number < LEASES:
            rows.append(("close", DEVICE, number, 0, EMPTY, "renewed"))
    return rows


def _outcome() -> Outcome:
    return Outcome(
        request_id="req-0000000000000001",
        task_class="other",
        arrived_unix_ms=1_700_000_000_000,
        status=RequestStatus.OK,
        arm="cloud",
        drawn_arm="cloud",
        propensity_ppm=500_000,
        table_version=3,
        reason="table",
        forced=False,
        attempts=(Attempt("cloud", 90, "", 1, 2 * COST_NANOS, COST_NANOS, SettleKind.REPORTED),),
        prompt_tokens=120,
        completion_tokens=40,
        ttft_ms=30,
        latency_ms=90,
        deadline_ms=1_000,
        hit=True,
    )
