"""`tidegate-coordinator`: puts the coordinator together and runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import structlog
import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import Progress

from coordinator import config as coordinator_config
from coordinator.adapters import sql_backup
from coordinator.adapters.grpc_server import start_grpc
from coordinator.adapters.metrics import EngineCollector
from coordinator.adapters.provider_keys import ReferredKeys
from coordinator.adapters.sql_connection import WriterBusyError
from coordinator.adapters.sql_store import SqlStore
from coordinator.adapters.web import READY, build_web
from coordinator.adapters.webhook import Webhook
from coordinator.config import CoordinatorConfig
from coordinator.forecast.onnx_model import OnnxModel, load_onnx
from coordinator.records import AdminTokenRow
from coordinator.registry import digest
from coordinator.service import CoordinatorService
from shared import logs
from shared.clock import SystemClock, SystemIds
from shared.console import HELP, run_command
from shared.errors import ConfigError, StoreError
from shared.garbage import collect_seldom
from shared.http_server import serve
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION

log = structlog.get_logger(__name__)
STANDBY = "standby"
STANDBY_CHECK_S = 0.5
cli = typer.Typer(
    name="tidegate-coordinator",
    help="Plan for a fleet of devices: who answers what, within a hard budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
token_cli = typer.Typer(no_args_is_help=True, help="Tokens for operators.")
cli.add_typer(token_cli, name="token")
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file; see `tidegate-coordinator example`."),
]


@cli.command("serve")
def serve_command(
    config: ConfigFile = None,
    standby: Annotated[
        bool,
        typer.Option(
            "--standby", help="Wait while another coordinator runs; take over when it ends."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the configuration can be used.")
    ] = False,
) -> None:
    """Run the coordinator until it is told to stop (Ctrl-C or SIGTERM)."""
    settings = coordinator_config.load(config, {"standby": True} if standby else None)
    if check:
        problems = coordinator_config.check(settings)
        for problem in problems:
            typer.echo(f"{problem.key}: {problem.problem}", err=True)
        typer.echo("the configuration can be used" if not problems else "it cannot be used yet")
        raise typer.Exit(1 if problems else 0)
    logs.configure(format_=settings.log.format, level=settings.log.level)
    asyncio.run(run_coordinator(settings))


@token_cli.command("create")
def create_token(
    config: ConfigFile = None,
    name: Annotated[str, typer.Option(help="Whose token it is; shown in the audit.")] = "operator",
    valid_for_days: Annotated[int, typer.Option(min=0, help="0: until it is revoked.")] = 0,
) -> None:
    """Print a new admin token, on the coordinator's own machine, while it is not running.

    This is how the first operator gets in; later tokens come from `tidectl token create`.
    """
    settings = coordinator_config.load(config)
    store = _store(settings)
    clock, token = SystemClock(), SystemIds().new_secret("tda")
    now = clock.unix_ms()
    expires = now + round(timedelta(days=valid_for_days).total_seconds()) * 1000
    try:
        store.open()
        store.commit([AdminTokenRow(digest(token), name, now, expires if valid_for_days else 0)])
    finally:
        store.close()
    typer.echo(token)


@cli.command("backup")
def backup_command(
    out: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    config: ConfigFile = None,
) -> None:
    """Copy the books into a file, also while the coordinator runs.

    A SQLite database becomes a SQLite file, a PostgreSQL database an archive of pg_dump.
    """
    settings = coordinator_config.load(config)
    with _progress("backing up") as progress:
        sql_backup.backup(settings.resolved_database_url(), out, progress=progress)
    typer.echo(f"the books are in {out}")


@cli.command("restore")
def restore_command(
    source: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    config: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put a backup in the place of the books, while the coordinator is stopped.

    What was booked since is told again by the devices, as far as they keep it (24 hours). Nothing
    is lent before `tidectl ledger recover`, and before each known device was heard.
    """
    settings = coordinator_config.load(config)
    if not yes:
        typer.confirm(
            f"Everything booked after {source} was written is lost here. Go on?", abort=True
        )
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _progress("restoring") as progress:
        sql_backup.restore(
            settings.resolved_database_url(),
            source,
            mark_file=settings.state_dir / "epoch",
            progress=progress,
        )
    typer.echo("restored; start the coordinator, then: tidectl ledger recover")


@contextmanager
def _progress(what: str) -> Iterator[sql_backup.Progress]:
    """A bar on a terminal; nothing elsewhere."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@cli.command()
def example() -> None:
    """Print a commented configuration file."""
    typer.echo((Path(__file__).parent / "config.example.toml").read_text(encoding="utf-8"))


@cli.command()
def schema() -> None:
    """Print the JSON schema of the configuration file."""
    typer.echo(json.dumps(coordinator_config.config_schema(), indent=2))


@cli.command()
def version() -> None:
    """Print the versions of the software and of the protocol."""
    typer.echo(f"tidegate-coordinator {SOFTWARE_VERSION} (protocol {PROTOCOL_VERSION})")


class Running:
    """What the coordinator is doing, for its pages: standing by, starting, or serving."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.service: CoordinatorService | None = None
        self.webhook: Webhook | None = None

    def collector(self) -> EngineCollector:
        """Metrics of whatever there is by now."""
        return EngineCollector(
            lambda: self.service.engine if self.service is not None else None,
            alerts=lambda: self.service.alerts if self.service is not None else {},
            posted=lambda: self.webhook.results if self.webhook is not None else {},
        )


async def run_coordinator(settings: CoordinatorConfig) -> None:
    """Run a coordinator until SIGINT or SIGTERM; a standby first waits for its turn."""
    collect_seldom()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    tls, running, registry = settings.tls, Running(), CollectorRegistry()
    registry.register(running.collector())
    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(
            serve(
                build_web(registry, phase=lambda: running.phase),
                host=settings.web_listen.host,
                port=settings.web_listen.port,
                grace_s=settings.drain.total_seconds(),
                cert_file=Path(tls.cert_file) if tls.enabled else None,
                key_file=Path(tls.key_file) if tls.enabled else None,
            )
        )
        store = _store(settings)
        stack.callback(store.close)
        if not await _become_writer(store, settings=settings, running=running, stop=stop):
            return
        service = await _serve_fleet(store, settings=settings, running=running, stack=stack)
        running.phase = READY
        parts = (stop.wait(), service.wait_failed(), web.wait_ended())
        waiting = {asyncio.ensure_future(part) for part in parts}
        done, still = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        running.phase = "stopping"
        log.info("coordinator_stopping")
        for task in still:
            task.cancel()
        for task in done:
            task.result()


async def _become_writer(
    store: SqlStore, *, settings: CoordinatorConfig, running: Running, stop: asyncio.Event
) -> bool:
    """Open the store; a standby waits as long as another is the writer. False: told to stop."""
    while not stop.is_set():
        try:
            await asyncio.to_thread(store.open)
        except WriterBusyError:
            if not settings.standby:
                raise
        except StoreError as error:
            if running.phase != STANDBY:
                raise
            # The database may be restarting with the other: a standby is there for that.
            log.warning("standby_cannot_see_the_database", problem=str(error))
        else:
            return True
        if running.phase != STANDBY:
            running.phase = STANDBY
            log.info("coordinator_standing_by", database="another coordinator is its writer")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), STANDBY_CHECK_S)
    log.info("coordinator_stopping")
    return False


async def _serve_fleet(
    store: SqlStore, *, settings: CoordinatorConfig, running: Running, stack: AsyncExitStack
) -> CoordinatorService:
    """Go on from what the store holds, and answer devices and operators."""
    clock, tls = SystemClock(), settings.tls
    taken_over, running.phase = running.phase == STANDBY, "starting"
    url, secret = settings.alerts.resolved()
    if url:
        running.webhook = Webhook(url, secret=secret)
        await stack.enter_async_context(running.webhook.running())
    keys = ReferredKeys(settings.provider_keys)
    service = await asyncio.to_thread(
        CoordinatorService,
        store,
        clock=clock,
        ids=SystemIds(),
        notifier=running.webhook,
        demand_model=_demand_model(settings),
        provider_keys=keys.names,
    )
    running.service = service
    await service.start()
    stack.push_async_callback(service.stop)
    grpc_server = await start_grpc(
        service,
        clock=clock,
        host=settings.listen.host,
        port=settings.listen.port,
        keepalive_ms=round(settings.keepalive.interval.total_seconds() * 1000),
        keepalive_timeout_ms=round(settings.keepalive.timeout.total_seconds() * 1000),
        cert_file=Path(tls.cert_file) if tls.enabled else None,
        key_file=Path(tls.key_file) if tls.enabled else None,
        keys=keys,
        keys_in_plaintext=settings.provider_keys_in_plaintext,
    )
    _renew_keys_on_hangup(service)
    stack.push_async_callback(grpc_server.stop, grace_s=0.5)
    address = f"{settings.listen.host}:{grpc_server.port}"
    log.info("coordinator_ready", listen=address, taken_over=taken_over)
    return service


def _renew_keys_on_hangup(service: CoordinatorService) -> None:
    """SIGHUP: the files behind the provider keys have changed."""
    renewing: set[asyncio.Task[None]] = set()

    def renew() -> None:
        log.info("provider_keys_sent_anew")
        task = asyncio.ensure_future(service.renew_keys())
        renewing.add(task)
        task.add_done_callback(renewing.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)


def _demand_model(settings: CoordinatorConfig) -> OnnxModel | None:
    path = settings.forecast.onnx_model
    if not path:
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError("forecast.onnx_model", f"{path}: {error.strerror}") from error
    return load_onnx(data, source=path)


def _store(settings: CoordinatorConfig) -> SqlStore:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return SqlStore(settings.resolved_database_url(), mark_file=settings.state_dir / "epoch")


def main() -> None:
    """The console script."""
    run_command(cli, name="tidegate-coordinator")


if __name__ == "__main__":
    main()
