"""`tidectl export`: what was spent by day, arm and tag."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Final

import typer

from coordinator.cli.output import output
from coordinator.cli.session import OutputFormat, Session, session_of
from shared.decision.money import dollars
from shared.pb.v1 import admin_pb2

COLUMNS: Final = ("day", "arm", "tag", "settled_usd", "unconfirmed_usd")
_DAY: Final = "%Y-%m-%d"


def export(
    ctx: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; else standard output.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=[_DAY], help="First day (UTC), such as 2026-11-01.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=[_DAY], help="The day after the last one (UTC).")
    ] = None,
) -> None:
    """Write what was spent by day, arm and tag: CSV, or JSON with `--format json`.

    Exact dollars by the day (UTC) of their booking; all lines together are the settled and
    unconfirmed money of all windows. The tag is the API key's, with what requests add to it. Arm
    and tag are empty where they are not known: of unconfirmed money, and of what a device had to
    compact. Days with very many tags have the rest of them under `*`.
    """
    session = session_of(ctx)
    if since is not None and until is not None and until <= since:
        raise typer.BadParameter("should be after --since", param_hint="--until")
    request = admin_pb2.ExportSpendRequest(
        from_unix_ms=_unix_ms(since), until_unix_ms=_unix_ms(until)
    )
    write = _write_json if session.format is OutputFormat.JSON else _write_csv
    with output(out) as file:
        write(file, _lines(session, request))


def _unix_ms(day: datetime | None) -> int:
    return round(day.replace(tzinfo=UTC).timestamp() * 1_000) if day is not None else 0


def _lines(session: Session, request: admin_pb2.ExportSpendRequest) -> Iterator[dict[str, str]]:
    for page in session.stream("ExportSpend", request):
        for line in page.lines:
            yield {
                "day": datetime.fromtimestamp(line.day_unix_ms / 1_000, tz=UTC).strftime(_DAY),
                "arm": line.arm,
                "tag": line.tag,
                "settled_usd": dollars(line.settled_nanos),
                "unconfirmed_usd": dollars(line.unconfirmed_nanos),
            }


def _write_csv(file: IO[str], lines: Iterator[dict[str, str]]) -> None:
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)


def _write_json(file: IO[str], lines: Iterator[dict[str, str]]) -> None:
    """A list, an object a line, written as it comes."""
    before = "[\n"
    for line in lines:
        file.write(before + json.dumps(line, ensure_ascii=False))
        before = ",\n"
    file.write("\n]\n" if before == ",\n" else "[]\n")
