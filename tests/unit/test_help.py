"""The help of the four commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from rich.text import Text

from coordinator.app import cli as coordinator
from coordinator.cli.app import app as tidectl
from coordinator.lab.app import cli as lab
from edge_agent.app import cli as agent


def texts_of(command: Any) -> Iterator[str]:
    """The help of a command, of its options, and of what is under it."""
    yield command.help or ""
    for parameter in command.params:
        yield getattr(parameter, "help", None) or ""
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from texts_of(command.get_command(None, name))


@pytest.mark.parametrize("app", [agent, coordinator, tidectl, lab])
def test_no_word_of_the_help_is_taken_for_markup(app: typer.Typer) -> None:
    """Rich swallows a name in brackets, such as that of a table in TOML."""
    texts = [text for text in texts_of(typer.main.get_command(app)) if text]
    assert len(texts) > 10
    assert texts == [Text.from_markup(text).plain for text in texts]
