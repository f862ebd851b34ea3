"""What is known of a run while it goes on: written by the drive and the sampler, read by all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class End(StrEnum):
    """How a request ended, as its client saw it."""

    ANSWERED = "answered"
    ABORTED = "aborted"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One request as its client saw it.

    Attributes
    ----------
    sent_s, done_s : float
        Seconds since the start of the drive.
    request_id : str
        From the response's headers; empty when there was no response.
    hit : bool
        Whether the last token came within the task class's deadline.
    reward : float or None
        The grade of a complete answer; 0 for a failure, None for a client's abort.
    """

    index: int
    device: str
    task_class: str
    stream: bool
    sent_s: float
    done_s: float
    end: End
    arm: str = ""
    reason: str = ""
    request_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    text: str = ""
    hit: bool = False
    reward: float | None = None
    error: str = ""

    @property
    def latency_ms(self) -> float:
        """From the sending to the last token."""
        return 1_000.0 * (self.done_s - self.sent_s)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The coordinator's and the provider's figures at one moment.

    Attributes
    ----------
    at_s : float
        Seconds since the start of the drive.
    up : bool
        Whether the coordinator answered; its figures are the last known ones if not.
    """

    at_s: float
    up: bool
    booked_nanos: int = 0
    outstanding_nanos: int = 0
    billed_nanos: int = 0
    sla_share: float = 0.0
    reward_mean: float = 0.0
    forecast_remaining: float = 0.0
    demand_last_slot: int = 0
    slot: int = 0
    devices_connected: int = 0
    window_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Outage:
    """When the coordinator's process was not there, in seconds since the start of the drive."""

    from_s: float
    until_s: float


@dataclass
class Board:
    """Everything observed so far."""

    records: list[Record] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    in_flight: int = 0
    outage: Outage | None = None
    note: str = ""

    @property
    def answered(self) -> list[Record]:
        """Requests with a complete answer."""
        return [record for record in self.records if record.end is End.ANSWERED]

    def answered_during(self, outage: Outage) -> int:
        """Requests that were sent and completely answered while the coordinator was away."""
        return sum(
            outage.from_s <= record.sent_s and record.done_s <= outage.until_s
            for record in self.answered
        )

    def write(self, folder: Path) -> None:
        """Keep every record and sample as JSON lines, for a closer look after the run."""
        for name, rows in (("records", self.records), ("samples", self.samples)):
            lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines)


def reward_mean(records: Iterable[Record]) -> float:
    """The mean reward of those that were graded; 0 if none was."""
    rewards = [record.reward for record in records if record.reward is not None]
    return sum(rewards) / len(rewards) if rewards else 0.0


def hit_share(records: Iterable[Record]) -> float:
    """The share of graded requests that came within their deadline; 1 if there is none."""
    hits = [record.hit for record in records if record.reward is not None]
    return sum(hits) / len(hits) if hits else 1.0
