"""Task classes from a model in ONNX format, on the device itself (promise P7).

numpy and onnxruntime, 45 MB and half a second at the start, are loaded as soon as the fleet has
task classes to tell apart, and not before, except to try out what an operator has set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

import edge_agent
from edge_agent.candidates import OTHER_CLASS
from edge_agent.ports import Classifier, Guess
from shared.errors import ConfigError

if TYPE_CHECKING:
    from shared.task_model import TaskModel

SHIPPED_MODEL: Final = Path(edge_agent.__file__).parent / "task_model" / "tasks.onnx"

log = structlog.get_logger(__name__)


class OnnxClassifier(Classifier):
    """Asks a model for the class of each request; see `shared/task_model.py` for its file.

    Classes of the model that the fleet does not have count as `other`. Several of them may stand
    for one of the fleet's: their probabilities add up.

    Parameters
    ----------
    threshold : float
        A guess that is less sure is `other`.
    renamed : mapping
        The model's class to the fleet's, where their names differ.
    eager : bool
        Load the model also for a fleet without task classes, so that a problem is known at once.
    """

    def __init__(
        self, path: Path, *, threshold: float, renamed: Mapping[str, str], eager: bool = False
    ) -> None:
        self.eager = eager
        self._path = path
        self._threshold = threshold
        self._renamed = dict(renamed)
        self._model: TaskModel | None = None
        self._names: tuple[str, ...] = (OTHER_CLASS,)
        self._name_of: tuple[int, ...] = ()
        self._problem = ""

    @property
    def classes(self) -> Sequence[str]:
        return self._names[1:] if self._model is not None else ()

    @property
    def knows(self) -> frozenset[str]:
        """The classes that the model can tell apart, by the fleet's names; none before `load`."""
        return frozenset(self._becomes)

    @property
    def _becomes(self) -> list[str]:
        own = self._model.classes if self._model is not None else ()
        return [self._renamed.get(name, name) for name in own]

    @property
    def problem(self) -> str:
        return self._problem

    async def prepare(self, classes: Collection[str]) -> None:
        wanted = frozenset(classes) - {OTHER_CLASS}
        if self._model is None and not self._problem and (wanted or self.eager):
            try:
                await asyncio.to_thread(self.load)
            except ConfigError as error:
                self._fail(str(error))
        if self._model is None or not wanted:
            self._names = (OTHER_CLASS,)
            return
        found = sorted(wanted & self.knows)
        self._names = (OTHER_CLASS, *found)
        self._name_of = tuple(
            self._names.index(name) if name in found else 0 for name in self._becomes
        )
        log.info("classifier_ready" if found else "classifier_idle", classes=found)
        if missing := sorted(set(self._renamed.values()) - wanted):
            log.warning("classifier_renames_to_unknown_classes", classes=missing)

    def classify(self, text: str) -> Guess | None:
        model, names = self._model, self._names
        if model is None or len(names) == 1 or not text.strip():
            return None
        try:
            likely = model.probabilities(text).tolist()
        except Exception as error:  # noqa: BLE001 - onnxruntime names no type; requests go on
            self._fail(f"{self._path} failed on a request: {error}; restart the agent")
            return None
        sums = [0.0] * len(names)
        for name, share in zip(self._name_of, likely, strict=True):
            sums[name] += share
        best = max(range(len(sums)), key=sums.__getitem__)
        sure = sums[best] >= self._threshold
        return Guess(names[best] if sure else OTHER_CLASS, names[best], sums[best])

    def load(self) -> None:
        """Read the model and try it out.

        Raises
        ------
        ConfigError
            When it cannot be used: naming the file, what is wrong and what to do.
        """
        # Here, not above: devices without task classes do without it.
        from shared.task_model import load_task_model  # noqa: PLC0415

        try:
            data = self._path.read_bytes()
        except OSError as error:
            raise ConfigError(
                str(self._path), f"cannot be read: {error.strerror}; correct classifier.path"
            ) from error
        model = load_task_model(data, source=str(self._path))
        unknown = sorted(set(self._renamed) - set(model.classes))
        if unknown:
            raise ConfigError(
                f"classifier.classes.{unknown[0]}",
                f"{self._path} has no such class; it has {', '.join(model.classes)}",
            )
        self._model = model

    def _fail(self, problem: str) -> None:
        """Every request is `other` from here on; said once."""
        self._model, self._problem = None, problem
        log.error("classifier_broken", problem=problem)
