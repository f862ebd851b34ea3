"""Trained models as forecasters: the contract, the shipped one, and what a broken one leads to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import coordinator.forecast
from coordinator.forecast import Chooser, Neural
from coordinator.forecast.base import FloatArray
from coordinator.forecast.neural import UNKNOWN
from coordinator.forecast.onnx_model import OnnxModel, load_onnx
from shared.errors import ConfigError

SHIPPED = Path(coordinator.forecast.__file__).parent / "models" / "demand.onnx"


class Recorder:
    """A model that remembers what it was asked; every coming slot is the last one."""

    history_slots = 4
    path_slots = 2

    def __init__(self) -> None:
        self.asked: list[FloatArray] = []

    def predict(self, history: FloatArray) -> FloatArray:
        """See `PathModel`."""
        self.asked.append(history)
        return np.repeat(history[:, -1:], 2, axis=1)


class Nonsense(Recorder):
    """A model whose answers are no numbers, or negative."""

    def predict(self, history: FloatArray) -> FloatArray:
        """See `PathModel`."""
        return np.tile([np.nan, -5.0], (len(history), 1))


@pytest.fixture(scope="module")
def shipped() -> OnnxModel:
    """The model that comes with the product."""
    return load_onnx(SHIPPED.read_bytes(), source=str(SHIPPED))


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def field(number: int, value: bytes | int | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def identity(*, given: str, wanted: str, slots: int | None, kind: int = 1) -> bytes:
    """An ONNX file whose output is its input; `kind` 1 is float32, 11 float64."""

    def info(name: str) -> bytes:
        width = field(1, slots) if slots is not None else field(2, "any")
        shape = field(1, field(2, "series")) + field(1, width)
        return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))

    node = field(1, given) + field(2, wanted) + field(4, "Identity")
    graph = field(1, node) + field(2, "g") + field(11, info(given)) + field(12, info(wanted))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def test_the_history_is_padded_and_gaps_are_marked_as_unknown() -> None:
    """The latest slot is last; what nobody has seen is -1, not 0."""
    model = Recorder()
    forecaster = Neural(np.array([3.0]), model=model)
    forecaster.update(5, counts=np.array([7.0]))
    forecaster.update(7, counts=np.array([9.0]))
    assert [[UNKNOWN, 7.0, UNKNOWN, 9.0]] == model.asked[-1].tolist()


def test_beyond_the_path_its_end_is_carried_on() -> None:
    """Two slots of path, ten slots of horizon."""
    forecaster = Neural(np.array([3.0]), model=Recorder())
    assert forecaster.remaining(10).mean[0] == 30.0
    forecaster.update(0, counts=np.array([8.0]))
    assert forecaster.remaining(10).mean[0] == 80.0


def test_answers_that_are_no_demand_count_as_zero() -> None:
    """And the chooser goes on with the others."""
    forecaster = Neural(np.array([3.0]), model=Nonsense())
    chooser = Chooser(np.array([3.0]), model=Nonsense())
    for slot in range(30):
        for one in (forecaster, chooser):
            one.update(slot, counts=np.array([8.0]))
    assert forecaster.remaining(1).mean[0] == 0.0
    assert chooser.remaining(1).mean[0] == pytest.approx(8.0, rel=0.05)


def test_the_shipped_model_carries_a_level_on(shipped: OnnxModel) -> None:
    """At any scale, and each row on its own."""
    steady = np.stack([np.full(64, 0.0), np.full(64, 5.0), np.full(64, 500.0)])
    path = shipped.predict(steady)
    np.testing.assert_allclose(path.mean(axis=1), [0.0, 5.0, 500.0], rtol=0.15, atol=0.15)
    np.testing.assert_allclose(shipped.predict(steady[1:2]), path[1:2], rtol=1e-5)


def test_the_shipped_model_beats_the_mean_on_drifting_demand(shipped: OnnxModel) -> None:
    """A random walk of the rate, 100 series, one slot ahead."""
    rng = np.random.default_rng(31)
    rate = 50.0 * np.exp(np.cumsum(rng.normal(0.0, 0.1, (100, 65)), axis=1))
    counts = rng.poisson(rate).astype(np.float64)
    missed = np.abs(shipped.predict(counts[:, :64])[:, 0] - counts[:, 64]).sum()
    assert missed < 0.5 * np.abs(counts[:, :64].mean(axis=1) - counts[:, 64]).sum()


def test_the_shipped_model_is_small() -> None:
    """It is committed."""
    assert SHIPPED.stat().st_size < 200_000


def test_a_fitting_model_is_taken_as_it_is() -> None:
    """The smallest one that keeps the contract but for its width: H = L."""
    node = identity(given="history", wanted="path", slots=3)
    model = load_onnx(node, source="m.onnx")
    assert (3, 3) == (model.history_slots, model.path_slots)
    np.testing.assert_array_equal(model.predict(np.ones((2, 3))), np.ones((2, 3)))
    assert model.predict(np.ones((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a model that can be loaded"),
        (b"not a model", "not a model that can be loaded"),
        (identity(given="x", wanted="path", slots=3), r"has the input x: tensor\(float\)"),
        (identity(given="history", wanted="y", slots=3), r"has the output y: tensor\(float\)"),
        (identity(given="history", wanted="path", slots=None), "has the input history"),
        (identity(given="history", wanted="path", slots=3, kind=11), r"tensor\(double\)"),
        (identity(given="history", wanted="path", slots=5_000), "5000 slots of history"),
    ],
    ids=["empty", "text", "input name", "output name", "free width", "float64", "too long"],
)
def test_a_model_that_does_not_fit_is_refused(data: bytes, problem: str) -> None:
    """Naming the file, what was found and what was expected."""
    with pytest.raises(ConfigError, match=problem) as refused:
        load_onnx(data, source="models/mine.onnx")
    assert refused.value.key == "models/mine.onnx"
    if "5000" not in problem:
        assert "'history' of shape (series, L)" in str(refused.value)
