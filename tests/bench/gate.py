"""The gate before a paid call: pairs of reserve and settle, durable, at many clients at once."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.books import DropReservation, PutReservation
from shared.decision.lease import ReservationRow
from tests.bench.figures import ROUNDS, Figure

PAIRS_PER_S_MIN = 10_000


def reserve_and_settle() -> list[Figure]:
    """Committed reserve-and-settle pairs a second at 64 clients; the same over one at a time."""
    with tempfile.TemporaryDirectory() as folder:
        together, alone = asyncio.run(_pairs(Path(folder)))
    ratio = together / alone
    return [
        Figure(
            name="gate, pairs",
            figure=round(together),
            unit="pairs/s",
            against="64 clients on one SQLite file",
            target=f">= {PAIRS_PER_S_MIN:,}",
            holds=together >= PAIRS_PER_S_MIN,
        ),
        Figure("gate, sharing", round(ratio, 2), "x", "one client", ">= 2", ratio >= 2.0),
    ]


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
