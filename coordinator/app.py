"""`tidegate-coordinator`: its commands.

What most of them do without is imported when one needs it: a planner, a database and two servers
take seconds to load.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from coordinator import config as coordinator_config
from shared import logs
from shared.console import HELP, run_command
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION

cli = typer.Typer(
    name="tidegate-coordinator",
    help="Plan for a fleet of devices: who answers what, within a hard budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
token_cli = typer.Typer(no_args_is_help=True, help="Tokens for operators.")
cli.add_typer(token_cli, name="token")
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file; see `tidegate-coordinator example`."),
]


@cli.command("serve")
def serve_command(
    config: ConfigFile = None,
    standby: Annotated[
        bool,
        typer.Option(
            "--standby", help="Wait while another coordinator runs; take over when it ends."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the configuration can be used.")
    ] = False,
) -> None:
    """Run the coordinator until it is told to stop (Ctrl-C or SIGTERM)."""
    settings = coordinator_config.load(config, {"standby": True} if standby else None)
    if check:
        problems = coordinator_config.check(settings)
        for problem in problems:
            typer.echo(f"{problem.key}: {problem.problem}", err=True)
        typer.echo("the configuration can be used" if not problems else "it cannot be used yet")
        raise typer.Exit(1 if problems else 0)
    from coordinator.daemon import run_coordinator  # noqa: PLC0415 - see above

    logs.configure(format_=settings.log.format, level=settings.log.level)
    asyncio.run(run_coordinator(settings))


@token_cli.command("create")
def create_token(
    config: ConfigFile = None,
    name: Annotated[str, typer.Option(help="Whose token it is; shown in the audit.")] = "operator",
    valid_for_days: Annotated[
        int, typer.Option(min=0, max=36_500, help="0: until it is revoked.")
    ] = 0,
) -> None:
    """Print a new admin token, on the coordinator's own machine, while it is not running.

    This is how the first operator gets in, before the coordinator has run or any other time that it
    stands still; later tokens come from `tidectl token create`.
    """
    from coordinator import offline  # noqa: PLC0415 - see above

    settings = coordinator_config.load(config)
    begun = offline.new_books(settings, named=config is not None)
    typer.echo(offline.new_admin_token(settings, name=name, valid_for_days=valid_for_days))
    if begun is not None:
        typer.echo(f"new books began at {begun}", err=True)


@cli.command("backup")
def backup_command(
    out: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    config: ConfigFile = None,
) -> None:
    """Copy the books into a file, also while the coordinator runs.

    A SQLite database becomes a SQLite file, a PostgreSQL database an archive of pg_dump.
    """
    from coordinator import offline  # noqa: PLC0415 - see above

    offline.backup(coordinator_config.load(config), out)
    typer.echo(f"the books are in {out}")


@cli.command("restore")
def restore_command(
    source: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    config: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put a backup in the place of the books, while the coordinator is stopped.

    What was booked since is told again by the devices, as far as they keep it (24 hours). Nothing
    is lent before `tidectl ledger recover`, and before each known device was heard.
    """
    from coordinator import offline  # noqa: PLC0415 - see above

    settings = coordinator_config.load(config)
    offline.new_books(settings, named=config is not None)
    if not yes:
        question = f"Everything booked after {source} was written is lost here. Go on?"
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"{question} Nobody can be asked here; pass --yes.")
        typer.confirm(question, abort=True)
    offline.restore(settings, source)
    typer.echo("restored; start the coordinator, then: tidectl ledger recover")


@cli.command()
def example() -> None:
    """Print a commented configuration file."""
    typer.echo((Path(__file__).parent / "config.example.toml").read_text(encoding="utf-8"))


@cli.command()
def schema() -> None:
    """Print the JSON schema of the configuration file."""
    typer.echo(json.dumps(coordinator_config.config_schema(), indent=2))


@cli.command()
def version() -> None:
    """Print the versions of the software and of the protocol."""
    typer.echo(f"tidegate-coordinator {SOFTWARE_VERSION} (protocol {PROTOCOL_VERSION})")


def main() -> None:
    """The console script."""
    run_command(cli, name="tidegate-coordinator", extra="coordinator")


if __name__ == "__main__":
    main()
