"""Minutes of moderate load on a real agent: its memory and its descriptors stay as they are.

A fleet of one agent, with a local model and a paid provider. Each client goes through what
clients do: streamed and whole answers of both arms, JSON of a schema, grades, and going away in
the middle. The second tenth of the time is compared with the last one; before it caches and pools
fill up.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import psutil

from tests.bench.figures import Figure
from tests.bench.paying import paying_fleet
from tests.e2e.fleet import Agent, chat_body, wait_for

SOAK_S: Final = 600.0
CLIENTS: Final = 4
PAUSE_S: Final = 0.2
SAMPLE_S: Final = 0.5
GROWTH_MAX: Final = 1.03
DESCRIPTORS_MAX: Final = 0

SCHEMA: Final = {
    "type": "json_schema",
    "json_schema": {"name": "size", "schema": {"enum": ["small", "large"]}},
}


@dataclass
class Sampled:
    """What a process took, twice a second.

    Attributes
    ----------
    soak_s : float
        How long it is watched.
    at_s : list of float
        Since the beginning.
    """

    process: psutil.Process
    soak_s: float
    at_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, at_s: float) -> None:
        """Look once."""
        self.at_s.append(at_s)
        self.memory_bytes.append(self.process.memory_info().rss)
        self.descriptors.append(self.process.num_fds())

    def tenth(self, values: list[int], number: int) -> list[int]:
        """The values of one tenth of the time, counted from 0."""
        begin_s, end_s = number * self.soak_s / 10, (number + 1) * self.soak_s / 10
        return [
            value for at_s, value in zip(self.at_s, values, strict=True) if begin_s <= at_s < end_s
        ]

    @property
    def growth(self) -> float:
        """Memory in the last tenth over that in the second one, medians."""
        second, last = (self.tenth(self.memory_bytes, number) for number in (1, 9))
        return statistics.median(last) / statistics.median(second)

    @property
    def leaked(self) -> float:
        """Descriptors that the last tenth has more than the second one, medians."""
        second, last = (self.tenth(self.descriptors, number) for number in (1, 9))
        return statistics.median(last) - statistics.median(second)


@dataclass
class Tally:
    """How the requests ended."""

    answered: int = 0
    left: int = 0
    failed: list[str] = field(default_factory=list)


def soak(soak_s: float = SOAK_S) -> list[Figure]:
    """Growth of the agent's and the worker's memory, descriptors left open, and failures."""
    with paying_fleet(budget_usd="1000") as fleet:
        agent = fleet.start_agent("soaked", device_class="edge")
        wait_for(agent.may_spend, what="the first lease")
        asyncio.run(_client(agent, 0, Tally(), rounds=1))
        (worker,) = agent.workers()
        sampled = {
            name: Sampled(psutil.Process(pid), soak_s)
            for name, pid in (("agent", agent.child.pid), ("worker", worker))
        }
        tally = asyncio.run(_soak(agent, sampled, soak_s=soak_s))
        if agent.workers() != [worker]:
            tally.failed.append("the worker was started again")
    return _figures(sampled, tally, soak_s=soak_s)


def _figures(sampled: Mapping[str, Sampled], tally: Tally, *, soak_s: float) -> list[Figure]:
    against = f"the second tenth of {soak_s / 60:g} minutes, {tally.answered:,} answers"
    figures = [
        Figure.at_most(
            f"soak, memory of the {name}",
            each.growth,
            GROWTH_MAX,
            unit="x",
            against=f"{against} ({statistics.median(each.memory_bytes) / 2**20:.0f} MiB)",
            digits=3,
        )
        for name, each in sampled.items()
    ]
    leaked = sum(each.leaked for each in sampled.values())
    figures.append(
        Figure.at_most(
            "soak, descriptors",
            leaked,
            DESCRIPTORS_MAX,
            unit="more open",
            against=against,
            digits=0,
        )
    )
    figures.append(
        Figure(
            name="soak, failures",
            figure=len(tally.failed),
            unit="requests",
            against=f"{tally.answered:,} answered, {tally.left:,} left in the middle"
            + (f"; the first: {tally.failed[0]}" if tally.failed else ""),
            target="0",
            holds=not tally.failed,
        )
    )
    return figures


async def _soak(agent: Agent, sampled: Mapping[str, Sampled], *, soak_s: float) -> Tally:
    tally = Tally()
    clients = [asyncio.create_task(_client(agent, number, tally)) for number in range(CLIENTS)]
    begun = time.monotonic()
    while (at_s := time.monotonic() - begun) < soak_s:
        for each in sampled.values():
            each.sample(at_s)
        await asyncio.sleep(SAMPLE_S)
    for client in clients:
        client.cancel()
    for result in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    return tally


async def _client(agent: Agent, number: int, tally: Tally, *, rounds: int | None = None) -> None:
    """One client, until it is stopped or has been through everything so many times."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60.0)) as session:
        for turn in itertools.count() if rounds is None else range(rounds):
            text = f"soak {number} {turn}"
            local, cloud = chat_body(text, model="tiny"), chat_body(text, model="cloud")
            await _ask(session, agent, {**local, "max_tokens": 16}, tally)
            await _ask(session, agent, {**local, "stream": True}, tally)
            await _ask(session, agent, {**local, "response_format": SCHEMA}, tally)
            await _ask(session, agent, cloud, tally)
            await _ask(session, agent, {**cloud, "stream": True}, tally)
            await _leave(session, agent, {**local, "stream": True, "max_tokens": 200}, tally)
            await _leave(
                session, agent, {**chat_body(f"!slow {text}", model="cloud"), "stream": True}, tally
            )


async def _ask(
    session: aiohttp.ClientSession, agent: Agent, body: Mapping[str, Any], tally: Tally
) -> None:
    """Ask, read the answer to its end, and grade it."""
    async with session.post(f"{agent.url}/v1/chat/completions", json=body) as reply:
        answer = await reply.read()
    if reply.status != 200 or b'"error"' in answer:
        tally.failed.append(f"{reply.status} {answer[:200].decode(errors='replace')}")
        return
    tally.answered += 1
    grade = {"request_id": reply.headers["x-tidegate-request-id"], "score": 0.5}
    async with session.post(f"{agent.url}/v1/feedback", json=grade) as graded:
        if graded.status != 200:
            tally.failed.append(f"feedback: {graded.status} {(await graded.text())[:200]}")
    await asyncio.sleep(PAUSE_S)


async def _leave(
    session: aiohttp.ClientSession, agent: Agent, body: Mapping[str, Any], tally: Tally
) -> None:
    """Ask, and go away after the first piece of the answer."""
    async with session.post(f"{agent.url}/v1/chat/completions", json=body) as reply:
        if reply.status != 200:
            tally.failed.append(f"{reply.status} {(await reply.text())[:200]}")
            return
        await reply.content.readany()
        reply.close()
    tally.left += 1
    await asyncio.sleep(PAUSE_S)
