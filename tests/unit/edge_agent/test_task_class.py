"""How a request comes to its task class: the header's word, the classifier's, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.adapters.classifier import OnnxClassifier
from edge_agent.requests import NO_ORIGIN, RequestKind, TaskOrigin, TaskSource
from shared.decision.types import TaskClass
from tests.fakes.task_models import small_onnx
from tests.unit.edge_agent.test_running_requests import Agent, ask, read

CODE = "fix this unit test: now"
TRIP = "which hotel, and a train ticket please"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that knows code, math and trips."""
    path = tmp_path / "small.onnx"
    path.write_bytes(small_onnx())
    return path


async def classifying(model: Path, *, threshold: float = 0.5) -> Agent:
    """An agent with a lease and a classifier; trips become `secret`, which must stay local."""
    classifier = OnnxClassifier(model, threshold=threshold, renamed={"trips": "secret"})
    agent = Agent(classifier=classifier)
    await agent.lend()
    await agent.service.follow_classes()
    return agent


async def test_the_classifier_is_asked_where_the_client_says_nothing(model: Path) -> None:
    """The outcome carries the class, and the answer says where it came from."""
    agent = await classifying(model)
    answer = await agent.chat(ask(text=CODE))
    await read(answer)
    assert "code" == answer.head.task_class == (await agent.outcomes.get()).task_class
    assert (TaskSource.CLASSIFIER, "code") == (
        answer.head.origin.source,
        answer.head.origin.likeliest,
    )
    assert 0.5 <= answer.head.origin.confidence <= 1.0


async def test_the_class_s_privacy_and_deadline_hold_for_a_guess(model: Path) -> None:
    """What it takes for private stays on the device."""
    agent = await classifying(model)
    answer = await agent.chat(ask(text=TRIP))
    await read(answer)
    assert ("secret", "tiny") == (answer.head.task_class, answer.head.arm)
    assert [] == agent.cloud.calls
    assert 0 == (await agent.outcomes.get()).deadline_ms


async def test_the_header_overrides(model: Path) -> None:
    """Also with a class that the fleet does not have."""
    agent = await classifying(model)
    for number, (named, found) in enumerate([("other", "other"), ("unheard-of", "other")]):
        decision = agent.service.route(ask(f"r{number}", text=CODE, task_class=named))
        assert (found, TaskOrigin(TaskSource.HEADER)) == (decision.task_class, decision.origin)


async def test_a_guess_that_is_not_sure_enough_is_other(model: Path) -> None:
    """The decision still names it."""
    agent = await classifying(model, threshold=1.0)
    decision = agent.service.route(ask(text="a compiler error in the percentage"))
    assert ("other", TaskSource.CLASSIFIER) == (decision.task_class, decision.origin.source)
    assert "code" == decision.origin.likeliest


async def test_without_a_classifier_every_request_is_other() -> None:
    """Nobody has said anything."""
    agent = Agent()
    decision = agent.service.route(ask(text=CODE))
    assert ("other", NO_ORIGIN) == (decision.task_class, decision.origin)


async def test_a_broken_model_fails_no_request_and_health_says_so(tmp_path: Path) -> None:
    """Requests are `other` until the model is put right."""
    agent = await classifying(tmp_path / "missing.onnx")
    decision = agent.service.route(ask(text=CODE))
    assert ("other", NO_ORIGIN) == (decision.task_class, decision.origin)
    (problem,) = agent.service.readiness().problems
    assert "requests without a task class are `other`: " in problem
    assert "missing.onnx: cannot be read" in problem
    assert agent.service.readiness().ready


async def test_health_names_the_classes_that_are_told_apart(model: Path) -> None:
    """And follows the fleet's configuration."""
    agent = await classifying(model)
    assert ["code", "secret"] == agent.service.readiness().details["classifier_classes"]
    classes = (TaskClass("math", deadline_ms=0), TaskClass("other", deadline_ms=0))
    agent.engine.configured(replace(agent.engine.config, task_classes=classes))
    await agent.service.follow_classes()
    assert ["math"] == agent.service.readiness().details["classifier_classes"]


async def test_another_classifier_takes_over_in_a_running_agent(model: Path) -> None:
    """After a reload; none is a choice as well."""
    agent = await classifying(model)
    await agent.service.use_classifier(OnnxClassifier(model, threshold=1.0, renamed={}))
    assert ["code"] == agent.service.readiness().details["classifier_classes"]
    await agent.service.use_classifier(None)
    assert NO_ORIGIN == agent.service.route(ask(text=CODE)).origin


async def test_the_classifier_before_goes_on_until_the_next_one_is_ready(model: Path) -> None:
    """A model takes half a second to load, and requests come meanwhile."""
    agent, loading = await classifying(model), asyncio.Event()

    class Slow(OnnxClassifier):
        async def prepare(self, classes: Collection[str]) -> None:
            await loading.wait()
            await super().prepare(classes)

    taking_over = asyncio.create_task(
        agent.service.use_classifier(Slow(model, threshold=0.0, renamed={"code": "math"}))
    )
    await asyncio.sleep(0)
    assert "code" == agent.service.route(ask(text=CODE)).task_class
    loading.set()
    await taking_over
    assert "code" != agent.service.route(ask(text=CODE)).task_class


async def test_embeddings_are_not_classified(model: Path) -> None:
    """They have no messages, and their arm is not drawn."""
    agent = await classifying(model)
    request = replace(
        ask(), kind=RequestKind.EMBEDDINGS, body={"model": "tiny", "input": [CODE]}, model="tiny"
    )
    assert NO_ORIGIN == agent.service.route(request).origin
