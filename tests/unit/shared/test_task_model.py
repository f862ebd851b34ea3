"""Task models as files: what fits is run, and what does not is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

import coordinator.forecast
from shared.errors import ConfigError
from shared.features import FeatureSettings
from shared.task_model import META_CLASSES, META_FEATURES, load_task_model
from tests.fakes.task_models import small_model, small_onnx

DEMAND_MODEL = Path(coordinator.forecast.__file__).parent / "models" / "demand.onnx"


def with_metadata(change: Mapping[str, str]) -> bytes:
    """The small model whose metadata say something else."""
    file = onnx.load_from_string(small_onnx())
    said = {entry.key: entry.value for entry in file.metadata_props}
    onnx.helper.set_model_props(file, {**said, **change})
    return bytes(file.SerializeToString())


def test_a_file_says_the_same_as_the_model_that_was_trained() -> None:
    """Up to the rounding of its weights to one byte."""
    model = load_task_model(small_onnx(), source="m")
    assert ("code", "math", "trips") == model.classes
    for text in ("write a unit test", "fix this integral", "suitcase or museum?", ""):
        found = model.probabilities(text)
        exact = _exact(text)
        assert 1.0 == pytest.approx(float(found.sum()), abs=1e-5)
        assert np.abs(found - exact).max() < 0.02


def _exact(text: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    from coordinator.lab.task_training import feature_rows

    trained = small_model()
    features = feature_rows([text], settings=trained.settings)
    found: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    (found,) = trained.model.probabilities(features)
    return found


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"not a model", "is not a model that can be loaded"),
        (b"", "is not a model that can be loaded"),
        (DEMAND_MODEL.read_bytes(), "has the inputs {'history': 'tensor(float)'}"),
    ],
)
def test_what_is_no_task_model_is_refused(data: bytes, problem: str) -> None:
    """With its source, and what would be right."""
    with pytest.raises(ConfigError, match=r"my\.onnx") as caught:
        load_task_model(data, source="my.onnx")
    assert problem in str(caught.value)
    assert "tidegate-lab train-classifier" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({META_FEATURES: "{}"}, "says nothing readable of its features"),
        ({META_FEATURES: json.dumps({"version": 99})}, "features of version 99"),
        (
            {META_FEATURES: FeatureSettings(buckets=4_096).to_json()},
            "fails when it is tried out",  # the table has 2,048 rows
        ),
        ({META_CLASSES: "[]"}, "does not name its classes"),
        ({META_CLASSES: "code"}, "does not name its classes"),
        ({META_CLASSES: json.dumps(["code", "code", "math"])}, "does not name its classes"),
        ({META_CLASSES: json.dumps(["code", "Two Words", "math"])}, "does not name its classes"),
        ({META_CLASSES: json.dumps(["code", "math"])}, "(3,) values for 2 classes"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(change: dict[str, str], problem: str) -> None:
    """Before the first request, not on it."""
    with pytest.raises(ConfigError) as caught:
        load_task_model(with_metadata(change), source="my.onnx")
    assert problem in str(caught.value)
    assert str(caught.value).startswith("my.onnx: ")
