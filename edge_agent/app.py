"""`tidegate-agent`: its commands. What only some of them need is imported when one is called."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import stamina.instrumentation
import typer

from edge_agent import config as agent_config
from edge_agent.cli.options import ConfigFile
from shared import logs
from shared.console import HELP, run_command
from shared.on_demand import CommandsOnDemand
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION


class Commands(CommandsOnDemand):
    """What the daemon can do without."""

    places: ClassVar = {
        "bench": "edge_agent.cli.bench:bench",
        "doctor": "edge_agent.cli.doctor:doctor",
        "init": "edge_agent.cli.init:init",
        "models": "edge_agent.cli.models:app",
    }


cli = typer.Typer(
    name="tidegate-agent",
    cls=Commands,
    help="Answer OpenAI requests on this device: with local models, and with paid ones when that "
    "pays off.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


@cli.callback()
def quiet() -> None:
    """Commands say what they found; only the daemon logs."""
    logs.configure(format_="console", level="warning")
    stamina.instrumentation.set_on_retry_hooks(())  # an outage is told once, by who has it


@cli.command()
def run(
    config: ConfigFile = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the configuration can be used.")
    ] = False,
    listen: Annotated[str, typer.Option(help="host:port instead of the file's.")] = "",
) -> None:
    """Run the agent until it is told to stop (Ctrl-C or SIGTERM)."""
    overrides = {"listen": listen} if listen else {}
    settings = agent_config.load(config, overrides)
    if check:
        from edge_agent.cli.parts import problems_of  # noqa: PLC0415 - see above

        problems = problems_of(settings, file=config)
        for problem in problems:
            typer.echo(f"{problem.key}: {problem.problem}", err=True)
        typer.echo("the configuration can be used" if not problems else "it cannot be used yet")
        raise typer.Exit(1 if problems else 0)
    from edge_agent.daemon import run_agent  # noqa: PLC0415 - see above

    logs.configure(format_=settings.log.format, level=settings.log.level)
    read = partial(agent_config.load, config, overrides)
    _event_loop(run_agent(settings, read=read))


@cli.command()
def example() -> None:
    """Print a commented configuration file."""
    typer.echo((Path(__file__).parent / "config.example.toml").read_text(encoding="utf-8"))


@cli.command()
def schema() -> None:
    """Print the JSON schema of the configuration file."""
    typer.echo(json.dumps(agent_config.config_schema(), indent=2))


@cli.command()
def version() -> None:
    """Print the versions of the software and of the protocol."""
    typer.echo(f"tidegate-agent {SOFTWARE_VERSION} (protocol {PROTOCOL_VERSION})")


def _event_loop(main: Any) -> None:
    """Run on uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def main() -> None:
    """The console script."""
    run_command(cli, name="tidegate-agent", extra="edge")


if __name__ == "__main__":
    main()
