"""A demand model in ONNX format, run by onnxruntime on one thread.

Opens no file: whoever may (the coordinator's daemon, the lab) reads the bytes and passes them in.
"""

from typing import Any, Final

import numpy as np

from coordinator.forecast.base import FloatArray
from shared.errors import ConfigError

INPUT_NAME: Final = "history"
OUTPUT_NAME: Final = "path"
HISTORY_SLOTS_MAX: Final = 4_096

CONTRACT: Final = (
    f"expected one float32 input '{INPUT_NAME}' of shape (series, L) and one float32 output "
    f"'{OUTPUT_NAME}' of shape (series, H), with any number of series and fixed L, H of at least 1"
)


class OnnxModel:
    """See ``PathModel``; made by ``load_onnx``."""

    def __init__(self, session: Any, *, history_slots: int, path_slots: int) -> None:
        self._session = session
        self._history_slots = history_slots
        self._path_slots = path_slots

    @property
    def history_slots(self) -> int:
        """See ``PathModel.history_slots``."""
        return self._history_slots

    @property
    def path_slots(self) -> int:
        """See ``PathModel.path_slots``."""
        return self._path_slots

    def predict(self, history: FloatArray) -> FloatArray:
        """See ``PathModel.predict``."""
        if not len(history):
            return np.zeros((0, self._path_slots))
        feed = {INPUT_NAME: history.astype(np.float32)}
        found: FloatArray = self._session.run([OUTPUT_NAME], feed)[0].astype(np.float64)
        return found


def load_onnx(data: bytes, *, source: str) -> OnnxModel:
    """Return the model in these bytes, tried out once.

    Parameters
    ----------
    data : bytes
        An ONNX file's content; see ``CONTRACT``.
    source : str
        Where it came from, for messages.

    Raises
    ------
    ConfigError
        When onnxruntime is missing, the bytes are no model, or its shapes do not fit: naming the
        source, what was found and what was expected.
    """
    try:
        # Here, not above: it takes a third of a second, and few fleets use a model.
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(source, "needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConfigError(source, f"is not a model that can be loaded; {CONTRACT}") from error
    length = _width(session.get_inputs(), name=INPUT_NAME, kind="input", source=source)
    path = _width(session.get_outputs(), name=OUTPUT_NAME, kind="output", source=source)
    if length > HISTORY_SLOTS_MAX:
        raise ConfigError(source, f"wants {length} slots of history; {HISTORY_SLOTS_MAX} at most")
    model = OnnxModel(session, history_slots=length, path_slots=path)
    for series in (1, 2):
        _try_out(model, series=series, source=source)
    return model


def _width(found: Any, *, name: str, kind: str, source: str) -> int:
    """The fixed second axis of the one input or output."""
    seen = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in found) or "none"
    problem = f"has the {kind} {seen}; {CONTRACT}"
    if len(found) != 1 or found[0].name != name or found[0].type != "tensor(float)":
        raise ConfigError(source, problem)
    shape = found[0].shape
    if len(shape) != 2 or not isinstance(shape[1], int) or shape[1] < 1:
        raise ConfigError(source, problem)
    return int(shape[1])


def _try_out(model: OnnxModel, *, series: int, source: str) -> None:
    try:
        found = model.predict(np.ones((series, model.history_slots)))
    except Exception as error:
        raise ConfigError(source, f"fails on {series} series: {error}; {CONTRACT}") from error
    if found.shape != (series, model.path_slots) or not np.all(np.isfinite(found)):
        problem = f"gives shape {found.shape} for {series} series, or values that are no numbers"
        raise ConfigError(source, f"{problem}; {CONTRACT}")
