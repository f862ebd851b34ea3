"""One model before the production worker: prompts read, answers written, watts drawn."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Final

from edge_agent.ports import ArmFailed, ChatCall, Chunk, DeviceSensors, Finished, LocalModels
from shared.clock import Clock
from shared.decision.types import Arm, ArmKind, ArmSpeed

PROMPT_RUNS: Final = 3
BATCH_RUNS_MAX: Final = 10
SENSOR_S: Final = 0.5
PROBE_WORDS: Final = 8
ANSWER_TOKENS_MIN: Final = 8
_WORDS: Final = (
    *("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour", "island"),
    *("jacket", "kettle", "ladder", "meadow", "needle", "orchard", "pencil", "quarry", "river"),
    *("saddle", "tunnel", "umbrella", "valley", "window", "yellow", "zebra"),
)


@dataclass(frozen=True)
class BatchSpeed:
    """Answers side by side: tokens of all of them together, and what the board drew meanwhile."""

    sequences: int
    tokens_per_s: float
    power_watts: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured of one arm.

    Attributes
    ----------
    load_ms : float
        From the call to the first token, less what a second call took.
    prompt_tokens : int
        Of the prompts whose reading was timed.
    batches : tuple of BatchSpeed
        By rising number of sequences; the first one is a single sequence.
    """

    arm: str
    load_ms: float
    prompt_tokens: int
    prompt_tokens_per_s: float
    batches: tuple[BatchSpeed, ...]

    @property
    def speed(self) -> ArmSpeed:
        """What the coordinator is told."""
        return ArmSpeed(self.arm, self.prompt_tokens_per_s, self.batches[0].tokens_per_s)


@dataclass
class _Answer:
    """One answer: when its tokens came, in milliseconds, and what it counted."""

    asked_ms: float
    token_ms: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def ttft_ms(self) -> float:
        return self.token_ms[0] - self.asked_ms


class _Bench:
    """Asks one arm."""

    def __init__(self, models: LocalModels, *, arm: str, clock: Clock) -> None:
        self._models = models
        self._clock = clock
        self._arm = Arm(
            id=arm, kind=ArmKind.LOCAL, model=arm, context_tokens_max=0, max_tokens_default=1
        )
        self._asked = 0

    async def ask(self, *, words: int, tokens: int) -> _Answer:
        """One streamed answer to a prompt that no other one begins like."""
        self._asked += 1
        rng = random.Random(self._asked)
        prompt = " ".join([str(self._asked), *rng.choices(_WORDS, k=words)])
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 1.0,
            "seed": self._asked,
        }
        answer = _Answer(self._clock.monotonic_ms())
        call = ChatCall(f"bench-{self._asked}", self._arm, body, stream=True)
        async for event in self._models.chat(call):
            if isinstance(event, Chunk) and not event.data["choices"][0]["finish_reason"]:
                answer.token_ms.append(self._clock.monotonic_ms())
            elif isinstance(event, Finished) and event.usage is not None:
                answer.prompt_tokens = event.usage.prompt_tokens
                answer.completion_tokens = event.usage.completion_tokens
        if not answer.token_ms:
            raise ArmFailed("no_answer", f"the model of arm {self._arm.id} said nothing")
        return answer


async def measure(
    models: LocalModels,
    *,
    arm: str,
    sequences: Sequence[int],
    prompt_tokens: int,
    answer_tokens: int,
    clock: Clock,
    sensors: DeviceSensors,
    told: Callable[[str], None],
) -> Measured:
    """Measure one arm.

    Parameters
    ----------
    models : LocalModels
        Started, and with nothing else to do.
    sequences : sequence of int
        How many answers at once, rising, from 1.
    prompt_tokens, answer_tokens : int
        What to aim at; a model's own idea of a token decides.
    told : callable
        Is given a line about what happens next.

    Raises
    ------
    ArmFailed
        When the model cannot be loaded or does not answer.
    """
    bench = _Bench(models, arm=arm, clock=clock)
    told(f"{arm}: loading")
    first = await bench.ask(words=PROBE_WORDS, tokens=1)
    second = await bench.ask(words=PROBE_WORDS, tokens=1)
    third = await bench.ask(words=3 * PROBE_WORDS, tokens=1)
    tokens_per_word = (third.prompt_tokens - second.prompt_tokens) / (2 * PROBE_WORDS)
    words = round((prompt_tokens - second.prompt_tokens) / max(tokens_per_word, 0.1))
    told(f"{arm}: reading prompts")
    prompts = [
        await bench.ask(words=max(PROBE_WORDS, PROBE_WORDS + words), tokens=1)
        for _ in range(PROMPT_RUNS)
    ]
    batches = []
    for count in sequences:
        told(f"{arm}: writing {count} answer{'s' if count > 1 else ''} at once")
        async with _watts(sensors) as watts:
            rate = await _generation(bench, sequences=count, tokens=answer_tokens)
        batches.append(BatchSpeed(count, rate, mean(watts) if watts else None))
    return Measured(
        arm=arm,
        load_ms=max(0.0, first.ttft_ms - second.ttft_ms),
        prompt_tokens=round(median(p.prompt_tokens for p in prompts)),
        prompt_tokens_per_s=median(1e3 * p.prompt_tokens / max(p.ttft_ms, 1e-3) for p in prompts),
        batches=tuple(batches),
    )


async def _generation(bench: _Bench, *, sequences: int, tokens: int) -> float:
    """Tokens per second of some answers at once.

    Counted is the time in which all of them are being written: a model may end one early.
    """
    counted, seconds, runs = 0, 0.0, 0
    while counted < 2 * tokens * sequences and runs < BATCH_RUNS_MAX:
        runs += 1
        answers = await asyncio.gather(
            *(bench.ask(words=PROBE_WORDS, tokens=tokens) for _ in range(sequences))
        )
        begin = max(answer.token_ms[0] for answer in answers)
        end = min(answer.token_ms[-1] for answer in answers)
        if end <= begin:
            continue
        seconds += (end - begin) / 1e3
        counted += sum(begin < at <= end for answer in answers for at in answer.token_ms)
    if counted < ANSWER_TOKENS_MIN:
        raise ArmFailed(
            "too_short",
            f"the model ends its answers after {counted} tokens: too few to measure {sequences} "
            "at once",
        )
    return counted / seconds


@contextlib.asynccontextmanager
async def _watts(sensors: DeviceSensors) -> AsyncIterator[list[float]]:
    """What the board draws from time to time; empty where it does not tell."""
    found: list[float] = []

    async def read() -> None:
        while True:
            await asyncio.sleep(SENSOR_S)
            state = await asyncio.to_thread(sensors.read)
            if state.power_watts:
                found.append(state.power_watts)

    reading = asyncio.create_task(read())
    try:
        yield found
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
