"""What the console scripts have in common: how a command ends that cannot do its work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import typer

from shared.errors import TidegateError

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
"""A command's settings: help by its short name too."""
_OURS: Final = frozenset({"coordinator", "edge_agent", "shared"})


def run_command(cli: Callable[..., Any], *, name: str, extra: str) -> None:
    """Run a console script: errors that were foreseen become one line and exit code 1.

    `--version` is what people try first, and means the command `version`.

    Parameters
    ----------
    extra : str
        Of the package's extras, the one that brings what this program needs: its script is there in
        every environment.
    """
    arguments = sys.argv[1:]
    try:
        cli(args=["version"] if arguments == ["--version"] else arguments, prog_name=name)
    except TidegateError as error:
        problem = str(error)
    except PermissionError as error:
        path, why = error.filename, error.strerror
        problem = f"{path}: {why}; run this as its owner, `sudo -u OWNER ...`"
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise  # a defect
        problem = (
            f"this environment has no {error.name!r}: it was installed without what {name} needs; "
            f"say pip install 'tidegate[{extra}]', or bootstrap an environment for it"
        )
    else:
        return
    typer.echo(f"{name}: {problem}", err=True)
    sys.exit(1)
