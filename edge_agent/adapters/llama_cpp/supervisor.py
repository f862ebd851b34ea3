"""The agent's side of the llama.cpp worker: it starts, watches and restarts the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import structlog

from edge_agent.adapters.llama_cpp.answers import AnswerBuilder
from edge_agent.adapters.llama_cpp.arms import ArmCondition, ArmTable
from edge_agent.adapters.llama_cpp.frames import Frame, FrameTooLargeError
from edge_agent.adapters.llama_cpp.process import WORKER_COMMAND, WorkerProcess
from edge_agent.adapters.llama_cpp.request import ChatSpec, parse_chat
from edge_agent.ports import (
    ArmFailed,
    ChatCall,
    ChatEvent,
    Finished,
    LocalModel,
    LocalModels,
    ModelState,
    ModelStatus,
)
from shared.clock import Clock
from shared.errors import ProtocolError, invariant

BACKOFF_FIRST_S: Final = 0.25
BACKOFF_S_MAX: Final = 10.0
SUBMITS_MAX: Final = 3
STOP_TIMEOUT_S: Final = 3.0
WATCH_S_MAX: Final = 1.0
FILE_CHECK_MS: Final = 2_000.0

_log = structlog.get_logger(__name__)


class _NeverTaken:
    """The worker ended before it saw a request, which can go to the next one."""


@dataclass(eq=False)
class _Job:
    """A request that was given to the worker; `taken` once the worker has said so."""

    key: int
    arm: ArmCondition
    choices: int
    builder: AnswerBuilder
    taken: bool = False
    events: asyncio.Queue[ChatEvent | ArmFailed | _NeverTaken] = field(
        default_factory=asyncio.Queue
    )


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
        self._jobs: dict[int, _Job] = {}
        self._keys = 0
        self._resident: tuple[str, ...] = ()
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
        """Start supervising; files are looked at, models are loaded later."""
        invariant(not self._tasks, "the worker is started once")
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
        self._fail_jobs("worker_stopped", "the agent is shutting down: try again later")
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
            `not_configured`, `model_broken`, `invalid_request`, `context_length_exceeded`,
            `decode_failed`, `worker_unavailable`, `worker_crashed` or `worker_stopped`.
        """
        arm = self._usable(call.arm.id)
        spec = parse_chat(call.body)
        for _ in range(SUBMITS_MAX):
            await self._wait_until_ready()
            job = self._submit(call, arm, spec)
            try:
                while not isinstance(event := await job.events.get(), _NeverTaken):
                    if isinstance(event, ArmFailed):
                        raise event
                    yield event
                    if isinstance(event, Finished):
                        return
            finally:
                if self._drop(job) and self._process is not None:
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

    def _submit(self, call: ChatCall, arm: ArmCondition, spec: ChatSpec) -> _Job:
        process = self._process
        if process is None:
            raise ArmFailed("worker_crashed", "the llama.cpp worker ended: try again")
        self._keys += 1
        builder = AnswerBuilder(
            request_id=call.request_id,
            arm=call.arm.id,
            created_unix_s=self._clock.unix_ms() // 1000,
            choices=spec.n,
            stream=call.stream,
        )
        job = _Job(self._keys, arm, spec.n, builder)
        frame = {"op": "chat", "id": job.key, "arm": call.arm.id, "stream": call.stream}
        try:
            process.send({**frame, "spec": spec.to_json()})
        except FrameTooLargeError as error:
            raise ArmFailed("invalid_request", f"the request is too large: {error}") from error
        if not self._jobs:
            # An idle worker is silent; its patience starts now.
            self._heard_ms = self._clock.monotonic_ms()
        self._jobs[job.key] = job
        arm.running += job.choices
        return job

    def _drop(self, job: _Job) -> bool:
        """Forget a job; whether the worker may still be at it."""
        if self._jobs.pop(job.key, None) is None:
            return False
        job.arm.running -= job.choices
        return True

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
        for job in [job for job in self._jobs.values() if not job.taken]:
            self._drop(job)
            job.events.put_nowait(_NeverTaken())
        self._fail_jobs("worker_crashed", "the llama.cpp worker ended in mid-answer: try again")
        process.kill()
        code = await process.wait()
        _log.warning("llama_worker_ended", exit_code=code, last_words=process.last_words)

    def _fail_jobs(self, reason: str, message: str) -> None:
        for job in list(self._jobs.values()):
            self._drop(job)
            job.events.put_nowait(ArmFailed(reason, message))

    def _handle(self, frame: Frame) -> None:
        operation = frame["op"]
        if operation == "step":
            for output in frame["out"]:
                self._deliver(output)
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

    def _deliver(self, output: list[Any]) -> None:
        kind, key, *rest = output
        job = self._jobs.get(key)
        if job is None:
            return
        if kind == "a":
            job.taken = True
            return
        if kind == "t":
            for chunk in job.builder.text(*rest):
                job.events.put_nowait(chunk)
            return
        self._drop(job)
        if kind == "f":
            reason, message, client_error = rest
            job.events.put_nowait(ArmFailed(reason, message, client_error=client_error))
            return
        prompt_tokens, completion_tokens, cached_tokens, ttft_ms, run_ms = rest
        self._failures = 0
        self._arms.measured(job.arm, run_ms)
        _log.debug("llama_answer", arm=job.arm.model.arm, ttft_ms=ttft_ms, run_ms=run_ms)
        job.events.put_nowait(
            job.builder.finished(
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cached_tokens=cached_tokens,
            )
        )

    def _send_resident(self) -> None:
        usable = [arm for arm in self._resident if self._is_usable(arm)]
        if self._process is not None and self._resident:
            self._process.send({"op": "resident", "arms": usable})

    def _is_usable(self, arm_id: str) -> bool:
        arm = self._arms.get(arm_id)
        return arm is not None and arm.state is not ModelState.BROKEN

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
