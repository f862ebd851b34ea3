"""Replies as JSON, and the parts of which tables are made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import typer
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.decision.money import dollars
from shared.pb.v1.admin_pb2 import Interval

PIPE_COLUMNS: Final = 120
NONE: Final = "-"


def console() -> Console:
    """Standard output; a pipe has no width of its own and gets `PIPE_COLUMNS`."""
    probe = Console(highlight=False)
    return probe if probe.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def show_json(data: Message | Mapping[str, Any]) -> None:
    """Write a reply as JSON with the names of `admin.proto`."""
    plain = to_data(data) if isinstance(data, Message) else data
    typer.echo(json.dumps(plain, indent=2, ensure_ascii=False))


def to_data(message: Message) -> dict[str, Any]:
    """A message as plain data.

    Integers stay integers, enum values become lower-case words, and what is absent (a message, a
    mean of nothing) becomes None; every field is there, so that scripts can rely on it.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_value(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return to_data(value)
    if field.enum_type is not None:
        return enum_word(value, kind=field.enum_type)
    return value


def enum_word(value: int, *, kind: EnumDescriptor) -> str:
    """`ARM_KIND_LOCAL` of `ArmKind` as `local`; a value of a newer peer as its number."""
    found = kind.values_by_number.get(value)
    if found is None:
        return str(value)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    return str(found.name).removeprefix(prefix).lower()


def usd(nanos: int) -> str:
    """An exact amount with at least two decimals, such as `$0.0125`."""
    whole, _, decimals = dollars(abs(nanos)).partition(".")
    sign = "-" if nanos < 0 else ""
    return f"{sign}${int(whole):,}.{decimals.rstrip('0').ljust(2, '0')}"


def instant(unix_ms: int) -> str:
    """ISO-8601 in UTC, to the second; `-` for never."""
    if not unix_ms:
        return NONE
    moment = datetime.fromtimestamp(unix_ms // 1_000, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def span(ms: int) -> str:
    """A length of time in its largest whole unit, such as `3 h`."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= size:
            return f"{ms // size} {unit}"
    return f"{ms // 1_000} s"


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{value:.1%}"


def ppm(value: int) -> str:
    """Parts per million as a percentage."""
    return f"{value / 10_000:.2f}%"


def interval(value: Interval, *, scale: float = 1.0, digits: int = 3, unit: str = "") -> str:
    """A mean with its bounds, such as `0.812 [0.780, 0.844]`."""
    mean, lower, upper = (number * scale for number in (value.mean, value.lower, value.upper))
    return f"{unit}{mean:.{digits}f} [{lower:.{digits}f}, {upper:.{digits}f}]"


def yes_no(value: bool) -> str:
    """A flag in a table."""
    return "yes" if value else "no"


_COPIED: Final = ("ID", "REQUEST")
"""Columns of what is pasted into the next command: other columns give way to them."""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    right: Sequence[str] = (),
) -> Table:
    """A table; columns named in `right` hold numbers. Text is never read as markup."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column in _COPIED,
            header_style="bold",
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one pair a line."""
    made = Table.grid(padding=(0, 2))
    for name, value in pairs:
        made.add_row(Text(name, style="bold"), Text(value))
    return made
