"""The demo's paid cloud: a third-party model server behind a metering proxy."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Final

from deploy.demo import loopback
from deploy.demo.processes import (
    Child,
    Children,
    Command,
    DemoError,
    free_ports,
    wait_until,
)
from deploy.demo.settings import CLOUD_ARM, CLOUD_KEY_VARIABLE, MODELS, ROOT, DemoSettings

READY_S_MAX: Final = 40.0
CONTEXT_TOKENS: Final = 512


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The running cloud.

    Attributes
    ----------
    base_url : str
        What an OpenAI client is pointed at.
    """

    base_url: str
    meter_url: str
    meter: Child

    def totals(self) -> dict[str, int]:
        """What the provider has billed so far."""
        totals: dict[str, int] = json.loads(loopback.fetch(self.meter_url))
        return totals


def start_cloud(settings: DemoSettings, *, children: Children, api_key: str) -> Cloud:
    """Start the model server and the proxy; `Cloud` may be used once `wait_cloud` returns.

    Raises
    ------
    DemoError
        When the server's virtual environment does not exist.
    """
    if not settings.cloud_python.exists():
        raise DemoError(
            f"{settings.cloud_python} does not exist: run `make install`, or name the interpreter "
            "of an environment that has llama-cpp-python[server] with --cloud-python"
        )
    server_port, meter_port = free_ports(2)
    children.start(_server(settings, server_port))
    meter = children.start(_meter(settings, meter_port, server_port, api_key))
    return Cloud(
        base_url=f"http://127.0.0.1:{meter_port}/v1",
        meter_url=f"http://127.0.0.1:{meter_port}/meter",
        meter=meter,
    )


def wait_cloud(cloud: Cloud, *, children: Children, api_key: str) -> None:
    """Wait until the proxy serves and the model server answers behind it."""
    wait_until(
        lambda: loopback.answers(cloud.meter_url),
        child=cloud.meter,
        within_s=READY_S_MAX,
        what="the metering proxy",
    )
    wait_until(
        lambda: loopback.answers(f"{cloud.base_url}/models", bearer=api_key),
        child=cloud.meter,
        within_s=READY_S_MAX,
        what="the cloud's model server",
        others=children.check,
    )


def _server(settings: DemoSettings, port: int) -> Command:
    options = {
        "--model": MODELS / f"{CLOUD_ARM}.gguf",
        "--model_alias": CLOUD_ARM,
        "--host": "127.0.0.1",
        "--port": port,
        "--n_ctx": CONTEXT_TOKENS,
        "--n_threads": 1,
        "--n_threads_batch": 1,
        # By default a new request would cut off a stream that runs.
        "--interrupt_requests": "False",
        "--verbose": "False",
    }
    flags = [str(part) for pair in options.items() for part in pair]
    return Command(
        name="cloud-server",
        argv=[str(settings.cloud_python), "-m", "llama_cpp.server", *flags],
        cwd=settings.state,
        advice="reinstall its environment: rm -r .venv-cloud, then make install",
    )


def _meter(settings: DemoSettings, port: int, server_port: int, api_key: str) -> Command:
    options = {
        "--port": port,
        "--upstream": f"http://127.0.0.1:{server_port}/v1",
        "--model": MODELS / f"{CLOUD_ARM}.gguf",
        "--bill": settings.state / "bill.jsonl",
        "--input-usd-per-mtok": settings.prices.input_usd_per_mtok,
        "--output-usd-per-mtok": settings.prices.output_usd_per_mtok,
        "--request-usd": settings.prices.request_usd,
        "--network-ms": settings.network_ms,
        "--network-jitter-ms": settings.network_jitter_ms,
        "--seed": settings.seed,
    }
    flags = [str(part) for pair in options.items() for part in pair]
    return Command(
        name="meter",
        argv=[sys.executable, "-m", "deploy.demo.meter", *flags],
        cwd=ROOT,
        environment={CLOUD_KEY_VARIABLE: api_key},
    )
