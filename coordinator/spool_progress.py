"""How far the spools of devices are booked: every record once, whoever brings it (rules D_1, O_1).

A record is known by its incarnation and sequence. Sequences rise on one disk only: a copied or
restored disk gives some of them again, under an incarnation of its own, and records that two disks
hold are booked when the first of them brings them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from coordinator.records import SpoolMark
from shared.decision.types import IncarnationRange, SpoolRecord, SpoolSummary
from shared.errors import ProtocolError

_sequence: Final = attrgetter("sequence")
_incarnation: Final = attrgetter("incarnation")
_body: Final = attrgetter("body")


@dataclass
class SpoolProgress:
    """What is booked of the spool behind one session.

    Attributes
    ----------
    acked : int
        Everything up to this sequence of this disk is in the books.
    last : int
        The last sequence that the device spoke of when the session began.
    marks : dict of str to int
        The highest booked sequence of each incarnation, from whichever disk it came.
    """

    acked: int
    last: int
    marks: dict[str, int]

    @classmethod
    def of(cls, spool: Sequence[IncarnationRange], *, marks: Mapping[str, int]) -> SpoolProgress:
        """Where to go on with a spool, given the books' marks of its incarnations."""
        acked = spool[0].after
        for each in spool:
            acked = min(each.last, max(acked, marks.get(each.incarnation, 0)))
            if acked < each.last:
                break
        known = {each.incarnation: marks.get(each.incarnation, 0) for each in spool}
        return cls(acked=acked, last=spool[-1].last, marks=known)

    @property
    def is_caught_up(self) -> bool:
        """Whether all that the device spoke of at first is booked."""
        return self.acked >= self.last

    def after(
        self,
        records: Iterable[SpoolRecord],
        *,
        device: str,
        missing: list[str] | None = None,
        doubled: dict[int, str] | None = None,
    ) -> tuple[SpoolProgress, list[SpoolRecord]]:
        """The progress once these records are booked, and those of them that are not yet.

        Parameters
        ----------
        missing : list of str, optional
            Takes what is missing between records, which is an error without it: restored books
            may be told of a time whose records the device no longer keeps.
        doubled : dict of int to str, optional
            Takes, by their sequence, the summaries of which a part is booked, with the words for
            an alarm: a disk has compacted what a copy of it had told.

        Raises
        ------
        ProtocolError
            If sequences have a gap, or a record is of an incarnation that the hello did not name.
        """
        acked, marks = self.acked, dict(self.marks)
        fresh = self._next(records)
        if fresh:  # as nearly always
            marks[fresh[-1].incarnation] = acked = fresh[-1].sequence
            return SpoolProgress(acked=acked, last=self.last, marks=marks), fresh
        self.check_named(records, device=device)
        for record in records:
            sequence, incarnation, body, _, _ = record
            if sequence <= acked:
                continue
            first = body.first_sequence if isinstance(body, SpoolSummary) else sequence
            if first > acked + 1:
                said = f"device {device} sent sequence {first} after {acked}: records are missing"
                if missing is None:
                    raise ProtocolError(said)
                missing.append(said)
            acked = sequence
            mark = marks[incarnation]
            if first <= mark < sequence and doubled is not None:
                doubled[sequence] = (
                    f"device {device} sent the records {first} to {sequence} of the incarnation "
                    f"{incarnation} as one summary, and a copy of its books had told those up to "
                    f"{mark}: the requests of {first} to {mark} are counted twice, and what the "
                    "others cost stays unconfirmed"
                )
            if sequence > mark:
                marks[incarnation] = sequence
                fresh.append(record)
        return SpoolProgress(acked=acked, last=self.last, marks=marks), fresh

    def check_named(self, records: Iterable[SpoolRecord], *, device: str) -> None:
        """Refuse records of an incarnation that the hello did not name, unless they are booked.

        Raises
        ------
        ProtocolError
            Naming the first of them.
        """
        for record in records:
            if record.sequence > self.acked and record.incarnation not in self.marks:
                raise ProtocolError(
                    f"device {device} sent sequence {record.sequence} of the incarnation "
                    f"{record.incarnation!r}, which its hello did not name"
                )

    def _next(self, records: Iterable[SpoolRecord]) -> list[SpoolRecord]:
        """The records, if they are those that come next, one by one, on this disk and in the books.

        None of them if the least thing is out of the ordinary: then each has to be looked at.
        """
        found = list(records)
        names = set(map(_incarnation, found))
        after = self.acked + 1
        is_next = (
            len(names) == 1
            and self.marks.get(next(iter(names)), after) < after
            and list(map(_sequence, found)) == list(range(after, after + len(found)))
            and SpoolSummary not in set(map(type, map(_body, found)))
        )
        return found if is_next else []

    def moved_since(self, earlier: SpoolProgress, *, device_id: str) -> list[SpoolMark]:
        """The marks that rose."""
        return [
            SpoolMark(device_id, incarnation, mark)
            for incarnation, mark in self.marks.items()
            if mark != earlier.marks[incarnation]
        ]
