"""The long life of the books: adding the whole ledger up again, and letting old rows go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, delete, func, select, tuple_

from coordinator.adapters import sql_rows as rows
from coordinator.adapters import sql_schema as schema
from coordinator.adapters.sql_load import load_ledger
from coordinator.ports import Progress
from coordinator.records import SpendRow, WindowRow
from coordinator.verify import LedgerSums

PAGE_ROWS: Final = 10_000


def add_everything_up(connection: Connection, *, progress: Progress) -> Sequence[str]:
    """Where the ledger's rows and the running balances disagree, in words.

    The connection's transaction must show one moment of the books.
    """
    total = connection.scalar(select(func.max(schema.LEDGER.c.id))) or 0
    sums, last = LedgerSums(), 0
    progress(0, total)
    while page := load_ledger(connection, after_id=last, limit=PAGE_ROWS, device_id=""):
        for row in page:
            sums.take(row)
        last = page[-1].id
        progress(last, total)
    windows = connection.execute(select(schema.WINDOW)).mappings()
    leases = connection.execute(select(schema.LEASE)).mappings()
    spend = connection.execute(select(schema.SPEND)).mappings()
    return sums.differences(
        windows=(WindowRow(**row) for row in windows),
        leases=(rows.lease_record(row) for row in leases),
        spend=(SpendRow(**row) for row in spend),
    )


def prune_learned(connection: Connection, *, position: int, limit: int) -> int:
    """Delete the oldest learned rows up to a position that a snapshot covers; how many went."""
    covered = connection.scalar(select(func.max(schema.SNAPSHOT.c.position))) or 0
    last = min(position, covered)
    gone = 0
    for table in (schema.OUTCOME, schema.GRADE, schema.COUNTS):
        oldest = (
            select(table.c.position)
            .where(table.c.position <= last)
            .order_by(table.c.position)
            .limit(limit)
            .subquery()
        )
        upto = connection.scalar(select(func.max(oldest.c.position)))
        if upto is None:
            continue
        if table is schema.OUTCOME:
            gone += _prune_grades(connection, upto=upto, covered=covered)
        gone += connection.execute(delete(table).where(table.c.position <= upto)).rowcount
        if table is schema.OUTCOME:
            _prune_runs(connection, upto=upto)
    return gone


def _prune_runs(connection: Connection, *, upto: int) -> None:
    """Delete the runs that none of the outcomes above a position came in.

    An outcome lies between the position of its own run and that of the next.
    """
    outcome, run = schema.OUTCOME, schema.OUTCOME_RUN
    oldest = connection.scalar(select(outcome.c.run).order_by(outcome.c.position).limit(1))
    last = upto if oldest is None else min(upto, oldest - 1)
    connection.execute(delete(run).where(run.c.position <= last))


def prune_dated(connection: Connection, *, before_unix_ms: int, limit: int) -> int:
    """Delete the audit from before a time, and join tokens that expired before it."""
    gone = 0
    for key, at in (
        (schema.AUDIT.c.id, schema.AUDIT.c.at_unix_ms),
        (schema.JOIN_TOKEN.c.digest, schema.JOIN_TOKEN.c.expires_unix_ms),
    ):
        old = select(key).where(at < before_unix_ms).order_by(at).limit(limit)
        gone += connection.execute(delete(key.table).where(key.in_(old))).rowcount
    return gone


def _prune_grades(connection: Connection, *, upto: int, covered: int) -> int:
    """Delete the grades of the outcomes up to a position, as far as a snapshot covers them."""
    grade, outcome = schema.GRADE, schema.OUTCOME
    graded = select(outcome.c.device_id, outcome.c.request_id).where(outcome.c.position <= upto)
    theirs = tuple_(grade.c.device_id, grade.c.request_id).in_(graded)
    return connection.execute(delete(grade).where(theirs & (grade.c.position <= covered))).rowcount
