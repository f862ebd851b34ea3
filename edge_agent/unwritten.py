"""What waits for room on the disk, kept small: the same in fewer effects (rules O_2, O_3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    CompactSpool,
    DropLease,
    DropReservation,
    PutConfig,
    PutKeyBudget,
    PutLease,
    PutMeta,
    PutReservation,
    PutTable,
    TrimSpool,
)
from edge_agent.outbox import is_summarised, summary_of
from shared.decision.types import SpoolRecord, SpoolSummary
from shared.limits import UNWRITTEN_RECORDS_MAX

Spooled = AppendSpool | CompactSpool


def merged(effects: Iterable[BookEffect]) -> list[BookEffect]:
    """What these effects, none of them written, come to when they are written at once.

    Of each row the last word stays, so leases, reservations and facts take no more room than in
    the books. The records stay as long as there are no more than `UNWRITTEN_RECORDS_MAX`; then
    summaries take their place: what was settled and how much was asked is in them.
    """
    trims: list[BookEffect] = []
    spooled: list[Spooled] = []
    rows: dict[tuple[str, object], BookEffect] = {}
    for effect in effects:
        if isinstance(effect, TrimSpool):
            trims = [effect]  # each goes further than the one before
        elif isinstance(effect, AppendSpool | CompactSpool):
            spooled.append(effect)
        else:
            rows[_row_of(effect)] = effect
    if len(spooled) > UNWRITTEN_RECORDS_MAX:
        spooled = _compacted(spooled)
    return [*trims, *spooled, *rows.values()]


def _compacted(spooled: Sequence[Spooled]) -> list[Spooled]:
    """Summaries in the place of records that follow each other without a gap."""
    runs: list[list[Spooled]] = []
    for effect in sorted(spooled, key=lambda effect: effect.record.sequence):
        if runs and _follows(runs[-1][-1].record, effect.record):
            runs[-1].append(effect)
        else:
            runs.append([effect])
    return [
        run[0] if len(run) == 1 else summary_of([effect.record for effect in run]) for run in runs
    ]


def _follows(before: SpoolRecord, record: SpoolRecord) -> bool:
    body = record.body
    first = body.first_sequence if isinstance(body, SpoolSummary) else record.sequence
    return (
        first == before.sequence + 1
        and record.incarnation == before.incarnation
        and is_summarised(before.body)
        and is_summarised(body)
    )


def _row_of(effect: BookEffect) -> tuple[str, object]:
    """Which row an effect sets or removes."""
    match effect:
        case PutLease():
            return "lease", effect.row.number
        case DropLease():
            return "lease", effect.lease_number
        case PutReservation():
            return "reservation", effect.row.id
        case DropReservation():
            return "reservation", effect.reservation_id
        case PutKeyBudget():
            return "key_budget", effect.row.tag
        case PutMeta():
            return "meta", effect.key
        case PutTable():
            return "document", "table"
        case PutConfig():
            return "document", "config"
        case AppendSpool() | CompactSpool() | TrimSpool():
            return "spool", effect
