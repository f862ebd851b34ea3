"""The stream of requests: drawn from a seed before the run, so that it can be replayed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.demo.models.tasks import Task, generate_split
from deploy.demo.settings import DEVICES, DemoSettings

BURSTS = ((0.18, 0.05, 0.9), (0.55, 0.04, 1.1), (0.83, 0.05, 0.8))
"""Start and length as shares of the drive, and what each burst adds to the base rate."""

WAVE = 0.35
WAVES = 2.0
RAMP = 0.3


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One request of the stream.

    Attributes
    ----------
    at_s : float
        When it is sent, from the start of the drive.
    stream : bool
        Whether the client asks for server-sent events.
    abort : bool
        Whether the client goes away after the first chunk.
    """

    index: int
    at_s: float
    device: str
    task_class: str
    prompt: str
    answer: str
    stream: bool
    abort: bool

    @property
    def task(self) -> Task:
        """The task that the request asks."""
        return Task(self.task_class, self.prompt, self.answer)


def demand_rate(at_s: float, *, drive_s: float, mean_per_s: float) -> float:
    """Requests per second at a time of the drive: waves on a ramp, with bursts.

    Parameters
    ----------
    at_s : float
        Time since the start of the drive.
    drive_s : float
        Length of the drive.
    mean_per_s : float
        What the rate comes to on average over the drive.
    """
    burst_mean = sum(length * height for _, length, height in BURSTS)
    share = at_s / drive_s
    wave = WAVE * math.sin(2.0 * math.pi * WAVES * share)
    ramp = RAMP * (share - 0.5)
    burst = sum(height for start, length, height in BURSTS if start <= share < start + length)
    return mean_per_s * (1.0 + wave + ramp + burst) / (1.0 + burst_mean)


def draw_stream(settings: DemoSettings) -> list[Planned]:
    """Draw the whole stream: Poisson arrivals, a task mix of its own for each device.

    Every prompt is held out from the models' training and occurs once.
    """
    rng = random.Random(f"{settings.seed}/stream")
    ceiling = settings.requests_per_s * (1.0 + WAVE + RAMP + max(burst[2] for burst in BURSTS))
    planned: list[Planned] = []
    seen: set[str] = set()
    at_s = 0.0
    while True:
        at_s += rng.expovariate(ceiling)
        if at_s >= settings.drive_s:
            return planned
        rate = demand_rate(at_s, drive_s=settings.drive_s, mean_per_s=settings.requests_per_s)
        if rng.random() * ceiling < rate:
            planned.append(_draw(len(planned), at_s, settings, rng, seen))


def _draw(
    index: int, at_s: float, settings: DemoSettings, rng: random.Random, seen: set[str]
) -> Planned:
    names = list(DEVICES)
    device = rng.choices(names, [DEVICES[name].demand_share for name in names])[0]
    mix = DEVICES[device].mix
    task_class = rng.choices(list(mix), list(mix.values()))[0]
    task = generate_split(task_class, rng, evaluation=True)
    while task.prompt in seen:
        task = generate_split(task_class, rng, evaluation=True)
    seen.add(task.prompt)
    abort = rng.random() < settings.abort_share
    return Planned(
        index=index,
        at_s=at_s,
        device=device,
        task_class=task_class,
        prompt=task.prompt,
        answer=task.answer,
        stream=abort or rng.random() < settings.stream_share,
        abort=abort,
    )


def write_stream(path: Path, stream: Iterable[Planned]) -> None:
    """Write a stream as JSON lines."""
    path.write_text("".join(json.dumps(asdict(item)) + "\n" for item in stream))


def read_stream(path: Path) -> Sequence[Planned]:
    """Read what `write_stream` wrote."""
    return [Planned(**json.loads(line)) for line in path.read_text().splitlines()]
