"""A task model in ONNX format, run by onnxruntime on one thread: text in, probabilities out.

The file holds one graph, and what is needed to use it in its metadata: the features' settings
(`META_FEATURES`) and the names of the classes (`META_CLASSES`). `tidegate-lab train-classifier`
writes such files; opening them is for those who may, so bytes come in.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError
from shared.features import Bag, FeatureSettings, bag_of
from shared.limits import NAME_CHARS_MAX, TASK_CLASSES_MAX

META_FEATURES: Final = "tidegate.features"
META_CLASSES: Final = "tidegate.classes"
INPUT_BUCKETS: Final = "buckets"
INPUT_WEIGHTS: Final = "weights"
OUTPUT: Final = "probabilities"
SUM_TOLERANCE: Final = 1e-3

_CONTRACT: Final = (
    f"expected the int64 input '{INPUT_BUCKETS}' and the float32 input '{INPUT_WEIGHTS}', a text's "
    f"features, and the float32 output '{OUTPUT}', one for each class; `tidegate-lab "
    "train-classifier` writes such a file"
)
_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")


class TaskModel:
    """Made by `load_task_model`."""

    def __init__(
        self, session: Any, *, settings: FeatureSettings, classes: tuple[str, ...]
    ) -> None:
        self._session = session
        self.settings = settings
        self.classes = classes

    def probabilities(self, text: str) -> NDArray[np.float32]:
        """How likely each class is for a text, shape (classes,); they sum to 1."""
        return self._run(bag_of(text, self.settings))

    def try_out(self) -> None:
        """Run it on texts, and on the last bucket that a text can have.

        Raises
        ------
        ValueError
            When it does not give one probability for each class.
        """
        last = Bag(np.array([self.settings.buckets - 1]), np.ones(1, np.float32))
        for bag in (bag_of("", self.settings), bag_of("to be or not to be", self.settings), last):
            found = self._run(bag)
            if found.shape != (len(self.classes),):
                raise ValueError(f"{found.shape} values for {len(self.classes)} classes")
            if not np.all(found >= 0.0) or abs(found.sum() - 1.0) > SUM_TOLERANCE:
                raise ValueError("values that are no probabilities")

    def _run(self, bag: Bag) -> NDArray[np.float32]:
        feed = {INPUT_BUCKETS: bag.buckets, INPUT_WEIGHTS: bag.weights}
        found: NDArray[np.float32] = self._session.run([OUTPUT], feed)[0]
        return found


def load_task_model(data: bytes, *, source: str) -> TaskModel:
    """Return the model in these bytes, tried out once.

    Parameters
    ----------
    data : bytes
        An ONNX file's content.
    source : str
        Where it came from, for messages.

    Raises
    ------
    ConfigError
        When onnxruntime is missing, the bytes are no model, or it is none of ours, or its features
        are not those of this software: naming the source, what was found and what to do.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - not everybody who imports this module runs a model
    except ImportError as error:
        raise ConfigError(source, "needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # a device's memory is dear
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(source, f"is not a model that can be loaded; {_CONTRACT}") from error
    _check_ends(session, source=source)
    said = session.get_modelmeta().custom_metadata_map
    settings = FeatureSettings.from_json(said.get(META_FEATURES, ""), source=source)
    model = TaskModel(
        session, settings=settings, classes=_classes(said.get(META_CLASSES, ""), source=source)
    )
    try:
        model.try_out()
    except Exception as error:
        raise ConfigError(source, f"fails when it is tried out: {error}; {_CONTRACT}") from error
    return model


def _check_ends(session: Any, *, source: str) -> None:
    """Whether inputs and outputs are those of the contract."""
    ends = [
        {one.name: one.type for one in found}
        for found in (session.get_inputs(), session.get_outputs())
    ]
    wanted = {INPUT_BUCKETS: "tensor(int64)", INPUT_WEIGHTS: "tensor(float)"}
    if ends != [wanted, {OUTPUT: "tensor(float)"}]:
        raise ConfigError(source, f"has the inputs {ends[0]} and outputs {ends[1]}; {_CONTRACT}")


def _classes(text: str, *, source: str) -> tuple[str, ...]:
    """The names in the metadata."""
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if (
        not isinstance(names, list)
        or not 2 <= len(names) <= TASK_CLASSES_MAX
        or len(set(map(str, names))) < len(names)
        or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names)
    ):
        raise ConfigError(source, f"does not name its classes: {META_CLASSES} is {text[:200]!r}")
    return tuple(names)
