"""Reloading: as a whole or not at all, and without two workers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_agent.adapters.reloadable_models import ReloadableModels
from edge_agent.adapters.reloader import Apply, Reloader
from edge_agent.config import AgentConfig, load
from edge_agent.ports import (
    ArmFailed,
    ChatCall,
    ChatEvent,
    Chunk,
    EmbedCall,
    Embedded,
    Finished,
    LocalModels,
    ModelState,
    ModelStatus,
    Usage,
)
from shared.errors import ConfigError
from shared.settings import ConfigProblems, Problem
from tests.fakes.samples import local_arm


def config(**overrides: Any) -> AgentConfig:
    """A configuration with a name of its own."""
    return load(None, {"name": "pi", **overrides})


class Parts:
    """What a reload does to an agent, noted."""

    def __init__(self, read: Callable[[], AgentConfig], *, anew: Sequence[str] = ()) -> None:
        self.done: list[str] = []
        self.refuse = ""
        self.reloader = Reloader(
            config(),
            read=read,
            parts={"log": self._part("log"), "library models": self._part("models")},
            anew=anew,
        )

    def _part(self, name: str) -> Callable[[AgentConfig], Apply]:
        def prepare(_: AgentConfig) -> Apply:
            if self.refuse == name:
                raise ConfigError(name, "cannot be used")

            async def apply() -> None:
                self.done.append(name)

            return apply

        return prepare


CHANGED = {"log": {"level": "debug"}, "models": [{"arm": "a", "path": "a"}]}


async def test_only_what_has_changed_is_taken_over() -> None:
    """Each table by its own part; what waits for a restart is told."""
    parts = Parts(lambda: config(log={"level": "debug"}, listen="127.0.0.1:1"))
    with capture_logs() as logs:
        await parts.reloader.reload()
    assert ["log"] == parts.done
    assert {"restart_needed": ("listen",), "reloaded": ("log.level",)} == {
        entry["event"]: entry.get("keys") or entry.get("changed") for entry in logs
    }
    assert ("debug", 7480) == (
        parts.reloader.running.log.level,
        parts.reloader.running.listen.port,
    )


async def test_what_is_referred_to_is_read_anew() -> None:
    """A key's file may hold another secret now, under the same name."""
    parts = Parts(config, anew=["log"])
    await parts.reloader.reload()
    assert ["log"] == parts.done


async def test_a_configuration_that_cannot_be_used_changes_nothing() -> None:
    """Not even the parts of it that could be; the log says why."""
    parts = Parts(lambda: config(**CHANGED))
    parts.refuse = "models"
    with capture_logs() as logs:
        await parts.reloader.reload()
    assert ([], "info") == (parts.done, parts.reloader.running.log.level)
    assert ["reload_refused"] == [entry["event"] for entry in logs]
    parts.refuse = ""
    await parts.reloader.reload()
    assert ["log", "models"] == parts.done


async def test_a_broken_file_keeps_the_old_configuration() -> None:
    """Every problem is in the log."""

    def broken() -> AgentConfig:
        raise ConfigProblems([Problem("lisden", "unknown key")], source="agent.toml")

    parts = Parts(broken)
    with capture_logs() as logs:
        await parts.reloader.reload()
    assert [] == parts.done
    assert "agent.toml: lisden: unknown key" == logs[0]["problem"]


async def test_every_signal_is_followed_by_a_reload() -> None:
    """Also one that comes while a reload is under way."""
    reads: asyncio.Queue[None] = asyncio.Queue()
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def read() -> AgentConfig:
        loop.call_soon_threadsafe(reads.put_nowait, None)
        return config()

    task = asyncio.create_task(Parts(read).reloader.run(asked))
    for _ in range(3):
        asked.set()
        await asyncio.wait_for(reads.get(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Worker(LocalModels):
    """A worker whose answers end when they are let go."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name, self.journal = name, journal
        self.go = asyncio.Event()
        self.stopped = asyncio.Event()

    async def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        self.journal.append(f"{self.name} answers {call.request_id}")
        yield Chunk({"by": self.name})
        ends = [asyncio.ensure_future(each.wait()) for each in (self.go, self.stopped)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self.stopped.is_set():
            raise ArmFailed("worker_stopped", "it was stopped")
        yield Finished(Usage(1, 1))

    async def embed(self, call: EmbedCall) -> Embedded:
        return Embedded(((1.0,),), Usage(len(call.inputs), 0))

    async def start(self) -> None:
        self.journal.append(f"{self.name} starts")

    async def stop(self) -> None:
        self.stopped.set()
        self.journal.append(f"{self.name} stops")

    def status(self) -> Sequence[ModelStatus]:
        return [ModelStatus(self.name, ModelState.LOADED)]

    async def keep_resident(self, arms: Sequence[str]) -> None:
        self.journal.append(f"{self.name} keeps {','.join(arms)}")


def call(request_id: str) -> ChatCall:
    """A call."""
    return ChatCall(request_id, local_arm(), {}, stream=True)


async def answer(models: LocalModels, request_id: str) -> list[ChatEvent]:
    """A whole answer."""
    return [event async for event in models.chat(call(request_id))]


async def steps(count: int = 20) -> None:
    """Let every task go as far as it can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_workers_are_exchanged_when_the_old_one_is_idle() -> None:
    """What is under way ends first; what comes meanwhile waits for the new worker."""
    journal: list[str] = []
    old, new = Worker("old", journal), Worker("new", journal)
    models = ReloadableModels(old)
    await models.start()
    await models.keep_resident(["a"])
    first = asyncio.create_task(answer(models, "r1"))
    await steps()
    exchange = asyncio.create_task(models.exchange(new, grace_s=30.0))
    await steps()
    second = asyncio.create_task(answer(models, "r2"))
    await steps()
    assert not any("new" in line or "r2" in line for line in journal)
    old.go.set()
    await exchange
    new.go.set()
    assert {"by": "new"} == (await second)[0].data  # type: ignore[union-attr]
    assert 2 == len(await first)
    assert [
        "old starts",
        "old keeps a",
        "old answers r1",
        "old stops",
        "new starts",
        "new keeps a",
        "new answers r2",
    ] == journal
    assert ["new"] == [status.arm for status in models.status()]
    embedded = await models.embed(EmbedCall("e", local_arm(), ("x",)))
    assert embedded.usage is not None
    assert 1 == embedded.usage.prompt_tokens


async def test_an_answer_that_takes_too_long_fails_over() -> None:
    """Its request goes to another arm."""
    journal: list[str] = []
    old, new = Worker("old", journal), Worker("new", journal)
    models = ReloadableModels(old)
    stuck = asyncio.create_task(answer(models, "r1"))
    await steps()
    await models.exchange(new, grace_s=0.0)
    with pytest.raises(ArmFailed, match="it was stopped"):
        await stuck
