"""The coordinator as a process: put together, run until it is told to stop, or on standby."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from coordinator.adapters.grpc_server import AddressTakenError, GrpcServer, start_grpc
from coordinator.adapters.metrics import EngineCollector
from coordinator.adapters.provider_keys import ReferredKeys
from coordinator.adapters.sql_connection import WriterBusyError
from coordinator.adapters.sql_store import SqlStore
from coordinator.adapters.web import READY, build_web
from coordinator.adapters.webhook import Webhook
from coordinator.config import CoordinatorConfig
from coordinator.forecast.onnx_model import OnnxModel, load_onnx
from coordinator.offline import store_of
from coordinator.service import CoordinatorService
from shared.clock import SystemClock, SystemIds
from shared.errors import ConfigError, StoreError
from shared.garbage import collect_seldom
from shared.http_server import serve

log = structlog.get_logger(__name__)
STANDBY = "standby"
STANDBY_CHECK_S = 0.5


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
        store = store_of(settings)
        stack.callback(store.close)
        if not await _become_writer(store, settings=settings, running=running, stop=stop):
            return
        service = await _serve_fleet(
            store, settings=settings, running=running, stop=stop, stack=stack
        )
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
    store: SqlStore,
    *,
    settings: CoordinatorConfig,
    running: Running,
    stop: asyncio.Event,
    stack: AsyncExitStack,
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
        demand_model=demand_model(settings),
        provider_keys=keys.names,
    )
    running.service = service
    await service.start()
    stack.push_async_callback(service.stop)
    start = partial(
        start_grpc,
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
    grpc_server = await _listen(start, taken_over=taken_over, stop=stop)
    _renew_keys_on_hangup(service)
    stack.push_async_callback(grpc_server.stop, grace_s=0.5)
    address = f"{settings.listen.host}:{grpc_server.port}"
    log.info("coordinator_ready", listen=address, taken_over=taken_over)
    return service


async def _listen(
    start: Callable[[], Awaitable[GrpcServer]], *, taken_over: bool, stop: asyncio.Event
) -> GrpcServer:
    """Answer; who has taken over waits until the process before has let go of their address.

    That one may live: it has only lost its session with the database, finds out at its next
    commit that it is the writer no more, and ends.
    """
    waiting = False
    while True:
        try:
            return await start()
        except AddressTakenError as error:
            if not taken_over or stop.is_set():
                raise
            if not waiting:
                log.warning("standby_waits_for_its_address", problem=str(error))
            waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), STANDBY_CHECK_S)


def _renew_keys_on_hangup(service: CoordinatorService) -> None:
    """SIGHUP: the files behind the provider keys have changed."""
    renewing: set[asyncio.Task[None]] = set()

    def renew() -> None:
        log.info("provider_keys_sent_anew")
        task = asyncio.ensure_future(service.renew_keys())
        renewing.add(task)
        task.add_done_callback(renewing.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, renew)


def demand_model(settings: CoordinatorConfig) -> OnnxModel | None:
    """The trained model that the configuration names, if it names one.

    Raises
    ------
    ConfigError
        If its file cannot be read, or is no such model.
    """
    path = settings.forecast.onnx_model
    if not path:
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError("forecast.onnx_model", f"{path}: {error.strerror}") from error
    return load_onnx(data, source=path)
