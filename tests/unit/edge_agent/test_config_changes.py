"""Which changes of a file a running agent takes over."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.config import AgentConfig, load
from edge_agent.config_changes import LIVE, changes, running_after

MODEL = {"arm": "tiny", "path": "tiny.gguf"}


def config(**overrides: Any) -> AgentConfig:
    """A configuration with a name of its own."""
    return load(None, {"name": "pi", **overrides})


@pytest.mark.parametrize(
    ("after", "live", "restart"),
    [
        ({}, (), ()),
        ({"log": {"level": "debug"}}, ("log.level",), ()),
        ({"models": [MODEL]}, ("models",), ()),
        (
            {"limits": {"cloud": {"battery_percent_min": 5.0}}},
            ("limits.cloud.battery_percent_min",),
            (),
        ),
        ({"listen": "127.0.0.1:1"}, (), ("listen",)),
        (
            {
                "keys": [{"key": "env:A", "tag": "a"}],
                "coordinator": {"address": "host:1"},
                "drain": "5s",
            },
            ("keys",),
            ("coordinator.address", "drain"),
        ),
    ],
)
def test_changes_are_told_by_their_keys(
    after: dict[str, Any], live: tuple[str, ...], restart: tuple[str, ...]
) -> None:
    """What can be taken over, and what waits for a restart."""
    found = changes(config(), config(**after))
    assert (live, restart) == (found.live, found.restart)


def test_the_tables_that_are_touched_decide_what_is_done() -> None:
    """Not those that wait."""
    found = changes(config(), config(models=[MODEL], listen="127.0.0.1:1"))
    assert found.touch("library", "models")
    assert not found.touch("log", "listen")


def test_what_waits_for_a_restart_is_told_again_next_time() -> None:
    """The agent still runs with the old value."""
    wanted = config(listen="127.0.0.1:1", log={"level": "debug"})
    running = running_after(config(), wanted)
    assert ((), ("listen",)) == (
        changes(running, wanted).live,
        changes(running, wanted).restart,
    )


def test_what_is_live_exists() -> None:
    """A renamed table would silently become one that needs a restart."""
    assert set(AgentConfig.model_fields) >= LIVE
