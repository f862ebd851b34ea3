"""One model before the production worker: prompts read, answers written, watts drawn."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final, NamedTuple

from edge_agent.ports import (
    ArmFailed,
    ChatCall,
    DeviceSensors,
    EmbedCall,
    Finished,
    LocalModels,
    Timing,
    Usage,
)
from shared.decision.types import Arm, ArmKind

PROMPT_RUNS: Final = 3
BATCH_RUNS_MAX: Final = 10
SENSOR_S: Final = 0.5
PROBE_WORDS: Final = 8
ANSWER_TOKENS_MIN: Final = 8
EMBEDDINGS: Final = "embeddings"
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
        What the first call took longer than the second one.
    prompt_tokens : int
        Of the prompts whose reading was timed.
    batches : tuple of BatchSpeed
        By rising number of sequences, from one; none for a model that makes embeddings.
    """

    arm: str
    load_ms: float
    prompt_tokens: int
    prompt_tokens_per_s: float
    batches: tuple[BatchSpeed, ...]


class _Bench:
    """Asks one arm."""

    def __init__(self, models: LocalModels, *, arm: str) -> None:
        self._models = models
        self._arm = Arm(
            id=arm, kind=ArmKind.LOCAL, model=arm, context_tokens_max=0, max_tokens_default=1
        )
        self._asked = 0

    async def ask(self, *, words: int, tokens: int) -> _Answer:
        """One answer to a prompt that no other one begins like."""
        prompt, name = self._prompt(words), f"bench-{self._asked}"
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "temperature": 1.0,
            "seed": self._asked,
        }
        async for event in self._models.chat(ChatCall(name, self._arm, body, stream=False)):
            if isinstance(event, Finished) and event.usage and event.timing:
                return _Answer(event.usage, event.timing)
        raise ArmFailed(
            "no_answer", f"the model of arm {self._arm.id} did not say how long it took"
        )

    async def embed(self, *, words: int) -> _Answer:
        """One vector."""
        prompt, name = self._prompt(words), f"bench-{self._asked}"
        found = await self._models.embed(EmbedCall(name, self._arm, (prompt,)))
        if found.timing is None or found.usage is None:
            raise ArmFailed("no_answer", f"arm {self._arm.id} did not say how long it took")
        return _Answer(found.usage, found.timing)

    def _prompt(self, words: int) -> str:
        self._asked += 1
        rng = random.Random(self._asked)
        return " ".join([str(self._asked), *rng.choices(_WORDS, k=words)])


class _Answer(NamedTuple):
    """What an answer counted, and how long it took where it was made."""

    usage: Usage
    timing: Timing

    @property
    def writing_ms(self) -> float:
        """From the first token to the last."""
        return self.timing.run_ms - self.timing.ttft_ms

    @property
    def tokens_per_s(self) -> float:
        """How fast it was written."""
        return 1e3 * (self.usage.completion_tokens - 1) / max(self.writing_ms, 1e-3)


async def measure(
    models: LocalModels,
    *,
    arm: str,
    sequences: Sequence[int],
    prompt_tokens: int,
    answer_tokens: int,
    sensors: DeviceSensors,
    told: Callable[[str], None],
) -> Measured:
    """Measure one arm.

    Parameters
    ----------
    models : LocalModels
        Started, and with nothing else to do.
    sequences : sequence of int
        How many answers at once, rising, from 1; a model that makes embeddings writes none.
    prompt_tokens, answer_tokens : int
        What to aim at; a model's own idea of a token decides.
    told : callable
        Is given a line about what happens next.

    Raises
    ------
    ArmFailed
        When the model cannot be loaded or does not answer.
    """
    bench = _Bench(models, arm=arm)
    embeds = any(s.arm == arm and EMBEDDINGS in s.capabilities for s in models.status())

    async def read(words: int) -> _Answer:
        return await (bench.embed(words=words) if embeds else bench.ask(words=words, tokens=1))

    told(f"{arm}: loading")
    first, second, third = [
        await read(words) for words in (PROBE_WORDS, PROBE_WORDS, 3 * PROBE_WORDS)
    ]
    per_word = (third.usage.prompt_tokens - second.usage.prompt_tokens) / (2 * PROBE_WORDS)
    words = round((prompt_tokens - second.usage.prompt_tokens) / max(per_word, 0.1))
    told(f"{arm}: reading prompts")
    prompts = [await read(max(PROBE_WORDS, PROBE_WORDS + words)) for _ in range(PROMPT_RUNS)]
    batches = []
    for count in () if embeds else sequences:
        told(f"{arm}: writing {count} answer{'s' if count > 1 else ''} at once")
        async with _watts(sensors) as watts:
            rate = await _generation(bench, sequences=count, tokens=answer_tokens)
        batches.append(BatchSpeed(count, rate, mean(watts) if watts else None))
    return Measured(
        arm=arm,
        load_ms=max(0.0, first.timing.ttft_ms - second.timing.ttft_ms),
        prompt_tokens=round(median(each.usage.prompt_tokens for each in prompts)),
        prompt_tokens_per_s=median(
            1e3 * each.usage.prompt_tokens / max(each.timing.ttft_ms, 1e-3) for each in prompts
        ),
        batches=tuple(batches),
    )


async def _generation(bench: _Bench, *, sequences: int, tokens: int) -> float:
    """Tokens per second of some answers at once: the sum of how fast each was written."""
    rates, written = [], 0
    for _ in range(BATCH_RUNS_MAX):
        asked = (bench.ask(words=PROBE_WORDS, tokens=tokens) for _ in range(sequences))
        answers = await asyncio.gather(*asked)
        lengths = [each.usage.completion_tokens - 1 for each in answers]
        written += sum(lengths)
        if min(lengths) > 0:  # else one ended at once, and the others had more room
            rates.append(sum(each.tokens_per_s for each in answers))
        if rates and written >= tokens * sequences // 2:
            break
    if not rates or written < ANSWER_TOKENS_MIN:
        raise ArmFailed(
            "too_short",
            f"the model ends its answers after {written} tokens: too few to measure {sequences} "
            "at once",
        )
    return median(rates)


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
