"""The classifier on a device: when it works, what it says, and what a broken model leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_agent.adapters.classifier import SHIPPED_MODEL, OnnxClassifier
from edge_agent.ports import Guess
from tests.fakes.task_models import small_onnx

CODE = "Write a unit test for this function"
FLEET = ("other", "code", "trips")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that knows code, math and trips."""
    path = tmp_path / "small.onnx"
    path.write_bytes(small_onnx())
    return path


async def classifier(path: Path, *fleet: str, **settings: Any) -> OnnxClassifier:
    """A classifier that knows the fleet's classes."""
    made = OnnxClassifier(path, **{"threshold": 0.5, "renamed": {}, **settings})
    await made.prepare(fleet)
    return made


def sure(guess: Guess | None) -> str:
    """The class of a guess that there must be."""
    assert guess is not None
    return guess.task_class


async def test_the_fleet_s_classes_are_told_apart(model: Path) -> None:
    """With a confidence that is a probability."""
    made = await classifier(model, *FLEET)
    assert ("code", "trips") == tuple(made.classes)
    guess = made.classify(CODE)
    assert guess == Guess("code", "code", guess.confidence if guess else 0.0)
    assert 0.5 <= guess.confidence <= 1.0
    assert "trips" == sure(made.classify("which hotel for my trip, and a train ticket please"))


async def test_what_the_fleet_does_not_have_is_other(model: Path) -> None:
    """The model may know more kinds of requests than the fleet cares for."""
    made = await classifier(model, *FLEET)
    assert "other" == sure(made.classify("solve the equation and the integral"))


async def test_a_guess_below_the_threshold_is_other(model: Path) -> None:
    """What it would have been is still told."""
    made = await classifier(model, *FLEET, threshold=1.0)
    guess = made.classify("a compiler error in the percentage")
    assert guess is not None
    assert ("other", "code") == (guess.task_class, guess.likeliest)
    assert guess.confidence < 1.0


async def test_names_may_differ_and_classes_may_be_joined(model: Path) -> None:
    """Probabilities of classes with one name add up."""
    renamed = {"code": "hard", "math": "hard"}
    made = await classifier(model, "other", "hard", "trips", renamed=renamed)
    for text in (CODE, "solve the equation", "the integral of a python class"):
        assert "hard" == sure(made.classify(text))
    alone = await classifier(model, "other", "code", "math", "trips")
    mixed = "the integral of a python class"
    joined, split = made.classify(mixed), alone.classify(mixed)
    assert joined is not None
    assert split is not None
    assert joined.confidence > split.confidence


async def test_a_fleet_without_classes_needs_no_model(tmp_path: Path) -> None:
    """Nothing is read, so nothing can be wrong; numpy and onnxruntime stay outside."""
    made = await classifier(tmp_path / "not there.onnx", "other")
    assert ("", ()) == (made.problem, tuple(made.classes))
    assert made.classify(CODE) is None


async def test_classes_come_and_go_with_the_fleet_s_configuration(model: Path) -> None:
    """Without a restart."""
    made = await classifier(model, "other")
    assert made.classify(CODE) is None
    await made.prepare(["other", "code"])
    assert "code" == sure(made.classify(CODE))
    await made.prepare(["other", "unheard-of"])
    assert made.classify(CODE) is None
    await made.prepare(["other", "code"])
    assert "code" == sure(made.classify(CODE))


async def test_a_request_without_text_has_no_class(model: Path) -> None:
    """A picture alone tells nothing."""
    made = await classifier(model, *FLEET)
    assert made.classify(" \n") is None


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read: No such file"), (b"junk", "is not a model")]
)
async def test_a_broken_model_is_said_once_and_every_request_is_other(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """In the log once, in the health as long as it lasts; requests go on."""
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with capture_logs() as logs:
        made = await classifier(path, *FLEET)
        await made.prepare(FLEET)
        assert made.classify(CODE) is None
    assert ["classifier_broken"] == [entry["event"] for entry in logs]
    assert problem in made.problem
    assert str(path) in made.problem


async def test_a_name_that_the_model_does_not_have_is_a_problem(model: Path) -> None:
    """A slip of the pen must not silently switch a class off."""
    made = await classifier(model, *FLEET, renamed={"cod": "code"})
    assert "classifier.classes.cod: " in made.problem
    assert "it has code, math, trips" in made.problem


async def test_a_name_that_the_fleet_does_not_have_is_a_warning(model: Path) -> None:
    """It may come with the fleet's next configuration."""
    with capture_logs() as logs:
        made = await classifier(model, *FLEET, renamed={"math": "maths"})
    assert "" == made.problem
    warned = {"event": "classifier_renames_to_unknown_classes", "classes": ["maths"]}
    assert [{**warned, "log_level": "warning"}] == [
        entry for entry in logs if entry["log_level"] == "warning"
    ]


async def test_a_failure_in_mid_request_fails_no_request(model: Path) -> None:
    """It is a problem from then on."""

    class Failing:
        classes = ("code", "math", "trips")

        def probabilities(self, text: str) -> Any:
            raise RuntimeError("out of memory")

    made = await classifier(model, *FLEET)
    made._model = Failing()  # type: ignore[assignment]
    with capture_logs() as logs:
        assert made.classify(CODE) is None
        assert made.classify(CODE) is None
    assert "failed on a request: out of memory; restart the agent" in made.problem
    assert 1 == len(logs)


async def test_the_shipped_model_works_by_default() -> None:
    """With the classes that its documentation names."""
    made = await classifier(SHIPPED_MODEL, "other", "code", "translation", "my-own")
    assert ("code", "translation") == tuple(made.classes)
    assert "code" == sure(made.classify("Write a Python function that reverses a string."))
    assert "translation" == sure(made.classify("Translate to German: the cat sleeps."))
    assert "other" == sure(made.classify("What is the capital of Peru?"))


async def test_what_an_operator_has_set_is_tried_out_at_once(tmp_path: Path, model: Path) -> None:
    """Also while the fleet has no classes: its problem is known before it is needed."""
    broken = await classifier(tmp_path / "not there.onnx", "other", eager=True)
    assert "cannot be read" in broken.problem
    made = await classifier(model, "other", eager=True)
    assert ("", None) == (made.problem, made.classify(CODE))
    await made.prepare(FLEET)
    assert "code" == sure(made.classify(CODE))
