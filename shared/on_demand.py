"""Commands that are imported when they are called: their program does without what they need."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class CommandsOnDemand(TyperGroup):
    """The commands of `places` beside those that are there at once.

    Attributes
    ----------
    places : mapping of str to str
        A command, or a group of them, to its module and its name there, as in `a.module:name`.
    """

    places: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name; `--help` loads them all, for their first lines."""
        return [*super().list_commands(ctx), *self.places]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name."""
        if cmd_name not in self.places:
            return super().get_command(ctx, cmd_name)
        module, name = self.places[cmd_name].split(":")
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)
