"""The task class of a request: told by the device's classifier, by the client, or by neither."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.e2e.fleet import TINY, Agent, CloudArm, Fleet, model_toml, wait_for
from tests.e2e.provider import Provider

pytestmark = pytest.mark.e2e

CODE = "Write a Python function that reverses a string."
SURE = "code;source=classifier;confidence="


def with_path(agent: Agent, path: object) -> None:
    """Name a task model in the agent's file."""
    text = agent.config.read_text().split("[classifier]")[0]
    agent.config.write_text(f'{text}[classifier]\npath = "{path}"\n')


def task(agent: Agent, *, prompt: str = CODE, named: str = "") -> str:
    """What the agent says of a request's class."""
    reply = agent.chat(prompt, headers={"x-tidegate-task": named} if named else {})
    assert 200 == reply.status
    return reply.headers["x-tidegate-task"]


@pytest.fixture
def agent(new_fleet: Callable[[], Fleet], provider: Provider) -> tuple[Fleet, Agent]:
    """An agent of a fleet with a few task classes."""
    fleet = new_fleet()
    fleet.start(
        clouds={"cloud": CloudArm(provider.base_url)},
        classes={"edge": ["tiny", "cloud"]},
        task_classes=("code", "summarisation"),
    )
    return fleet, fleet.start_agent("edge-1", device_class="edge", models=model_toml("tiny"))


def test_requests_are_classified_on_the_device(agent: tuple[Fleet, Agent]) -> None:
    """The header overrides, what is not sure is `other`, and the books say the same."""
    fleet, edge = agent
    wait_for(lambda: edge.details()["classifier_classes"], what="the task model")
    reply = edge.chat(CODE)
    assert reply.headers["x-tidegate-task"].startswith(SURE)
    assert "code" == fleet.wait_booked(reply.request_id).outcome.task_class
    assert "summarisation;source=header" == task(edge, named="summarisation")
    assert "other;source=header" == task(edge, named="unheard-of")
    assert task(edge, prompt="Translate to German: the cat sleeps.").startswith("other;source=cl")
    decision = edge.post(
        "/v1/route", {"model": "auto", "messages": [{"role": "user", "content": CODE}]}
    ).json
    assert ("code", "classifier") == (decision["task_class"], decision["task"]["source"])


def test_a_broken_task_model_is_refused_by_a_reload_and_told_at_the_start(
    agent: tuple[Fleet, Agent],
) -> None:
    """A running agent keeps the one it has; one that starts answers everything as `other`."""
    fleet, edge = agent
    wait_for(lambda: edge.details()["classifier_classes"], what="the task model")
    with_path(edge, TINY)
    os.kill(edge.child.pid, signal.SIGHUP)
    wait_for(lambda: "reload_refused" in edge.log(), what="the refusal")
    assert f"{TINY}: is not a model that can be loaded" in edge.log()
    assert task(edge).startswith(SURE)
    fleet.children.stop(edge.child)
    missing = edge.state / "missing.onnx"
    for path, problem in ((TINY, "is not a model"), (missing, "cannot be read: No such file")):
        with_path(edge, path)
        edge = fleet.restart_agent(edge)
        assert "other;source=default" == task(edge)
        (told,) = edge.get("/readyz")["problems"]
        assert f"{path}: {problem}" in told
        assert '"event": "classifier_broken"' in edge.log()
        fleet.children.stop(edge.child)
