"""The classifier that a configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent.cli.parts import classifier_problems, new_classifier, tried_classifier
from edge_agent.config import AgentConfig, load
from shared.errors import ConfigError
from tests.fakes.task_models import small_onnx


def config(**classifier: Any) -> AgentConfig:
    """A configuration with this `[classifier]` table."""
    return load(None, {"name": "pi", "classifier": classifier})


async def test_the_table_decides_how_a_request_is_told(tmp_path: Path) -> None:
    """Path, threshold and names, and whether there is a classifier at all."""
    path = tmp_path / "mine.onnx"
    path.write_bytes(small_onnx())
    made = new_classifier(config(path=str(path), threshold=1.0, classes={"trips": "travel"}))
    assert made is not None
    await made.prepare(["other", "code", "travel"])
    assert ("code", "travel") == tuple(made.classes)
    guess = made.classify("a compiler error in the percentage")
    assert guess is not None
    assert "other" == guess.task_class
    assert new_classifier(config(enabled=False, path=str(path))) is None


def test_what_cannot_be_used_is_refused_before_it_is_in_force(tmp_path: Path) -> None:
    """By a reload, and by `run --check`."""
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk")
    broken = config(path=str(path))
    with pytest.raises(ConfigError, match=r"junk\.onnx: is not a model that can be loaded"):
        tried_classifier(broken)
    (problem,) = classifier_problems(broken)
    assert "classifier" == problem.key
    assert "junk.onnx: is not a model" in problem.problem
    assert () == classifier_problems(config(enabled=False, path=str(path)))


def test_a_slip_in_a_name_of_the_shipped_model_is_refused(tmp_path: Path) -> None:
    """With the names that there are."""
    (problem,) = classifier_problems(config(classes={"maths": "math"}))
    assert "classifier.classes.maths" in problem.problem
    assert "summarisation" in problem.problem
    assert () == classifier_problems(config(classes={"math": "sums"}))
