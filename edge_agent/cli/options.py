"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="TIDEGATE_AGENT_CONFIG",
        help="TOML file; see `tidegate-agent example`.",
    ),
]
