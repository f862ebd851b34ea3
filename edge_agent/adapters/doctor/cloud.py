"""The paid endpoints: whether they can be reached, and whether their keys are here.

A connection is opened and closed again. No request is sent, so nothing can be billed (rule S_1).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from edge_agent.adapters.doctor.finding import Finding, fail, ok, warn
from shared.decision.types import Arm, CloudSettings, DeviceConfig
from shared.errors import ConfigError
from shared.settings import read_secret

CONNECT_S: Final = 8.0
FROM_COORDINATOR: Final = "coordinator:"


async def cloud(config: DeviceConfig | None, *, environ: Mapping[str, str]) -> list[Finding]:
    """A finding for every paid arm that the device knows of."""
    if config is None:
        return [ok("cloud", "no paid arm is known yet: the coordinator names them")]
    paid = [(arm, arm.cloud) for arm in config.arms if arm.cloud is not None]
    if not paid:
        return [ok("cloud", "the fleet has no paid arm for this device")]
    return [await _arm(arm, settings, environ=environ) for arm, settings in paid]


async def _arm(arm: Arm, settings: CloudSettings, *, environ: Mapping[str, str]) -> Finding:
    name, url = f"cloud {arm.id}", urlsplit(settings.base_url)
    says, problem = await _reached(url.hostname or "", port=url.port, tls=url.scheme == "https")
    if problem:
        return fail(name, says, problem)
    ref = settings.api_key_ref
    if not ref:
        return ok(name, f"{says}; needs no key")
    if ref.startswith(FROM_COORDINATOR):
        return ok(name, f"{says}; its key comes with the link to the coordinator")
    try:
        read_secret(ref, environ=environ)
    except ConfigError as error:
        if ref.startswith("env:"):
            return warn(
                name,
                f"{says}; {error.problem} here",
                "set it for the agent's service (its EnvironmentFile), or use file:PATH",
            )
        return fail(name, f"{says}; {error.problem}", "put the key there, readable by the agent")
    return ok(name, f"{says}; its key is here")


async def _reached(host: str, *, port: int | None, tls: bool) -> tuple[str, str]:
    """What a connection comes to, and what to do if it fails."""
    port = port or (443 if tls else 80)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(
                host, port, ssl=ssl.create_default_context() if tls else None
            )
    except ssl.SSLError as error:
        return (
            f"{host}:{port} does not speak TLS as it should ({error.reason or error})",
            "is a proxy in between? Its authority must be among the system's",
        )
    except TimeoutError:
        return f"{host}:{port} cannot be reached within {CONNECT_S:g} s", "check the firewall"
    except OSError as error:
        return (
            f"{host}:{port} cannot be reached ({error.strerror or error})",
            "check the network, the DNS and the arm's base_url",
        )
    took_ms = 1e3 * (loop.time() - begun_s)
    version = writer.get_extra_info("ssl_object").version() if tls else "without TLS"
    writer.close()
    return f"{host} answers in {took_ms:.0f} ms, {version}", ""
