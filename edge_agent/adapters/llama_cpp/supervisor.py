"""The agent's side of the llama.cpp worker: it starts, watches and restarts the process."""

from __future__ import annotations

import asyncio
import secrets
import string
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Final

import structlog

from edge_agent.adapters.llama_cpp.answers import AnswerBuilder
from edge_agent.adapters.llama_cpp.arms import ArmCondition, ArmTable
from edge_agent.adapters.llama_cpp.frames import Frame, FrameTooLargeError
from edge_agent.adapters.llama_cpp.jobs import (
    ChatReceiver,
    Event,
    Job,
    JobTable,
    NeverTaken,
    Receiver,
    VectorReceiver,
)
from edge_agent.adapters.llama_cpp.process import WORKER_COMMAND, WorkerProcess
from edge_agent.adapters.llama_cpp.request import parse_chat
from edge_agent.adapters.llama_cpp.sampling import invalid
from edge_agent.ports import (
    ArmFailed,
    ChatCall,
    ChatEvent,
    Chunk,
    EmbedCall,
    Embedded,
    LocalModel,
    LocalModels,
    ModelState,
    ModelStatus,
    Timing,
)
from shared.clock import Clock
from shared.errors import ProtocolError, invariant

BACKOFF_FIRST_S: Final = 0.25
BACKOFF_S_MAX: Final = 10.0
SUBMITS_MAX: Final = 3
STOP_TIMEOUT_S: Final = 3.0
WATCH_S_MAX: Final = 1.0
FILE_CHECK_MS: Final = 2_000.0

_CALL_ID_SIGNS: Final = string.ascii_letters + string.digits
_CALL_ID_CHARS: Final = 9

_log = structlog.get_logger(__name__)


class LlamaWorker(LocalModels):
    """Local models in a process of their own, so that their crash is not the agent's.

    The worker is restarted after it ends: at once for the first time, then after
    `BACKOFF_FIRST_S`, doubled each time up to `BACKOFF_S_MAX`, until an answer succeeds.

    Parameters
    ----------
    models : sequence of LocalModel
        Each arm at most once.
    clock : Clock
        For `created` and for the watchdog.
    memory_bytes_max : int or None
        For weights and KV caches of all loaded models; None means no limit.
    hang_timeout_s : float
        A worker with work that says nothing for so long is killed. It must exceed the longest
        single step, which is one piece of a prompt.
    start_timeout_s : float
        How long a request waits for the worker to start.
    command : sequence of str
        How to start the worker.

    Raises
    ------
    ConfigError
        When `models` cannot be used.
    """

    def __init__(
        self,
        *,
        models: Sequence[LocalModel],
        clock: Clock,
        memory_bytes_max: int | None = None,
        hang_timeout_s: float = 30.0,
        start_timeout_s: float = 20.0,
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self._models = tuple(models)
        self._clock = clock
        self._memory_bytes_max = memory_bytes_max
        self._hang_ms = hang_timeout_s * 1e3
        self._start_timeout_s = start_timeout_s
        self._command = tuple(command)
        self._arms = ArmTable(self._models, monotonic_ms=clock.monotonic_ms)
        self._jobs = JobTable(measured=self._answered)
        self._resident: tuple[str, ...] = ()
        self._told_resident: list[str] = []
        self._process: WorkerProcess | None = None
        self._ready = asyncio.Event()
        self._heard_ms = 0.0
        self._failures = 0
        self._restarts = 0
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        return self._process.pid if self._process is not None else None

    @property
    def restarts(self) -> int:
        """How often the worker was started again."""
        return self._restarts

    async def start(self) -> None:
        """Start supervising; files are looked at, models are loaded later. Without any: nothing."""
        invariant(not self._tasks, "the worker is started once")
        if not self._models:
            return  # an idle process takes memory, too
        await asyncio.to_thread(self._arms.check_files)
        self._tasks = (
            asyncio.create_task(self._supervise(), name="llama-worker"),
            asyncio.create_task(self._watch(), name="llama-watchdog"),
        )

    async def stop(self) -> None:
        """End the worker and wait for it; running answers fail with `worker_stopped`."""
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        process, self._process = self._process, None
        self._ready.clear()
        self._jobs.stop("worker_stopped", "the agent is shutting down: try again later")
        if process is not None:
            await process.close(timeout_s=STOP_TIMEOUT_S)
            await process.wait()
        self._arms.worker_ended(crashed=False)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def status(self) -> Sequence[ModelStatus]:
        """The condition of every configured model, from memory."""
        return self._arms.statuses()

    async def keep_resident(self, arms: Sequence[str]) -> None:
        """Prefer these arms in memory; names that are not configured here have no effect."""
        self._resident = tuple(arm for arm in arms if self._arms.get(arm) is not None)
        if self._ready.is_set():
            self._send_resident()

    async def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        """Answer a call; see `ChatBackend.chat`.

        Raises
        ------
        ArmFailed
            `not_configured`, `model_broken`, `invalid_request`, `unsupported`,
            `context_length_exceeded`, `decode_failed`, `worker_defect`, `worker_unavailable`,
            `worker_crashed` or `worker_stopped`.
        """
        spec = parse_chat(call.body)
        created_unix_s = self._clock.unix_ms() // 1000

        def receiver() -> Receiver:
            return ChatReceiver(
                AnswerBuilder(
                    request_id=call.request_id,
                    arm=call.arm.id,
                    created_unix_s=created_unix_s,
                    choices=spec.n,
                    stream=call.stream,
                    new_call_id=_new_call_id,
                )
            )

        request: Frame = {"op": "chat", "stream": call.stream, "spec": spec.to_json()}
        answer = self._answer(call.arm.id, request, places=spec.n, receiver=receiver)
        async with aclosing(answer) as events:
            async for event in events:
                if not isinstance(event, Embedded):
                    yield event

    async def embed(self, call: EmbedCall) -> Embedded:
        """The vectors of a call's texts; see `EmbeddingBackend.embed`.

        Raises
        ------
        ArmFailed
            As `chat` does.
        """
        texts = len(call.inputs)
        if not texts:
            raise invalid("input", [], "it must hold at least one text")
        request: Frame = {"op": "embed", "inputs": list(call.inputs)}
        answer = self._answer(
            call.arm.id, request, places=1, receiver=lambda: VectorReceiver(texts)
        )
        async with aclosing(answer) as events:
            async for event in events:
                if isinstance(event, Embedded):
                    return event
        raise ArmFailed("no_answer", "the answer ended without a result")

    async def _answer(
        self, arm_id: str, request: Frame, *, places: int, receiver: Callable[[], Receiver]
    ) -> AsyncGenerator[Event]:
        """Give a request to the worker, and to the next one if the first never saw it."""
        arm = self._usable(arm_id)
        for _ in range(SUBMITS_MAX):
            await self._wait_until_ready()
            job = self._submit(arm, request, places=places, receiver=receiver())
            try:
                while not isinstance(event := await job.events.get(), NeverTaken):
                    if isinstance(event, ArmFailed):
                        raise event
                    yield event
                    if not isinstance(event, Chunk):
                        return
            finally:
                if self._jobs.drop(job) and self._process is not None:
                    self._process.send({"op": "cancel", "id": job.key})
        raise ArmFailed("worker_crashed", f"the llama.cpp worker ended {SUBMITS_MAX} times")

    def _usable(self, arm_id: str) -> ArmCondition:
        arm = self._arms.get(arm_id)
        if arm is None:
            raise ArmFailed(
                "not_configured",
                f"no local model is configured for arm {arm_id!r}: add one to the agent's "
                "configuration",
            )
        if arm.state is ModelState.BROKEN:
            raise ArmFailed("model_broken", arm.problem)
        return arm

    async def _wait_until_ready(self) -> None:
        if self._ready.is_set():
            return
        try:
            await asyncio.wait_for(self._ready.wait(), self._start_timeout_s)
        except TimeoutError:
            raise ArmFailed(
                "worker_unavailable",
                f"the llama.cpp worker did not start within {self._start_timeout_s:g} s: see "
                "the agent's log for its last words",
            ) from None

    def _submit(self, arm: ArmCondition, request: Frame, *, places: int, receiver: Receiver) -> Job:
        process = self._process
        if process is None:
            raise ArmFailed("worker_crashed", "the llama.cpp worker ended: try again")
        if not self._jobs:
            # An idle worker is silent; its patience starts now.
            self._heard_ms = self._clock.monotonic_ms()
        job = self._jobs.add(arm, places=places, receiver=receiver)
        try:
            process.send({**request, "id": job.key, "arm": arm.model.arm})
        except FrameTooLargeError as error:
            self._jobs.drop(job)
            raise ArmFailed(
                "invalid_request",
                f"the request has {error.size_bytes} bytes, too many for a local model: shorten it",
                client_error=True,
            ) from error
        return job

    async def _supervise(self) -> None:
        while True:
            process = await self._spawn()
            if process is not None:
                try:
                    await self._converse(process)
                except (ProtocolError, KeyError, TypeError, ValueError) as error:
                    _log.error("llama_worker_spoke_nonsense", error=repr(error))
                await self._bury(process)
            self._failures += 1
            await asyncio.sleep(backoff_s(self._failures))
            self._restarts += 1

    async def _spawn(self) -> WorkerProcess | None:
        try:
            process = await WorkerProcess.start(self._command)
        except OSError as error:
            _log.error("llama_worker_not_started", command=self._command[0], error=str(error))
            return None
        self._heard_ms = self._clock.monotonic_ms()
        self._process = process
        process.send(
            {
                "op": "configure",
                "models": [asdict(model) for model in self._models],
                "memory_bytes_max": self._memory_bytes_max,
            }
        )
        return process

    async def _converse(self, process: WorkerProcess) -> None:
        async for frame in process.frames():
            self._heard_ms = self._clock.monotonic_ms()
            self._handle(frame)

    async def _bury(self, process: WorkerProcess) -> None:
        self._ready.clear()
        self._process = None
        self._arms.worker_ended(crashed=True)
        self._jobs.fail("worker_crashed", "the llama.cpp worker ended in mid-answer: try again")
        process.kill()
        code = await process.wait()
        _log.warning("llama_worker_ended", exit_code=code, last_words=process.last_words)

    def _handle(self, frame: Frame) -> None:
        operation = frame["op"]
        if operation == "step":
            for output in frame["out"]:
                self._jobs.deliver(output)
        elif operation == "model":
            self._arms.apply(frame)
        elif operation == "ready":
            self._ready.set()
            self._send_resident()
        elif operation == "log":
            report = _log.warning if frame["level"] == "error" else _log.debug
            report("llama_cpp", text=frame["text"])
        elif operation != "beat":
            raise ProtocolError(f"the worker sent {operation!r}, which this agent does not know")

    def _answered(self, arm: ArmCondition, timing: Timing) -> None:
        self._failures = 0
        self._arms.measured(arm, timing.run_ms)
        _log.debug("llama_answer", arm=arm.model.arm, ttft_ms=timing.ttft_ms, run_ms=timing.run_ms)

    def _send_resident(self) -> None:
        self._told_resident = self._usable_resident()
        if self._process is not None and self._resident:
            self._process.send({"op": "resident", "arms": self._told_resident})

    def _usable_resident(self) -> list[str]:
        conditions = {arm_id: self._arms.get(arm_id) for arm_id in self._resident}
        return [
            arm_id
            for arm_id, arm in conditions.items()
            if arm is not None and arm.state is not ModelState.BROKEN
        ]

    async def _watch(self) -> None:
        """Kill a worker that hangs, and notice when a broken model file was replaced."""
        tick_s = min(self._hang_ms / 4e3, WATCH_S_MAX)
        suspect: WorkerProcess | None = None
        checked_ms = self._clock.monotonic_ms()
        while True:
            await asyncio.sleep(tick_s)
            # Twice in a row: what was said while the agent itself was held up is read between.
            hanging = self._process if self._hangs() else None
            if hanging is not None and hanging is suspect:
                _log.error("llama_worker_hangs", silent_ms=self._silent_ms(), pid=hanging.pid)
                hanging.kill()
            suspect = hanging
            if self._clock.monotonic_ms() - checked_ms > FILE_CHECK_MS:
                self._arms.check_files()
                checked_ms = self._clock.monotonic_ms()
                if self._ready.is_set() and self._told_resident != self._usable_resident():
                    self._send_resident()

    def _silent_ms(self) -> float:
        return self._clock.monotonic_ms() - self._heard_ms

    def _hangs(self) -> bool:
        if not self._ready.is_set():
            return self._silent_ms() > max(self._hang_ms, self._start_timeout_s * 1e3)
        now_ms = self._clock.monotonic_ms()
        if any(arm.load_is_late(now_ms=now_ms, patience_ms=self._hang_ms) for arm in self._arms):
            return True
        return bool(self._jobs) and self._silent_ms() > self._hang_ms


def backoff_s(failures: int) -> float:
    """How long to wait before the next start after so many failures in a row."""
    if failures <= 1:
        return 0.0
    return float(min(BACKOFF_FIRST_S * 2 ** min(failures - 2, 30), BACKOFF_S_MAX))


def _new_call_id() -> str:
    """A name for a call of a tool; the templates of Mistral's models take no other form."""
    return "".join(secrets.choice(_CALL_ID_SIGNS) for _ in range(_CALL_ID_CHARS))
