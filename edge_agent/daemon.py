"""The agent as a process: its parts put together, and run until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from edge_agent.adapters.books_opening import credential_in, open_books
from edge_agent.adapters.cloud_client import OpenAiCloud
from edge_agent.adapters.coordinator_link import CoordinatorLink
from edge_agent.adapters.device_metrics import DeviceCollector
from edge_agent.adapters.http_api import ApiKeys, build_app
from edge_agent.adapters.identity_file import IdentityFile
from edge_agent.adapters.metrics import AgentGauges, AgentMetrics
from edge_agent.adapters.model_bench import known_speeds
from edge_agent.adapters.reloadable_models import ReloadableModels
from edge_agent.adapters.reloader import Reloader
from edge_agent.adapters.sensors import SystemSensors
from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BooksSnapshot
from edge_agent.cli.parts import (
    api_keys_of,
    fallback_config,
    key_budgets_of,
    link_target,
    local_models,
    new_classifier,
    new_worker,
)
from edge_agent.config import AgentConfig
from edge_agent.engine import AgentEngine
from edge_agent.provider_keys import ProviderKeys
from edge_agent.reloading import make_reloader
from edge_agent.service import AgentService
from edge_agent.session import Credential, FleetSession
from shared.clock import SystemClock, SystemIds
from shared.errors import ConfigError
from shared.garbage import collect_seldom, give_back
from shared.http_server import HttpServer, serve

log = structlog.get_logger(__name__)
GAUGES_S = 1.0
FLUSH_ROUNDS = 40


@dataclass(frozen=True)
class _Agent:
    """The parts that others hold on to, none of them started yet."""

    settings: AgentConfig
    clock: SystemClock
    ids: SystemIds
    metrics: AgentMetrics
    books: SqliteBooks
    engine: AgentEngine
    bookkeeper: Bookkeeper
    provider_keys: ProviderKeys
    local: ReloadableModels
    service: AgentService
    link_up: asyncio.Event


async def run_agent(settings: AgentConfig, *, read: Callable[[], AgentConfig]) -> None:
    """Run an agent until SIGINT or SIGTERM; SIGHUP makes it read its file again."""
    _make_state_dir(settings.state_dir)
    stop, hangup = _signals()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        books, snapshot = await open_books(settings.books_path, clock=clock)
        stack.push_async_callback(books.close)
        agent = _put_together(settings, books=books, snapshot=snapshot, clock=clock)
        tasks: list[asyncio.Task[None]] = []
        stack.push_async_callback(_cancel, tasks)
        stack.push_async_callback(_flush, agent.engine, agent.link_up)
        await agent.service.start()
        stack.push_async_callback(agent.service.stop, grace_s=settings.drain.total_seconds())
        api_keys = ApiKeys(api_keys_of(settings))
        tasks += _side_tasks(
            agent, credential=credential_in(snapshot), api_keys=api_keys, read=read, hangup=hangup
        )
        server = await stack.enter_async_context(_http_face(agent, api_keys=api_keys))
        collect_seldom()
        give_back()
        scheme = "https" if settings.tls.cert_file else "http"
        taken = replace(settings.listen, port=server.port)
        log.info("agent_ready", listen=f"{scheme}://{taken}/v1")
        await _until_stopped(stop, server.wait_ended(), agent.service.wait_failed(), *tasks)
        log.info("agent_stopping")


def _make_state_dir(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            "state_dir",
            f"{folder} cannot be made ({error.strerror}): name a folder that this user may write "
            "to",
        ) from None


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """What is set when the agent is to stop, and when it is to read its file again."""
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    return stop, hangup


def _put_together(
    settings: AgentConfig, *, books: SqliteBooks, snapshot: BooksSnapshot, clock: SystemClock
) -> _Agent:
    """The service and what it is made of, going on from what the books hold."""
    ids, registry = SystemIds(), CollectorRegistry()
    metrics = AgentMetrics(registry, tags=[key.tag for key in settings.keys])
    engine = AgentEngine(
        incarnation=ids.new_id("inc"),
        boot_id=clock.boot_id(),
        snapshot=snapshot,
        fallback=fallback_config(settings),
        unix_ms=clock.unix_ms(),
        key_budgets=key_budgets_of(settings),
        observe_arm=settings.observe_arm if settings.mode == "observe" else "",
    )
    bookkeeper = Bookkeeper(books, gate=engine.gate)
    keys, local = ProviderKeys(), ReloadableModels(new_worker(settings, clock=clock))
    service = AgentService(
        engine,
        bookkeeper=bookkeeper,
        local=local,
        cloud=OpenAiCloud(environ=os.environ, keys=keys),
        sensors=SystemSensors(state_dir=settings.state_dir),
        classifier=new_classifier(settings),
        clock=clock,
        rng=random.Random(),
        on_spooled=metrics.observe,
        limits=settings.limits.to_limits(),
        provider_keys=keys,
    )
    registry.register(DeviceCollector(service.device_state))
    return _Agent(
        settings=settings,
        clock=clock,
        ids=ids,
        metrics=metrics,
        books=books,
        engine=engine,
        bookkeeper=bookkeeper,
        provider_keys=keys,
        local=local,
        service=service,
        link_up=asyncio.Event(),
    )


def _side_tasks(
    agent: _Agent,
    *,
    credential: Credential | None,
    api_keys: ApiKeys,
    read: Callable[[], AgentConfig],
    hangup: asyncio.Event,
) -> list[asyncio.Task[None]]:
    """What goes on beside the answers: gauges, the link to the coordinator, reloads."""
    settings, link = agent.settings, None
    if settings.coordinator.address is not None:
        session = _session(agent, credential=credential, running=lambda: reloader.running)
        link = CoordinatorLink(link_target(settings), session=session)
    reloader: Reloader = make_reloader(
        settings,
        read=read,
        engine=agent.engine,
        service=agent.service,
        local=agent.local,
        api_keys=api_keys,
        metrics=agent.metrics,
        link=link,
        clock=agent.clock,
    )
    gauges = _show(agent.metrics, engine=agent.engine, link_up=agent.link_up)
    tasks = [
        asyncio.create_task(gauges, name="gauges"),
        asyncio.create_task(reloader.run(hangup), name="reloader"),
    ]
    if link is not None:
        tasks.append(asyncio.create_task(link.run(), name="link"))
    return tasks


def _session(
    agent: _Agent, *, credential: Credential | None, running: Callable[[], AgentConfig]
) -> FleetSession:
    """What the agent says to the coordinator, and does with what it is told."""
    link_up = agent.link_up
    return FleetSession(
        agent.engine,
        bookkeeper=agent.bookkeeper,
        service=agent.service,
        clock=agent.clock,
        credential=credential,
        keep_identity=IdentityFile(agent.settings.books_path).keep,
        on_connected=lambda up: link_up.set() if up else link_up.clear(),
        on_lease_news=agent.service.lease_news.tell,
        provider_keys=agent.provider_keys,
        speeds=lambda: known_speeds(agent.settings.state_dir, local_models(running())),
    )


def _http_face(agent: _Agent, *, api_keys: ApiKeys) -> AbstractAsyncContextManager[HttpServer]:
    """The server that clients ask, for as long as the context lasts."""
    settings = agent.settings
    app = build_app(
        agent.service,
        clock=agent.clock,
        ids=agent.ids,
        metrics=agent.metrics,
        api_keys=api_keys,
        cors_origins=settings.cors_origins,
    )
    return serve(
        app,
        host=settings.listen.host,
        port=settings.listen.port,
        grace_s=settings.drain.total_seconds(),
        on_grace_over=agent.service.interrupt,
        cert_file=_path(settings.tls.cert_file),
        key_file=_path(settings.tls.key_file),
    )


async def _until_stopped(stop: asyncio.Event, *parts: Any) -> None:
    """Wait for the signal; a part that fails ends the agent with its error."""
    stopped = asyncio.ensure_future(stop.wait())
    waiting = {stopped, *(asyncio.ensure_future(part) for part in parts)}
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    for task in done:
        if task is not stopped:
            task.result()


async def _flush(engine: AgentEngine, link_up: asyncio.Event) -> None:
    """Give the link a moment to hand over what is spooled, the closed leases above all."""
    for _ in range(FLUSH_ROUNDS):
        if not link_up.is_set() or not engine.outbox.waiting:
            return
        await asyncio.sleep(0.05)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _show(metrics: AgentMetrics, *, engine: AgentEngine, link_up: asyncio.Event) -> None:
    while True:
        metrics.set_gauges(
            AgentGauges(
                requests_in_flight=engine.requests_in_flight,
                spool_records=engine.outbox.waiting,
                link_connected=link_up.is_set(),
                table_version=engine.table.version if engine.table else 0,
                lease_available_nanos=engine.gate.available_nanos,
                lease_reserved_nanos=sum(held.reserved_nanos for held in engine.gate.leases()),
                key_budgets=engine.gate.key_budgets(),
            )
        )
        await asyncio.sleep(GAUGES_S)


def _path(text: str) -> Path | None:
    return Path(text) if text else None
