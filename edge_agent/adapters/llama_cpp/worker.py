"""The worker process: models, one decoding thread, frames on standard input and output.

Started by `LlamaWorker` as `python -m edge_agent.adapters.llama_cpp.worker`. It ends when its
input ends, so it never outlives the agent.

Threads: one reads frames, one loads models, the main one does everything else. They meet in
one queue.
"""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge_agent.adapters.llama_cpp.embedding_model import EmbeddingModel
from edge_agent.adapters.llama_cpp.embedding_scheduler import EmbeddingScheduler
from edge_agent.adapters.llama_cpp.frames import Frame
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, memory_bytes, read_shape
from edge_agent.adapters.llama_cpp.model import LlamaModel
from edge_agent.adapters.llama_cpp.native_log import start_backend
from edge_agent.adapters.llama_cpp.outputs import (
    JobDone,
    JobFailed,
    Output,
    TextProduced,
    VectorMade,
    defect,
)
from edge_agent.adapters.llama_cpp.pipe import Pipe
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.residency import Residency, Room
from edge_agent.adapters.llama_cpp.sampler import Sampler
from edge_agent.adapters.llama_cpp.sampling import unsupported
from edge_agent.adapters.llama_cpp.scheduler import Scheduler
from edge_agent.ports import ArmFailed, LocalModel, ModelState

BEAT_S: Final = 0.25
"""With work at hand the agent hears something at least this often, except within a step."""

EXIT_S_MAX: Final = 2.0
OOM_SCORE_FILE: Final = Path("/proc/self/oom_score_adj")
OOM_SCORE: Final = 500
MESSAGE_CHARS_MAX: Final = 2_000

LlamaScheduler = Scheduler[Sampler]
AnyModel = LlamaModel | EmbeddingModel
AnyScheduler = LlamaScheduler | EmbeddingScheduler


@dataclass(frozen=True)
class _Loaded:
    """The loading thread's result: a model, or what is wrong with it."""

    arm: str
    model: AnyModel | None
    problem: str
    load_ms: float


@dataclass(frozen=True)
class _InputEnded:
    """The agent closed the pipe, or died."""


_Event = Frame | _Loaded | _InputEnded


def load_model(settings: LocalModel) -> AnyModel:
    """Load a model of the kind that its file says.

    Raises
    ------
    ModelFileError
        When the file cannot be loaded, or memory does not suffice.
    """
    embeds = read_shape(Path(settings.path)).embeds
    return EmbeddingModel(settings) if embeds else LlamaModel(settings)


class Worker:
    """Routes requests to the schedulers of the loaded models.

    Parameters
    ----------
    send : callable
        Sends a frame to the agent; may be called from any thread.
    models : sequence of LocalModel
        Every model that may be asked for.
    load : callable
        Loads a model; raises `ModelFileError`. Called in the loading thread.
    """

    def __init__(
        self,
        *,
        send: Callable[[Frame], None],
        models: list[LocalModel],
        memory_bytes_max: int | None,
        load: Callable[[LocalModel], AnyModel] = load_model,
    ) -> None:
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._send = send
        self._load = load
        self._models = {model.arm: model for model in models}
        self._residency = Residency(
            memory_bytes_max=memory_bytes_max,
            memory_bytes=lambda arm: memory_bytes(self._models[arm]),
        )
        self._schedulers: dict[str, AnyScheduler] = {}
        self._pending: deque[Frame] = deque()
        self._to_load: deque[str] = deque()
        self._arm_of: dict[int, str] = {}
        self._loads: queue.SimpleQueue[LocalModel] = queue.SimpleQueue()
        self._loading: str | None = None
        self._blocked = False
        self._room_changed = False
        self._sent_s = 0.0

    def run(self) -> None:
        """Serve until the input ends."""
        threading.Thread(target=self._load_forever, name="load", daemon=True).start()
        while self._take_events():
            self._start_loads()
            self._dispatch()
            now = time.perf_counter()
            outputs: list[Output] = []
            for scheduler in self._schedulers.values():
                due_s = scheduler.due_s()
                if due_s is not None and due_s <= now:
                    outputs += scheduler.step()
            if outputs:
                self._report(outputs)
            elif self._has_work() and now - self._sent_s > BEAT_S:
                self._emit({"op": "beat"})

    def _take_events(self) -> bool:
        """Handle what has come in; wait if there is nothing to decode. False at the end."""
        wait_s = self._wait_s()
        while True:
            try:
                event = self.events.get(block=wait_s != 0.0, timeout=wait_s)
            except queue.Empty:
                return True
            wait_s = 0.0
            if isinstance(event, _InputEnded):
                return False
            if isinstance(event, _Loaded):
                self._finish_load(event)
            else:
                self._handle(event)

    def _wait_s(self) -> float | None:
        """How long nothing needs to be decoded; None means until something comes in."""
        if self._room_changed:
            return 0.0
        if not self._has_work():
            return None
        now = time.perf_counter()
        dues = [due for s in self._schedulers.values() if (due := s.due_s()) is not None]
        return min(max(min(dues, default=now + BEAT_S) - now, 0.0), BEAT_S)

    def _has_work(self) -> bool:
        return bool(self._arm_of or self._loading or self._to_load)

    def _handle(self, frame: Frame) -> None:
        operation = frame["op"]
        if operation in ("chat", "embed"):
            self._arm_of[frame["id"]] = frame["arm"]
            self._pending.append({**frame, "arrived_s": time.perf_counter()})
            self._emit({"op": "step", "out": [["a", frame["id"]]]})
        elif operation == "cancel":
            self._cancel(frame["id"])
        elif operation == "resident":
            self._residency.prefer(frame["arms"])
            self._room_changed = True
        else:
            raise ValueError(f"unknown operation {operation!r}: agent and worker differ in age")

    def _add(self, scheduler: AnyScheduler, frame: Frame) -> None:
        self._residency.used(frame["arm"])
        key, arrived_s = frame["id"], frame["arrived_s"]
        try:
            if isinstance(scheduler, EmbeddingScheduler):
                if frame["op"] != "embed":
                    raise unsupported("messages", f"{frame['arm']} makes embeddings, no text")
                scheduler.add(key, frame["inputs"], arrived_s=arrived_s)
            elif frame["op"] != "chat":
                raise unsupported("input", f"{frame['arm']} makes text, no embeddings")
            else:
                spec = ChatSpec.from_json(frame["spec"])
                scheduler.add(key, spec, stream=frame["stream"], arrived_s=arrived_s)
        except ArmFailed as failure:
            self._report([JobFailed(key, failure)])
        except Exception as error:  # noqa: BLE001 - told to its client; the others go on
            scheduler.cancel(key)
            self._report([JobFailed(key, defect(error))])

    def _cancel(self, key: int) -> None:
        arm = self._arm_of.pop(key, None)
        scheduler = self._schedulers.get(arm) if arm is not None else None
        if scheduler is not None:
            scheduler.cancel(key)
            self._room_changed |= scheduler.idle
        self._pending = deque(frame for frame in self._pending if frame["id"] != key)

    def _dispatch(self) -> None:
        """Hand requests to the loaded models; ask for the models that are not.

        While a model waits for memory that only busy models could give, these get no more
        work: they would never become idle, and its requests would never be answered.
        """
        for frame in list(self._pending):
            if self._blocked:
                return
            if frame["arm"] in self._schedulers:
                self._pending.remove(frame)
                self._add(self._schedulers[frame["arm"]], frame)
            elif frame["id"] in self._arm_of:
                self._want(frame["arm"])
                self._start_loads()

    def _hand_over(self, arm: str) -> None:
        """Give a loaded model all requests that wait for it."""
        for frame in [frame for frame in self._pending if frame["arm"] == arm]:
            self._pending.remove(frame)
            self._add(self._schedulers[arm], frame)

    def _want(self, arm: str) -> None:
        if arm != self._loading and arm not in self._to_load:
            self._to_load.append(arm)

    def _start_loads(self) -> None:
        """Begin to load the next model, if there is room for it."""
        self._blocked = False
        if self._room_changed:
            # What the table wants in memory comes as soon as it fits, not only when it is asked.
            self._room_changed = False
            for arm in self._residency.preferred:
                if arm not in self._schedulers:
                    self._want(arm)
        while self._to_load and self._loading is None and not self._blocked:
            self._start_load(self._to_load.popleft())

    def _start_load(self, arm: str) -> None:
        asked_for = any(frame["arm"] == arm for frame in self._pending)
        keep = [name for name, scheduler in self._schedulers.items() if not scheduler.idle]
        if not asked_for:
            keep += self._residency.preferred
        try:
            plan = self._residency.plan(arm, keep=keep)
        except ModelFileError as error:
            self._break(arm, str(error))
            return
        if plan.room is Room.NEVER:
            self._break(arm, plan.problem)
        elif plan.room is Room.FREE:
            for other in plan.unload:
                self._unload(other)
            self._residency.add(arm)
            self._loading = arm
            self._tell_state(arm, ModelState.LOADING)
            self._loads.put(self._models[arm])
        elif asked_for:
            self._to_load.appendleft(arm)
            self._blocked = True

    def _break(self, arm: str, problem: str) -> None:
        self._tell_state(arm, ModelState.BROKEN, problem)
        # The agent says when it is worth another try.
        self._residency.prefer([other for other in self._residency.preferred if other != arm])
        failure = ArmFailed("model_broken", problem)
        for frame in [frame for frame in self._pending if frame["arm"] == arm]:
            self._pending.remove(frame)
            self._report([JobFailed(frame["id"], failure)])

    def _unload(self, arm: str) -> None:
        self._schedulers.pop(arm).close()
        self._residency.remove(arm)
        self._tell_state(arm, ModelState.LOADABLE)

    def _finish_load(self, loaded: _Loaded) -> None:
        self._loading = None
        if loaded.model is None:
            self._residency.remove(loaded.arm)
            self._break(loaded.arm, loaded.problem)
            return
        scheduler = self._scheduler(loaded.arm, loaded.model)
        self._schedulers[loaded.arm] = scheduler
        self._tell_state(loaded.arm, ModelState.LOADED, load_ms=loaded.load_ms)
        # At once: another model that wants the room must find this one busy.
        self._hand_over(loaded.arm)

    def _scheduler(self, arm: str, model: AnyModel) -> AnyScheduler:
        if isinstance(model, EmbeddingModel):
            return EmbeddingScheduler(model, monotonic_s=time.perf_counter)
        return LlamaScheduler(
            model,
            monotonic_s=time.perf_counter,
            tokens_per_second_max=self._models[arm].tokens_per_second_max,
        )

    def _load_forever(self) -> None:
        while True:
            settings = self._loads.get()
            started = time.perf_counter()
            model, problem = None, ""
            try:
                model = self._load(settings)
            except ModelFileError as error:
                problem = str(error)
            load_ms = (time.perf_counter() - started) * 1e3
            self.events.put(_Loaded(settings.arm, model, problem, load_ms))

    def _tell_state(
        self, arm: str, state: ModelState, problem: str = "", *, load_ms: float = 0.0
    ) -> None:
        self._emit(
            {"op": "model", "arm": arm, "state": state, "problem": problem, "load_ms": load_ms}
        )

    def _report(self, outputs: list[Output]) -> None:
        self._emit({"op": "step", "out": [self._as_json(output) for output in outputs]})

    def _as_json(self, output: Output) -> list[Any]:
        if isinstance(output, TextProduced):
            told = ["t", output.job, output.choice, output.text, output.finish_reason]
            if output.calls or output.logprobs:
                told.append([[part.call, part.name, part.arguments] for part in output.calls])
                told.append([entry.to_json() for entry in output.logprobs])
            return told
        if isinstance(output, VectorMade):
            return ["v", output.job, output.index, base64.b64encode(output.vector).decode()]
        self._ended(output.job)
        if isinstance(output, JobFailed):
            failure = output.failure
            message = str(failure)[:MESSAGE_CHARS_MAX]
            return ["f", output.job, failure.reason, message, failure.client_error, failure.param]
        usage = [output.prompt_tokens, 0, 0]
        if isinstance(output, JobDone):
            usage[1:] = [output.completion_tokens, output.cached_tokens]
        return ["d", output.job, *usage, output.ttft_ms, output.run_ms]

    def _ended(self, key: int) -> None:
        arm = self._arm_of.pop(key, None)
        scheduler = self._schedulers.get(arm) if arm is not None else None
        self._room_changed |= scheduler is not None and scheduler.idle

    def _emit(self, frame: Frame) -> None:
        self._sent_s = time.perf_counter()
        self._send(frame)


def _read_forever(pipe: Pipe, events: queue.SimpleQueue[_Event]) -> None:
    try:
        while frames := pipe.receive():
            for frame in frames:
                events.put(frame)
    finally:
        events.put(_InputEnded())
        # The main thread may hang in a step; without the agent nobody would kill it.
        time.sleep(EXIT_S_MAX)
        os._exit(1)


def _end_with_thread(failed: threading.ExceptHookArgs) -> None:
    """Without one of its threads the worker is of no use: end, and be started anew."""
    sys.excepthook(failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback)
    sys.stderr.flush()
    os._exit(1)


def _go_first_when_memory_runs_out() -> None:
    """The kernel shall end this process rather than the agent, which can start it anew."""
    with contextlib.suppress(OSError):  # only Linux has it
        OOM_SCORE_FILE.write_text(str(OOM_SCORE))


def main() -> int:
    """Run the worker on standard input and output."""
    threading.excepthook = _end_with_thread
    _go_first_when_memory_runs_out()
    # Ctrl-C reaches the whole foreground process group; the agent decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Pipe()
    first, *early = pipe.receive() or [{"op": "closed"}]
    if first["op"] != "configure":
        return 1
    start_backend(lambda level, text: pipe.send({"op": "log", "level": level, "text": text}))
    worker = Worker(
        send=pipe.send,
        models=[LocalModel(**model) for model in first["models"]],
        memory_bytes_max=first["memory_bytes_max"],
    )
    for frame in early:
        worker.events.put(frame)
    reader = threading.Thread(
        target=_read_forever, args=(pipe, worker.events), name="read", daemon=True
    )
    reader.start()
    try:
        pipe.send({"op": "ready"})
        worker.run()
    except BrokenPipeError:
        # The agent is gone; there is nobody left to tell.
        return 0
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # A load under way cannot be interrupted, and the process holds nothing worth saving.
    os._exit(code)
