"""SIGHUP: the file is read again, and what can change in a running agent does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from edge_agent.config import AgentConfig
from edge_agent.config_changes import changes, running_after
from shared.errors import ConfigError

log = structlog.get_logger(__name__)
Apply = Callable[[], Awaitable[None]]
Prepare = Callable[[AgentConfig], Apply]
"""Takes a new configuration, checks what it needs of it, and gives what puts it into force.

It raises `ConfigError` if the configuration cannot be used; nothing has changed then.
"""


class Reloader:
    """Takes over a changed file as a whole, or not at all.

    Parameters
    ----------
    running : AgentConfig
        What the agent was started with.
    read : callable
        Reads the file, the environment and the flags again.
    parts : mapping
        Tables of the file, separated by blanks, to what prepares their change.
    anew : collection of str
        Of them, those to prepare in any case: what they refer to, such as a key's file, may have
        changed where their text has not.
    """

    def __init__(
        self,
        running: AgentConfig,
        *,
        read: Callable[[], AgentConfig],
        parts: Mapping[str, Prepare],
        anew: Collection[str] = (),
    ) -> None:
        self._anew = frozenset(anew)
        self._running = running
        self._read = read
        self._parts = parts

    @property
    def running(self) -> AgentConfig:
        """What the agent runs with."""
        return self._running

    async def run(self, asked: asyncio.Event) -> None:
        """Reload each time that somebody has asked for it."""
        while True:
            await asked.wait()
            asked.clear()
            await self.reload()

    async def reload(self) -> None:
        """Reload once; a file that cannot be used leaves everything as it is."""
        try:
            wanted = await asyncio.to_thread(self._read)
            found = changes(self._running, wanted)
            steps = [
                await asyncio.to_thread(prepare, wanted)  # files may be read and tried out
                for sections, prepare in self._parts.items()
                if sections in self._anew or found.touch(*sections.split())
            ]
        except ConfigError as error:
            log.error("reload_refused", problem=str(error), remedy="correct it and reload again")
            return
        for step in steps:
            await step()
        self._running = running_after(self._running, wanted)
        if found.restart:
            log.warning("restart_needed", keys=found.restart)
        log.info("reloaded", changed=found.live)
