"""Commands that are imported when they are called: the daemon does without what they need."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

PLACES: Final = {
    "bench": "edge_agent.cli.bench:bench",
    "doctor": "edge_agent.cli.doctor:doctor",
    "init": "edge_agent.cli.init:init",
    "models": "edge_agent.cli.models:app",
}
"""A command, or a group of them, to its module and its name there."""


class CommandsOnDemand(TyperGroup):
    """The commands of `PLACES` beside those that are there at once."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name; `--help` loads them all, for their first lines."""
        return [*super().list_commands(ctx), *PLACES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name."""
        if cmd_name not in PLACES:
            return super().get_command(ctx, cmd_name)
        module, name = PLACES[cmd_name].split(":")
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)
