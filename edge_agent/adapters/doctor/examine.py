"""All checks, in the order in which a device is put into service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from edge_agent.adapters.classifier import OnnxClassifier
from edge_agent.adapters.coordinator_link import LinkTarget
from edge_agent.adapters.doctor import accelerator, cloud, link, local, machine
from edge_agent.adapters.doctor.finding import Finding
from edge_agent.config import AgentConfig
from edge_agent.ports import DeviceSensors, LocalModel
from shared.clock import Clock


async def examine(
    settings: AgentConfig,
    *,
    models: list[LocalModel],
    target: LinkTarget,
    classifier: OnnxClassifier | None,
    sensors: DeviceSensors,
    clock: Clock,
    environ: Mapping[str, str],
    root: Path = Path("/"),
) -> list[Finding]:
    """Look at everything; nothing is changed, and no request reaches a paid endpoint."""
    state = await asyncio.to_thread(sensors.read)
    books = await asyncio.to_thread(local.books, settings.books_path)
    return [
        *local.configuration(settings),
        machine.processor(root),
        *machine.memory(models, memory_bytes_max=settings.worker.memory_bytes_max, state=state),
        machine.disk(settings),
        *machine.sensors(settings, state=state),
        await asyncio.to_thread(accelerator.accelerator, models, root=root),
        *local.models(settings),
        await asyncio.to_thread(local.classifier, classifier, fleet=books.config),
        books.finding,
        await asyncio.to_thread(local.port, settings.listen, tls=settings.tls.enabled),
        *await link.coordinator_and_clock(
            settings, target=target, credential=books.credential, clock=clock
        ),
        *await cloud.cloud(books.config, environ=environ),
    ]
