"""How fast the coordinator books on SQLite: large batches of one device, small ones of many."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import uvloop

from coordinator.adapters.sql_store import SqlStore
from coordinator.engine import CoordinatorEngine
from coordinator.messages import HelloReceived, Welcomed
from coordinator.outbox import Outbox
from coordinator.records import DeviceRow, StoreSnapshot
from coordinator.service import CoordinatorService
from coordinator.sessions import Reaction
from shared import wire
from shared.clock import SystemClock, SystemIds
from shared.decision.lease import LeaseWish
from shared.decision.types import (
    Attempt,
    Candidate,
    IncarnationRange,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolRecord,
)
from shared.garbage import collect_seldom
from shared.limits import BATCH_RECORDS_MAX
from shared.pb.v1 import fleet_pb2
from tests.bench.figures import Figure
from tests.fakes.samples import fleet_toml

BATCHES = 60
ROUNDS = 5
NOW_MS = 360_000_000
COST_NANOS = 1_000
TABLES = ("outcome", "outcome_run", "ledger")  # all but a handful of rows a batch
DEVICES = 64
SMALL_BATCHES = 40
SMALL_BATCH = 8
CANDIDATES = (Candidate("tiny", 500_000), Candidate("cloud", 500_000))


def ingestion() -> list[Figure]:
    """Outcomes a second, alone and beside a bare `executemany` of the same rows."""
    collect_seldom()  # as the coordinator does
    rates, bare_rates, shares = [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            ours = _book_all(Path(folder) / "books.db")
            bare = _insert_all(Path(folder) / "books.db", into=Path(folder) / "bare.db")
        rates.append(ours)
        bare_rates.append(bare)
        shares.append(ours / bare)
    rate, share = statistics.median(rates), statistics.median(shares)
    bare_rate = statistics.median(bare_rates)
    return [
        Figure.at_least(
            "ingestion",
            rate,
            45_000,
            unit="outcomes/s",
            against="serialised batch to commit, on SQLite; half of them paid",
            digits=0,
        ),
        Figure.at_least(
            "ingestion share",
            share,
            0.3,
            unit="of the bare rate",
            against=f"executemany of the same rows, driver alone: {bare_rate:,.0f}/s here",
            digits=3,
        ),
    ]


def sharing() -> list[Figure]:
    """Outcomes a second of many devices that send small batches at once, over those of one."""
    collect_seldom()
    ratios = []
    for _ in range(ROUNDS):
        together, alone = uvloop.run(_book_small(DEVICES)), uvloop.run(_book_small(1))
        ratios.append(together / alone)
    ratio = statistics.median(ratios)
    against = f"{DEVICES} devices with {SMALL_BATCH} outcomes at a time, over one alone"
    return [Figure.at_least("ingestion, sharing", ratio, 2.0, unit="x", against=against)]


def _batches() -> list[bytes]:
    """Serialised batches of one device; every other outcome has a paid attempt."""
    batches, sequence = [], 0
    for _ in range(BATCHES):
        records = []
        for _ in range(BATCH_RECORDS_MAX):
            sequence += 1
            records.append(SpoolRecord(sequence, "inc", _outcome(sequence)))
        message = fleet_pb2.DeviceMessage(batch=wire.batch_to_pb(records))
        batches.append(message.SerializeToString())
    return batches


def _outcome(number: int) -> Outcome:
    paid = number % 2 == 0
    attempt = (
        Attempt("cloud", 90, "", 1, 2 * COST_NANOS, COST_NANOS, SettleKind.REPORTED)
        if paid
        else Attempt("tiny", 40)
    )
    return Outcome(
        request_id=f"req-{number:016x}",
        task_class="other",
        arrived_unix_ms=NOW_MS - 500,
        status=RequestStatus.OK,
        arm=attempt.arm,
        drawn_arm=attempt.arm,
        propensity_ppm=500_000,
        table_version=3,
        reason="table",
        forced=False,
        attempts=(attempt,),
        prompt_tokens=120,
        completion_tokens=40,
        ttft_ms=30,
        latency_ms=attempt.latency_ms,
        deadline_ms=1_000,
        hit=True,
        candidates=CANDIDATES,
    )


def _book_all(path: Path) -> float:
    """Outcomes a second through decoding, engine and store."""
    batches = _batches()
    store = SqlStore(f"sqlite:///{path}")
    store.open()
    engine = CoordinatorEngine(StoreSnapshot())

    def do(reaction: Reaction) -> None:
        store.commit(reaction.effects)

    do(Reaction([engine.registry.put(DeviceRow("d1", "pi", "edge", "x", 0))]))
    do(
        engine.apply_config(
            fleet_toml(window="1h", usd="100"), actor="op", unix_ms=NOW_MS, dry_run=False
        )[1]
    )
    spool = (IncarnationRange("inc", 0, 0),)
    hello = HelloReceived("inc", "", 0, spool, 0, (), (), 0, 0, "1")
    do(engine.hello("d1", hello, marks={}, resume_token="t", unix_ms=NOW_MS))
    do(engine.token_synced("d1", "t"))
    worst = BATCHES * BATCH_RECORDS_MAX * COST_NANOS
    do(engine.lease_requested("d1", LeaseWish(0, worst), unix_ms=NOW_MS))
    began = time.perf_counter()
    for batch in batches:
        message = fleet_pb2.DeviceMessage.FromString(batch)
        records = wire.batch_from_pb(message.batch)
        named = engine.unremembered("d1", records)  # as the service asks
        do(engine.batch("d1", records, incarnation="inc", named=named, unix_ms=NOW_MS))
    rate = BATCHES * BATCH_RECORDS_MAX / (time.perf_counter() - began)
    store.close()
    return rate


async def _book_small(devices: int) -> float:
    """Outcomes a second through the service, each device waiting for one batch before the next."""
    with tempfile.TemporaryDirectory() as folder:
        store = SqlStore(f"sqlite:///{folder}/books.db")
        store.open()
        service = CoordinatorService(store, clock=SystemClock(), ids=SystemIds())
        await service.apply_config(fleet_toml(window="1h", usd="100"), actor="op", dry_run=False)
        sessions = [await _session(service, f"d{number}") for number in range(devices)]
        readers = [asyncio.create_task(_read_all(outbox)) for _, outbox in sessions]
        began = time.perf_counter()
        await asyncio.gather(*(_send_small(service, device_id) for device_id, _ in sessions))
        rate = devices * SMALL_BATCHES * SMALL_BATCH / (time.perf_counter() - began)
        await service.stop()
        await asyncio.gather(*readers)
        store.close()
        return rate


async def _session(service: CoordinatorService, name: str) -> tuple[str, Outbox]:
    """A device that has joined and called."""
    token, _ = await service.create_join_token(device_class="edge", valid_for_s=60, actor="op")
    device_id, _ = await service.join(token=token, name=name, device_class="edge")
    hello = HelloReceived("inc", "", 0, (IncarnationRange("inc", 0, 0),), 0, (), (), 0, 0, "1")
    outbox = await service.connect(service.engine.registry.device(device_id), hello)
    welcome = await outbox.get()
    assert isinstance(welcome, Welcomed)
    await service.token_synced(device_id, welcome.resume_token)
    return device_id, outbox


async def _read_all(outbox: Outbox) -> None:
    while await outbox.get() is not None:
        pass


async def _send_small(service: CoordinatorService, device_id: str) -> None:
    sequences = iter(range(1, SMALL_BATCHES * SMALL_BATCH + 1))
    for _ in range(SMALL_BATCHES):
        records = [
            SpoolRecord(sequence, "inc", _outcome(2 * sequence + 1))  # an odd one is local
            for sequence in islice(sequences, SMALL_BATCH)
        ]
        await service.batch(device_id, records, incarnation="inc")


def _insert_all(path: Path, *, into: Path) -> float:
    """Outcomes a second when the driver alone inserts the rows that are in the books."""
    with sqlite3.connect(path) as source:
        schema, rows = [], {}
        for table in TABLES:
            made = "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND sql <> ''"
            schema += [statement for (statement,) in source.execute(made, (table,))]
            rows[table] = source.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
    with sqlite3.connect(into, isolation_level=None) as bare:
        bare.execute("PRAGMA journal_mode = WAL")
        bare.execute("PRAGMA synchronous = FULL")
        for statement in schema:
            bare.execute(statement)
        began = time.perf_counter()
        for at in range(BATCHES):
            bare.execute("BEGIN IMMEDIATE")
            for table, found in rows.items():
                size = -(-len(found) // BATCHES)
                part = found[at * size : (at + 1) * size]
                places = ", ".join("?" * len(found[0]))
                bare.executemany(f"INSERT INTO {table} VALUES ({places})", part)
            bare.execute("COMMIT")
        return len(rows["outcome"]) / (time.perf_counter() - began)
