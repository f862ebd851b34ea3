"""The gate before a paid call: pairs of reserve and settle, durable, at many clients at once."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.adapters.sqlite_books_writer import sync_file
from edge_agent.attempts import AttemptEnd
from edge_agent.books import DropReservation, PutReservation
from edge_agent.candidates import ArmCondition
from edge_agent.engine import AgentEngine
from shared.decision.lease import ReservationRow
from shared.decision.types import RequestStatus, SettleKind
from tests.bench.figures import ROUNDS, Figure
from tests.fakes.samples import (
    WORST_CASE_NANOS,
    cloud_arm,
    device_config,
    facts,
    granted,
    local_arm,
)

PAIRS_PER_S_MIN = 10_000
WAIT_MS_MAX = 0.3
DURABLE_MS_MAX = 50.0
SLOW_SYNC_S = 0.05
REQUESTS = 400


def reserve_and_settle() -> list[Figure]:
    """Committed reserve-and-settle pairs a second at 64 clients; the same over one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        together, alone = uvloop.run(_pairs(Path(folder)))
    ratio = together / alone
    return [
        Figure.at_least(
            "gate, pairs",
            together,
            PAIRS_PER_S_MIN,
            unit="pairs/s",
            against="64 clients on one SQLite file",
            digits=0,
        ),
        Figure("gate, sharing", round(ratio, 2), "x", "one client", ">= 2", ratio >= 2.0),
    ]


def wait_and_durability() -> list[Figure]:
    """What a paid request waits at the gate, on a disk that syncs slowly; how soon it is durable.

    Requests come one at a time, as they do on a device, through the production engine; meanwhile
    its house-keeping syncs watermarks, each sync taking 50 ms.
    """
    with tempfile.TemporaryDirectory() as folder:
        waits_ms, for_sync, syncs = uvloop.run(_waits(Path(folder)))
        durable_ms = uvloop.run(_durable(Path(folder)))
    p50 = statistics.median(waits_ms)
    p95 = statistics.quantiles(durable_ms, n=20)[-1]
    return [
        Figure.at_most(
            "gate, wait p50",
            p50,
            WAIT_MS_MAX,
            unit="ms",
            against=f"{REQUESTS} requests beside {syncs} syncs of {SLOW_SYNC_S * 1000:.0f} ms",
            digits=3,
        ),
        Figure("gate, waits for a sync", for_sync, "", f"{REQUESTS} requests", "0", for_sync == 0),
        Figure.at_most(
            "gate, durable p95",
            p95,
            DURABLE_MS_MAX,
            unit="ms",
            against="from the commit to the disk",
        ),
    ]


async def _waits(folder: Path) -> tuple[list[float], int, int]:
    """Milliseconds from the draw to the committed reservation; how many needed a sync; syncs."""
    syncs = 0

    def slow_sync(fd: int) -> None:
        nonlocal syncs
        syncs += 1
        time.sleep(SLOW_SYNC_S)
        sync_file(fd)

    books = SqliteBooks(folder / "slow.db", sync=slow_sync)
    engine = AgentEngine(
        incarnation="bench",
        boot_id="boot",
        snapshot=books.load(),
        fallback=device_config(cloud_arm(), local_arm()),
        unix_ms=0,
    )
    gate = engine.gate
    await books.commit(engine.recover(), sync=True)
    lent = gate.granted(
        granted(amount=2 * REQUESTS * WORST_CASE_NANOS), incarnation="bench", boot_ms=0
    )
    await books.commit(lent, sync=True)
    gate.synced(lent)
    waits_ms, for_sync, stopped = [], 0, asyncio.Event()

    async def keep_house() -> None:
        while not stopped.is_set():
            raised = gate.raised_watermarks()
            if raised:
                await books.commit(raised, sync=True)
                gate.synced(raised)
            await asyncio.sleep(0.02)

    house = asyncio.create_task(keep_house())
    for number in range(REQUESTS):
        wanted = facts(f"r{number}", pinned_arm="cloud")
        engine.begin(wanted, conditions={"cloud": ArmCondition()}, now_ms=0.0, uniform=0.5)
        begun = time.perf_counter()
        plan, effects = engine.next_attempt(wanted.request_id, boot_ms=0)
        if plan is None:
            for_sync += 1
            await asyncio.sleep(SLOW_SYNC_S)
            engine.finish(
                wanted.request_id, status=RequestStatus.REFUSED, end=None, ttft_ms=0, latency_ms=0
            )
            continue
        await books.commit(effects)
        waits_ms.append(1000 * (time.perf_counter() - begun))
        end = AttemptEnd(1, SettleKind.REPORTED, prompt_tokens=10, completion_tokens=10)
        _, settled = engine.finish(
            wanted.request_id, status=RequestStatus.OK, end=end, ttft_ms=1, latency_ms=1
        )
        await books.commit(settled)
        await asyncio.sleep(0.005)
    stopped.set()
    await house
    await books.close()
    return waits_ms, for_sync, syncs


async def _durable(folder: Path) -> list[float]:
    """Milliseconds until a commit is on the disk, on this machine's."""
    books = SqliteBooks(folder / "books.db")
    took_ms = []
    for number in range(200):
        row = ReservationRow(f"d{number}", "req", "arm", 1, 10, "other", 0)
        begun = time.perf_counter()
        await books.commit([PutReservation(row)], sync=True)
        took_ms.append(1000 * (time.perf_counter() - begun))
    await books.close()
    return took_ms


async def _pairs(folder: Path) -> tuple[float, float]:
    """Pairs a second: at 64 clients, and at one."""
    books = SqliteBooks(folder / "books.db")

    async def pair(number: int) -> None:
        row = ReservationRow(f"r{number}", "req", "arm", 1, 10, "other", 0)
        await books.commit([PutReservation(row)])
        await books.commit([DropReservation(row.id)])

    async def client(start: int, pairs: int) -> None:
        for number in range(start, start + pairs):
            await pair(number)

    try:
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            await asyncio.gather(*(client(index * 100, 50) for index in range(64)))
            rates[0].append(64 * 50 / (time.perf_counter() - begun))
            begun = time.perf_counter()
            await client(0, 400)
            rates[1].append(400 / (time.perf_counter() - begun))
    finally:
        await books.close()
    return statistics.median(rates[0]), statistics.median(rates[1])
