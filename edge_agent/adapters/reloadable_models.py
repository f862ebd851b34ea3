"""Local models that can be exchanged while the agent runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import cast

from edge_agent.ports import (
    ChatCall,
    ChatEvent,
    EmbedCall,
    Embedded,
    LocalModels,
    ModelStatus,
)


class ReloadableModels(LocalModels):
    """The present worker, and a moment of quiet in which another one takes its place.

    Two workers at once would not fit into the memory of a small device. So answers under way are
    finished first, and those that come meanwhile wait for the new worker.
    """

    def __init__(self, worker: LocalModels) -> None:
        self._worker = worker
        self._resident: tuple[str, ...] = ()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._open = asyncio.Event()
        self._open.set()
        self._exchanging = asyncio.Lock()

    async def start(self) -> None:
        await self._worker.start()

    async def stop(self) -> None:
        async with self._exchanging:
            await self._worker.stop()

    def status(self) -> Sequence[ModelStatus]:
        return self._worker.status()

    async def keep_resident(self, arms: Sequence[str]) -> None:
        self._resident = tuple(arms)
        await self._worker.keep_resident(arms)

    async def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        async with self._one_more():
            events = cast("AsyncGenerator[ChatEvent, None]", self._worker.chat(call))
            async with aclosing(events):
                async for event in events:
                    yield event

    async def embed(self, call: EmbedCall) -> Embedded:
        async with self._one_more():
            return await self._worker.embed(call)

    async def exchange(self, worker: LocalModels, *, grace_s: float) -> None:
        """Put another worker in the place of the present one.

        Parameters
        ----------
        grace_s : float
            How long answers under way may take to end; later ones fail and go to another arm.
        """
        async with self._exchanging:
            self._open.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._idle.wait()
            except TimeoutError:
                pass  # `stop` fails what is left
            try:
                await self._worker.stop()
                self._worker = worker
                await worker.start()
                await worker.keep_resident(self._resident)
            finally:
                self._open.set()

    @asynccontextmanager
    async def _one_more(self) -> AsyncIterator[None]:
        """An answer under way, once no exchange is."""
        await self._open.wait()
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
