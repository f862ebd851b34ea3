"""`tidegate-agent`: puts the agent together and runs it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import stamina.instrumentation
import structlog
import typer
from prometheus_client import CollectorRegistry

from edge_agent import config as agent_config
from edge_agent.adapters.books_opening import credential_in, open_books
from edge_agent.adapters.cloud_client import OpenAiCloud
from edge_agent.adapters.coordinator_link import CoordinatorLink
from edge_agent.adapters.device_metrics import DeviceCollector
from edge_agent.adapters.http_api import ApiKeys, build_app
from edge_agent.adapters.identity_file import IdentityFile
from edge_agent.adapters.metrics import AgentGauges, AgentMetrics
from edge_agent.adapters.model_bench import known_speeds
from edge_agent.adapters.reloadable_models import ReloadableModels
from edge_agent.adapters.sensors import SystemSensors
from edge_agent.bookkeeper import Bookkeeper
from edge_agent.cli.on_demand import CommandsOnDemand
from edge_agent.cli.options import ConfigFile
from edge_agent.cli.parts import (
    api_keys_of,
    fallback_config,
    key_budgets_of,
    link_target,
    local_models,
    new_classifier,
    new_worker,
    problems_of,
)
from edge_agent.config import AgentConfig
from edge_agent.engine import AgentEngine
from edge_agent.provider_keys import ProviderKeys
from edge_agent.reloading import make_reloader
from edge_agent.service import AgentService
from edge_agent.session import FleetSession
from shared import logs
from shared.clock import SystemClock, SystemIds
from shared.console import HELP, run_command
from shared.errors import ConfigError
from shared.garbage import give_back
from shared.http_server import serve
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION

log = structlog.get_logger(__name__)
cli = typer.Typer(
    name="tidegate-agent",
    cls=CommandsOnDemand,
    help="Answer OpenAI requests on this device: with local models, and with paid ones when that "
    "pays off.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
GAUGES_S = 1.0
FLUSH_ROUNDS = 40


@cli.callback()
def quiet() -> None:
    """Commands say what they found; only the daemon logs."""
    logs.configure(format_="console", level="warning")
    stamina.instrumentation.set_on_retry_hooks(())  # an outage is told once, by who has it


@cli.command()
def run(
    config: ConfigFile = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the configuration can be used.")
    ] = False,
    listen: Annotated[str, typer.Option(help="host:port instead of the file's.")] = "",
) -> None:
    """Run the agent until it is told to stop (Ctrl-C or SIGTERM)."""
    overrides = {"listen": listen} if listen else {}
    settings = agent_config.load(config, overrides)
    if check:
        problems = problems_of(settings, file=config)
        for problem in problems:
            typer.echo(f"{problem.key}: {problem.problem}", err=True)
        typer.echo("the configuration can be used" if not problems else "it cannot be used yet")
        raise typer.Exit(1 if problems else 0)
    logs.configure(format_=settings.log.format, level=settings.log.level)
    read = partial(agent_config.load, config, overrides)
    _event_loop(run_agent(settings, read=read))


@cli.command()
def example() -> None:
    """Print a commented configuration file."""
    typer.echo((Path(__file__).parent / "config.example.toml").read_text(encoding="utf-8"))


@cli.command()
def schema() -> None:
    """Print the JSON schema of the configuration file."""
    typer.echo(json.dumps(agent_config.config_schema(), indent=2))


@cli.command()
def version() -> None:
    """Print the versions of the software and of the protocol."""
    typer.echo(f"tidegate-agent {SOFTWARE_VERSION} (protocol {PROTOCOL_VERSION})")


async def run_agent(settings: AgentConfig, *, read: Callable[[], AgentConfig]) -> None:
    """Run an agent until SIGINT or SIGTERM; SIGHUP makes it read its file again."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            "state_dir",
            f"{settings.state_dir} cannot be made ({error.strerror}): name a folder that this "
            "user may write to",
        ) from None
    stop, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    clock, ids = SystemClock(), SystemIds()
    registry = CollectorRegistry()
    metrics = AgentMetrics(registry, tags=[key.tag for key in settings.keys])
    async with AsyncExitStack() as stack:
        books, snapshot = await open_books(settings.books_path, clock=clock)
        stack.push_async_callback(books.close)
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
            books=books,
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
        link_up = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []
        stack.push_async_callback(_cancel, tasks)
        stack.push_async_callback(_flush, engine, link_up)
        await service.start()
        stack.push_async_callback(service.stop, grace_s=settings.drain.total_seconds())
        session = FleetSession(
            engine,
            books=books,
            bookkeeper=bookkeeper,
            service=service,
            clock=clock,
            credential=credential_in(snapshot),
            keep_identity=IdentityFile(settings.books_path).keep,
            on_connected=lambda up: link_up.set() if up else link_up.clear(),
            on_lease_news=service.lease_news.tell,
            provider_keys=keys,
            speeds=lambda: known_speeds(settings.state_dir, local_models(reloader.running)),
        )
        tasks.append(asyncio.create_task(_show(metrics, engine=engine, link_up=link_up)))
        api_keys = ApiKeys(api_keys_of(settings))
        link = None
        if settings.coordinator.address is not None:
            link = CoordinatorLink(link_target(settings), session=session)
        reloader = make_reloader(
            settings,
            read=read,
            engine=engine,
            service=service,
            local=local,
            api_keys=api_keys,
            metrics=metrics,
            link=link,
            clock=clock,
        )
        tasks.append(asyncio.create_task(reloader.run(hangup), name="reloader"))
        if link is not None:
            tasks.append(asyncio.create_task(link.run(), name="link"))
        app = build_app(
            service,
            clock=clock,
            ids=ids,
            metrics=metrics,
            api_keys=api_keys,
            cors_origins=settings.cors_origins,
        )
        server = await stack.enter_async_context(
            serve(
                app,
                host=settings.listen.host,
                port=settings.listen.port,
                grace_s=settings.drain.total_seconds(),
                on_grace_over=service.interrupt,
                cert_file=_path(settings.tls.cert_file),
                key_file=_path(settings.tls.key_file),
            )
        )
        give_back()
        log.info("agent_ready", listen=f"http://{settings.listen.host}:{server.port}/v1")
        await _until_stopped(stop, server.wait_ended(), service.wait_failed(), *tasks)
        log.info("agent_stopping")


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
        metrics.set_requests_in_flight(engine.requests_in_flight)
        metrics.set_gauges(
            AgentGauges(
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


def _event_loop(main: Any) -> None:
    """Run on uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def main() -> None:
    """The console script."""
    run_command(cli, name="tidegate-agent")


if __name__ == "__main__":
    main()
