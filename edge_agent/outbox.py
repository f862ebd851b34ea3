"""The positions of the device's outbox: what was spooled, sent, acked and may be trimmed."""

from __future__ import annotations

from collections import deque

from edge_agent.books import (
    AppendSpool,
    BookEffect,
    BooksSnapshot,
    MetaKey,
    PutMeta,
    TrimSpool,
)
from shared.decision.types import SpoolBody, SpoolRecord
from shared.limits import RETAIN_ACKED_MS, RETAIN_ACKED_RECORDS_MAX

Effects = list[BookEffect]


class Outbox:
    """Sequences of one device, rising by one over all its incarnations.

    Acked records are kept for a while (rule C_5), so that a coordinator restored from a backup
    can be told again what it forgot.
    """

    def __init__(self, *, incarnation: str, snapshot: BooksSnapshot, unix_ms: int) -> None:
        meta = snapshot.meta
        self._incarnation = incarnation
        self.last = max(snapshot.spool_last, int(meta.get(MetaKey.SEQUENCE_LAST, "0")))
        self.acked = int(meta.get(MetaKey.SEQUENCE_ACKED, "0"))
        self.sent_max = int(meta.get(MetaKey.SEQUENCE_SENT_MAX, "0"))
        self._trimmed = snapshot.spool_first - 1 if snapshot.spool_first else self.last
        self._acked_at = deque([(self.acked, unix_ms)])

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

    def ack(self, sequence: int, *, unix_ms: int) -> Effects:
        """Everything up to a sequence is in the coordinator's books."""
        if sequence <= self.acked:
            return []
        self.acked = sequence
        self._acked_at.append((sequence, unix_ms))
        return [PutMeta(MetaKey.SEQUENCE_ACKED, str(sequence)), *self.trim(unix_ms=unix_ms)]

    def trim(self, *, unix_ms: int) -> Effects:
        """Delete acked records beyond the retention; the last record always stays."""
        through = self.acked - RETAIN_ACKED_RECORDS_MAX
        while self._acked_at and self._acked_at[0][1] <= unix_ms - RETAIN_ACKED_MS:
            through = max(through, self._acked_at.popleft()[0])
        through = min(through, self.last - 1)
        if through <= self._trimmed:
            return []
        self._trimmed = through
        while self._acked_at and self._acked_at[0][0] <= through:
            self._acked_at.popleft()
        return [TrimSpool(through)]
