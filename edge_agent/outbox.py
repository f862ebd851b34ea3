"""The positions of the device's outbox: what was spooled, sent, acked and may be trimmed."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    BooksSnapshot,
    CompactSpool,
    MetaKey,
    PutMeta,
    TrimSpool,
)
from shared.decision.types import (
    ContextCount,
    Feedback,
    IncarnationRange,
    JudgeCall,
    Outcome,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
)
from shared.limits import RETAIN_ACKED_MS, RETAIN_ACKED_RECORDS_MAX, SPOOL_RECORDS_MAX

ACK_MARK_MS: Final = 60_000
"""When records were acked is remembered by the minute: each ack by itself would take megabytes."""

Effects = list[BookEffect]
_SUMMARISED = Outcome | Feedback | JudgeCall | SpoolSummary


class Outbox:
    """Sequences of one disk, rising by one over all incarnations that have written to it.

    A record is known by its incarnation and its sequence: a copied disk goes on with sequences
    that the original gives as well, but under an incarnation of its own (rule D_1).

    Acked records are kept for a while (rule C_5), so that a coordinator restored from a backup
    can be told again what it forgot.
    """

    def __init__(self, *, incarnation: str, snapshot: BooksSnapshot) -> None:
        meta = snapshot.meta
        self._incarnation = incarnation
        self.last = snapshot.spool_last
        self.acked = int(meta.get(MetaKey.SEQUENCE_ACKED, "0"))
        self.sent_max = int(meta.get(MetaKey.SEQUENCE_SENT_MAX, "0"))
        self._compacted = 0
        self._trimmed = snapshot.spool_first - 1 if snapshot.spool_first else self.last
        self._acked_at: deque[tuple[int, int]] = deque()
        self.unreadable: set[int] = set()
        began = json.loads(meta.get(MetaKey.INCARNATIONS, "[]"))
        self._began: list[tuple[str, int]] = [(name, after) for name, after in began]
        self._began.append((incarnation, self.last))

    def begin(self) -> Effects:
        """Note where this incarnation goes on; to be synced before it spools anything."""
        self._began = [(each.incarnation, each.after) for each in self.incarnations()]
        return [PutMeta(MetaKey.INCARNATIONS, json.dumps(self._began))]

    def incarnations(self) -> tuple[IncarnationRange, ...]:
        """Whose records the spool holds, rising; the two latest incarnations in any case."""
        ends = [*(after for _, after in self._began[1:]), self.last]
        ranges = [
            IncarnationRange(name, after, last)
            for (name, after), last in zip(self._began, ends, strict=True)
        ]
        held = [r for r in ranges[:-2] if r.last > max(r.after, self._trimmed)]
        return (*held, *ranges[-2:])

    def identified(self, records: Sequence[SpoolRecord]) -> list[SpoolRecord]:
        """The records, those that cannot be read with the incarnation that wrote them.

        They stay in the books as they are, and the coordinator is told of each: its sequence counts
        as booked, so that the records behind it get through.
        """
        return [self._identified(record) if is_unreadable(record) else record for record in records]

    def _identified(self, record: SpoolRecord) -> SpoolRecord:
        self.unreadable.add(record.sequence)
        wrote = (name for name, after in reversed(self._began) if after < record.sequence)
        return record._replace(incarnation=next(wrote))

    @property
    def waiting(self) -> int:
        """Records that the coordinator has not acked."""
        return self.last - self.acked

    def spool(self, body: SpoolBody) -> Effects:
        """Append one fact."""
        self.last += 1
        return [AppendSpool(SpoolRecord(self.last, self._incarnation, body))]

    def sending(self, through: int) -> Effects:
        """Records up to a sequence are about to be sent, perhaps for the first time (O_2).

        The effects must be synced first, then `sent` called: were a record acked and then lost
        with the power, its sequence would be given again and the new record taken for a duplicate.
        """
        if through <= self.sent_max:
            return []
        return [PutMeta(MetaKey.SEQUENCE_SENT_MAX, str(through))]

    def sent(self, through: int) -> None:
        """The mark is on the disk, and with it every record below."""
        self.sent_max = max(self.sent_max, through)

    def overfull_after(self) -> int | None:
        """After which sequence records have to be compacted, if too many wait in full."""
        after = max(self.acked, self.sent_max, self._compacted)
        return after if self.last - after > SPOOL_RECORDS_MAX else None

    def compact(self, records: Sequence[SpoolRecord]) -> Effects:
        """Put summaries in the place of outcomes and grades that were never sent (rule O_2).

        Closes and adjustments stay as they are, and so does an overrun: its arm closes everywhere
        by it (rule S_4). A record that was ever sent may be in the coordinator's books already, and
        must not change. A summary is of one incarnation.
        """
        effects: Effects = []
        for (summarises, _), run in groupby(
            records, lambda record: (self._summarises(record), record.incarnation)
        ):
            waiting = list(run)
            if summarises and len(waiting) > 1:
                effects.append(summary_of(waiting))
        self._compacted = max([self._compacted, *(record.sequence for record in records)])
        return effects

    def _summarises(self, record: SpoolRecord) -> bool:
        return record.sequence > self.sent_max and is_summarised(record.body)

    def ack(self, sequence: int, *, boot_ms: int) -> Effects:
        """Everything up to a sequence is in the coordinator's books."""
        if sequence <= self.acked:
            return []
        self.acked = sequence
        if self._acked_at and self._acked_at[-1][1] // ACK_MARK_MS == boot_ms // ACK_MARK_MS:
            self._acked_at.pop()
        self._acked_at.append((sequence, boot_ms))
        return [PutMeta(MetaKey.SEQUENCE_ACKED, str(sequence)), *self.trim(boot_ms=boot_ms)]

    def trim(self, *, boot_ms: int) -> Effects:
        """Delete acked records beyond the retention; the last record always stays.

        It is measured on the clock that nobody sets, and starts anew with the process.
        """
        if not self._acked_at:
            self._acked_at.append((self.acked, boot_ms))
        through = self.acked - RETAIN_ACKED_RECORDS_MAX
        while self._acked_at and self._acked_at[0][1] <= boot_ms - RETAIN_ACKED_MS:
            through = max(through, self._acked_at.popleft()[0])
        through = min(through, self.last - 1)
        if through <= self._trimmed:
            return []
        self._trimmed = through
        self.unreadable = {sequence for sequence in self.unreadable if sequence > through}
        while self._acked_at and self._acked_at[0][0] <= through:
            self._acked_at.popleft()
        return [TrimSpool(through)]


def is_summarised(body: SpoolBody) -> bool:
    """Whether a summary may stand for this, as far as it was never sent (rule O_2)."""
    if isinstance(body, SpoolSummary) and body.unreadable:
        return False  # the books keep it as it is
    return isinstance(body, _SUMMARISED) and not _tells_overrun(body)


def is_unreadable(record: SpoolRecord) -> bool:
    """Whether this stands for a record that the books can no longer read."""
    return isinstance(record.body, SpoolSummary) and record.body.unreadable > 0


def _tells_overrun(body: SpoolBody) -> bool:
    match body:
        case Outcome(attempts=attempts):
            return any(attempt.is_overrun for attempt in attempts)
        case JudgeCall(attempt=attempt):
            return attempt.is_overrun
    return False


def summary_of(run: Sequence[SpoolRecord]) -> CompactSpool:
    """One record for many that follow each other: what was spent and how much was asked."""
    costs: Counter[int] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    first = run[0].sequence
    for record in run:
        match record.body:  # a grade says nothing without its outcome
            case Outcome() as outcome:
                counts[outcome.task_class, outcome.arm] += 1
                for attempt in outcome.attempts:
                    if attempt.is_booked:
                        costs[attempt.lease_number] += attempt.cost_nanos
            case JudgeCall(attempt=attempt):
                if attempt.is_booked:
                    costs[attempt.lease_number] += attempt.cost_nanos
            case SpoolSummary() as summary:
                first = min(first, summary.first_sequence)
                costs.update(dict(summary.costs))
                for count in summary.counts:
                    counts[count.task_class, count.arm] += count.requests
    last = run[-1]
    summary = SpoolSummary(
        first_sequence=first,
        last_sequence=last.sequence,
        costs=tuple(sorted(costs.items())),
        counts=tuple(
            ContextCount(task_class, arm, requests)
            for (task_class, arm), requests in sorted(counts.items())
        ),
    )
    return CompactSpool(first, SpoolRecord(last.sequence, last.incarnation, summary))
