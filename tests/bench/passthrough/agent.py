"""An agent that lends itself money: `python -m tests.bench.passthrough.agent PORT STUB_URL FOLDER`.

Everything that a paid request passes is there, as `edge_agent.daemon` puts it together: HTTP, gate,
durable books and spool, cloud client, metrics. Only the link to a coordinator is missing.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import uvloop
from prometheus_client import CollectorRegistry

from edge_agent.adapters.cloud_client import OpenAiCloud
from edge_agent.adapters.http_api import build_app
from edge_agent.adapters.metrics import AgentMetrics
from edge_agent.adapters.sensors import SystemSensors
from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BooksSnapshot
from edge_agent.engine import AgentEngine
from edge_agent.ports import (
    ArmFailed,
    ChatCall,
    ChatEvent,
    EmbedCall,
    Embedded,
    LocalModels,
    ModelStatus,
)
from edge_agent.service import AgentService
from shared import logs
from shared.clock import SystemClock, SystemIds
from shared.decision.lease import LeaseGranted
from shared.decision.money import Price, WorstCase
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.decision.types import (
    Arm,
    ArmKind,
    CloudSettings,
    DeviceConfig,
    OnAbort,
    TaskClass,
)
from shared.garbage import collect_seldom
from shared.http_server import serve

ARM: Final = "paid"
LENT_NANOS: Final = 10**15
FOR_MS: Final = 3_600_000


class NoModels(LocalModels):
    """A device without local models."""

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    def status(self) -> Sequence[ModelStatus]:
        return ()

    async def keep_resident(self, arms: Sequence[str]) -> None:
        """Nothing to keep."""

    async def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        raise ArmFailed("not_configured", f"no model for {call.arm.id}")
        yield

    async def embed(self, call: EmbedCall) -> Embedded:
        raise ArmFailed("not_configured", f"no model for {call.arm.id}")


def config(base_url: str) -> DeviceConfig:
    """One paid arm."""
    settings = CloudSettings(
        base_url=base_url,
        api_key_ref="",
        price=Price(150_000_000, 600_000_000),
        worst_case=WorstCase(),
        fields=frozenset({"temperature"}),
        unbilled_statuses=frozenset({429}),
        on_abort=OnAbort.DRAIN,
        connect_timeout_ms=5_000,
        first_byte_timeout_ms=30_000,
        drain_timeout_ms=30_000,
    )
    arm = Arm(ARM, ArmKind.CLOUD, "stub", 8_192, 256, cloud=settings)
    return DeviceConfig(1, "edge", (arm,), (TaskClass("other", 30_000),), 1, "bench", 30_000)


async def run(port: int, *, base_url: str, folder: Path) -> None:
    """Serve until SIGTERM."""
    logs.configure(format_="json", level="warning")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clock, ids = SystemClock(), SystemIds()
    metrics = AgentMetrics(CollectorRegistry())
    books = SqliteBooks(folder / "books.db")
    row = TableRow("other", (TableArm(ARM, 1_000_000, 900_000),))
    engine = AgentEngine(
        incarnation="bench",
        boot_id=clock.boot_id(),
        snapshot=BooksSnapshot(
            config=config(base_url), table=SelectionTable(1, "edge", 1, 0, (row,))
        ),
        fallback=config(base_url),
        unix_ms=clock.unix_ms(),
    )
    keeper = Bookkeeper(books, gate=engine.gate)
    service = AgentService(
        engine,
        bookkeeper=keeper,
        local=NoModels(),
        cloud=OpenAiCloud(environ={}),
        sensors=SystemSensors(state_dir=folder),
        classifier=None,
        clock=clock,
        rng=random.Random(),
        on_spooled=metrics.observe,
    )
    await service.start()
    lease = LeaseGranted(1, 0, LENT_NANOS, FOR_MS, 1)
    effects = engine.gate.granted(lease, incarnation="bench", boot_ms=clock.boot_ms())
    await keeper.commit(effects, sync=True)
    engine.gate.synced(effects)
    app = build_app(service, clock=clock, ids=ids, metrics=metrics)
    async with serve(app, host="127.0.0.1", port=port, grace_s=1):
        collect_seldom()
        await stop.wait()
    await service.stop(grace_s=1.0)
    await books.close()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), base_url=sys.argv[2], folder=Path(sys.argv[3])))
