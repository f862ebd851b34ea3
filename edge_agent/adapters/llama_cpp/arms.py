"""What the supervisor knows of each local arm, from what the worker said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from edge_agent.adapters.llama_cpp.capabilities import capabilities_of
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, read_shape
from edge_agent.ports import LocalModel, ModelState, ModelStatus
from shared.errors import ConfigError

log = structlog.get_logger(__name__)
CRASHES_WHILE_LOADING_MAX: Final = 2
LOAD_BYTES_PER_S_MIN: Final = 20e6
"""A slow memory card; a load that is slower than this counts as hanging."""

_NEW_SERVICE_WEIGHT: Final = 0.2
_FIRST_LOAD_BYTES_PER_S: Final = 400e6


@dataclass
class ArmCondition:
    """A local model's condition.

    Attributes
    ----------
    running : int
        Choices under way or waiting.
    service_ms : float
        How long a choice takes once it has a slot, lately.
    """

    model: LocalModel
    state: ModelState = ModelState.LOADABLE
    problem: str = ""
    file_bytes: int = 0
    running: int = 0
    service_ms: float = 0.0
    load_ms: float = 0.0
    loading_since_ms: float = 0.0
    crashes_while_loading: int = 0
    broken_file: tuple[int, int] | None = None
    known_file: tuple[int, int] | None = None
    capabilities: frozenset[str] = frozenset()

    @property
    def queue_ms(self) -> float:
        """Expected wait of a request that came now."""
        slots = self.model.batch_sequences
        ahead = max(self.running - slots + 1, 0)
        wait_ms = self.service_ms * ahead / slots
        if self.state in (ModelState.LOADABLE, ModelState.LOADING):
            wait_ms += self.load_ms or self.file_bytes / _FIRST_LOAD_BYTES_PER_S * 1e3
        return wait_ms

    def load_is_late(self, *, now_ms: float, patience_ms: float) -> bool:
        """Whether the model is being loaded for longer than even a slow disk explains."""
        if self.state is not ModelState.LOADING:
            return False
        allowed_ms = patience_ms + self.file_bytes / LOAD_BYTES_PER_S_MIN * 1e3
        return now_ms - self.loading_since_ms > allowed_ms


class ArmTable:
    """The conditions of all configured models.

    Parameters
    ----------
    monotonic_ms : callable
        A monotonic clock in milliseconds.
    """

    def __init__(self, models: Sequence[LocalModel], *, monotonic_ms: Callable[[], float]) -> None:
        self._now_ms = monotonic_ms
        self._arms = {model.arm: ArmCondition(model) for model in models}
        if len(self._arms) != len(models):
            raise ConfigError("models", "two local models have the same arm: name each arm once")
        for model in models:
            if model.context_tokens < 1 or not 1 <= model.batch_sequences <= 64:
                raise ConfigError(
                    f"models.{model.arm}",
                    f"context_tokens is {model.context_tokens} and batch_sequences "
                    f"{model.batch_sequences}: give at least 1, and at most 64 sequences",
                )

    def __iter__(self) -> Iterator[ArmCondition]:
        return iter(self._arms.values())

    def get(self, arm: str) -> ArmCondition | None:
        """The condition of an arm, if it is configured."""
        return self._arms.get(arm)

    def statuses(self) -> list[ModelStatus]:
        """The conditions as the port tells them."""
        return [
            ModelStatus(arm, known.state, known.problem, known.queue_ms, known.capabilities)
            for arm, known in self._arms.items()
        ]

    def check_files(self) -> None:
        """Look at every file that is not in use, and whether a broken one was replaced."""
        for known in self._arms.values():
            file = _fingerprint(known.model.path)
            unchanged = known.state is ModelState.BROKEN and file == known.broken_file
            if unchanged or known.state in (ModelState.LOADED, ModelState.LOADING):
                continue
            try:
                if file is None or file != known.known_file:
                    known.file_bytes = read_shape(Path(known.model.path)).file_bytes
                    known.capabilities = capabilities_of(Path(known.model.path))
                    known.known_file = file
            except ModelFileError as error:
                self._break(known, str(error))
            else:
                known.state, known.problem = ModelState.LOADABLE, ""

    def apply(self, frame: dict[str, Any]) -> None:
        """Take over what the worker says of a model."""
        known = self._arms[frame["arm"]]
        state = ModelState(frame["state"])
        if state is ModelState.BROKEN:
            self._break(known, frame["problem"])
            return
        known.state, known.problem = state, ""
        if state is ModelState.LOADING:
            known.loading_since_ms = self._now_ms()
        elif state is ModelState.LOADED:
            known.crashes_while_loading = 0
            known.load_ms = frame["load_ms"]

    def measured(self, known: ArmCondition, run_ms: float) -> None:
        """Note how long an answer took, without its wait."""
        if known.service_ms == 0.0:
            known.service_ms = run_ms
        known.service_ms += _NEW_SERVICE_WEIGHT * (run_ms - known.service_ms)

    def worker_ended(self, *, crashed: bool) -> None:
        """Nothing is loaded any more; a model that keeps killing the worker is broken."""
        for known in self._arms.values():
            if known.state is ModelState.LOADING and crashed:
                known.crashes_while_loading += 1
                if known.crashes_while_loading >= CRASHES_WHILE_LOADING_MAX:
                    self._break(
                        known,
                        f"the worker ended {known.crashes_while_loading} times while it loaded "
                        f"{known.model.path}: check the file and the free memory, then replace "
                        "the file or restart the agent",
                    )
            if known.state is not ModelState.BROKEN:
                known.state = ModelState.LOADABLE

    def _break(self, known: ArmCondition, problem: str) -> None:
        if problem != known.problem:
            log.warning("model_broken", arm=known.model.arm, problem=problem)
        known.state, known.problem = ModelState.BROKEN, problem
        known.broken_file = _fingerprint(known.model.path)


def _fingerprint(path: str) -> tuple[int, int] | None:
    """Changes when the file does; None if there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
