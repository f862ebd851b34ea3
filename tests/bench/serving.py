"""Local models: speed beside llama-cpp-python's own ways to serve one, in the same run.

The model has random weights (`random_model`): speed depends on shape and quantisation alone. Both
sides get the same file, threads, context and sampling; the rounds alternate between them. What is
compared over HTTP goes through a whole agent process, its engine, books and spool included.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from llama_cpp import Llama

from edge_agent.adapters.llama_cpp.supervisor import LlamaWorker
from edge_agent.ports import ChatCall, Finished, LocalModel
from shared.clock import SystemClock
from shared.decision.types import Arm, ArmKind
from tests.bench.endpoints import (
    ARM,
    CONTEXT_TOKENS,
    THREADS,
    Endpoint,
    Streamed,
    agent,
    llama_server,
    stream,
    text_of,
    user,
)
from tests.bench.figures import ROUNDS, Figure
from tests.bench.random_model import random_model

ALONE_TOKENS: Final = 128
STREAMS: Final = 8
STREAM_TOKENS: Final = 96
SHORT_TOKENS: Final = 20
LONG_TOKENS: Final = 1_500
HISTORY_TOKENS: Final = 1_000
TTFT_TOKENS: Final = 4
TIMEOUT_S: Final = 600.0

ALONE_MIN: Final = 0.95
TOGETHER_MIN: Final = 3.0
BESIDE_MAX: Final = 0.2
SECOND_TURN_MAX: Final = 0.15

SAMPLING: Final[dict[str, Any]] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "repeat_penalty": 1.0,
}


def one_stream() -> Figure:
    """Tokens a second of one answer through the port, over `create_completion` in process."""
    ours, theirs = asyncio.run(_alone(random_model()))
    ratio = ours / theirs
    return Figure.at_least(
        "serving, one stream",
        ratio,
        ALONE_MIN,
        unit="x tokens/s",
        against=f"Llama.create_completion in process ({theirs:.0f} tokens/s, {THREADS} threads)",
    )


async def _alone(path: Path) -> tuple[float, float]:
    llama = Llama(
        str(path),
        n_ctx=CONTEXT_TOKENS,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        verbose=False,
    )
    model = LocalModel(ARM, str(path), context_tokens=CONTEXT_TOKENS, threads=THREADS)
    worker = LlamaWorker(models=[model], clock=SystemClock())
    rng = random.Random(1)
    ours: list[float] = []
    theirs: list[float] = []
    await worker.start()
    try:
        await _through_port(worker, "warm up", max_tokens=2)
        llama.create_completion("warm up", max_tokens=2)
        for _ in range(ROUNDS):
            prompt = text_of(SHORT_TOKENS, rng)
            ours.append(await _through_port(worker, prompt, max_tokens=ALONE_TOKENS))
            begun = time.perf_counter()
            done = llama.create_completion(prompt, max_tokens=ALONE_TOKENS, **SAMPLING)
            tokens = done["usage"]["completion_tokens"]  # type: ignore[index]  # not a stream
            theirs.append(tokens / (time.perf_counter() - begun))
    finally:
        await worker.stop()
        llama.close()
    return statistics.median(ours), statistics.median(theirs)


async def _through_port(worker: LlamaWorker, prompt: str, *, max_tokens: int) -> float:
    """Tokens a second of one streamed answer."""
    arm = Arm(ARM, ArmKind.LOCAL, ARM, CONTEXT_TOKENS, max_tokens)
    body = {"prompt": prompt, "max_tokens": max_tokens, **SAMPLING}
    begun = time.perf_counter()
    async for event in worker.chat(ChatCall("bench", arm, body, stream=True)):
        if isinstance(event, Finished) and event.usage is not None:
            return event.usage.completion_tokens / (time.perf_counter() - begun)
    raise RuntimeError("the answer ended without its usage")


def many_streams() -> Figure:
    """Tokens a second of eight answers together, over `llama_cpp.server`'s."""
    ours, theirs = _side_by_side(_together)
    ratio = ours / theirs
    return Figure.at_least(
        f"serving, {STREAMS} streams",
        ratio,
        TOGETHER_MIN,
        unit="x tokens/s",
        against=f"llama_cpp.server ({theirs:.0f} tokens/s in total, {THREADS} threads)",
    )


async def _together(
    session: aiohttp.ClientSession, endpoint: Endpoint, rng: random.Random
) -> float:
    begun = time.perf_counter()
    answers = await asyncio.gather(
        *(
            stream(session, endpoint, [user(text)], max_tokens=STREAM_TOKENS)
            for text in [text_of(SHORT_TOKENS, rng) for _ in range(STREAMS)]
        )
    )
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - begun)


def beside_a_long_prompt() -> Figure:
    """Time to first token of a short prompt that comes while a long one is read."""
    ours, theirs = _side_by_side(_short_beside_long)
    ratio = ours / theirs
    return Figure.at_most(
        f"serving, beside {LONG_TOKENS:,} tokens",
        ratio,
        BESIDE_MAX,
        unit="x time to first token",
        against=f"llama_cpp.server ({theirs * 1e3:.0f} ms; ours {ours * 1e3:.0f} ms)",
        digits=3,
    )


async def _short_beside_long(
    session: aiohttp.ClientSession, endpoint: Endpoint, rng: random.Random
) -> float:
    long = [user(text_of(LONG_TOKENS, rng))]
    # One token: what the server would still write of it is no part of the comparison.
    reading = asyncio.create_task(stream(session, endpoint, long, max_tokens=1))
    await asyncio.sleep(0.1)  # it has arrived, and most of it is yet to be read
    short: Streamed = await stream(
        session, endpoint, [user(text_of(SHORT_TOKENS, rng))], max_tokens=TTFT_TOKENS
    )
    await reading
    return short.ttft_s


def second_turn() -> Figure:
    """Time to first token of a chat's second turn, over the first one's."""
    with _agent() as endpoint:
        ratio, first_s, second_s = asyncio.run(_two_turns(endpoint))
    return Figure.at_most(
        "serving, second turn",
        ratio,
        SECOND_TURN_MAX,
        unit="x time to first token",
        against=f"the first turn, {HISTORY_TOKENS:,} tokens ({first_s * 1e3:.0f} ms; "
        f"second {second_s * 1e3:.0f} ms)",
        digits=3,
    )


async def _two_turns(endpoint: Endpoint) -> tuple[float, float, float]:
    rng = random.Random(1)
    firsts, seconds = [], []
    async with _session() as session:
        for _ in range(ROUNDS):
            chat = [user(text_of(HISTORY_TOKENS, rng))]
            first = await stream(session, endpoint, chat, max_tokens=SHORT_TOKENS)
            chat += [{"role": "assistant", "content": first.text}, user(text_of(SHORT_TOKENS, rng))]
            second = await stream(session, endpoint, chat, max_tokens=TTFT_TOKENS)
            firsts.append(first.ttft_s)
            seconds.append(second.ttft_s)
    first_s, second_s = statistics.median(firsts), statistics.median(seconds)
    return second_s / first_s, first_s, second_s


Round = Callable[[aiohttp.ClientSession, Endpoint, random.Random], Awaitable[float]]


def _side_by_side(measure: Round) -> tuple[float, float]:
    """The medians of both sides, which take turns with the same prompts."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _agent() as ours,
        llama_server(Path(folder), random_model()) as theirs,
    ):
        return asyncio.run(_rounds(measure, ours, theirs))


async def _rounds(measure: Round, ours: Endpoint, theirs: Endpoint) -> tuple[float, float]:
    found: dict[str, list[float]] = {ours.name: [], theirs.name: []}
    async with _session() as session:
        for number in range(ROUNDS):
            for endpoint in (ours, theirs):
                figure = await measure(session, endpoint, random.Random(number))
                found[endpoint.name].append(figure)
    return statistics.median(found[ours.name]), statistics.median(found[theirs.name])


@contextmanager
def _agent() -> Iterator[Endpoint]:
    with (
        tempfile.TemporaryDirectory() as folder,
        agent(Path(folder), random_model(), sequences=STREAMS) as endpoint,
    ):
        yield endpoint


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
