"""Rows into a table, in the driver's own words: they come by the ten thousand a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Table

Columns = Sequence[Sequence[Any]]
"""Rows' values, of each column of a table that the database does not fill in, in their order."""

# Powers of two, so that a handful of prepared statements serves every number of rows; 64 rows of
# the widest table have less than the 999 values that an older SQLite takes.
_ROWS_AT_ONCE: Final = (64, 32, 16, 8, 4, 2, 1)


class Insert:
    """What puts rows into one table.

    SQLite takes many rows with one statement in two thirds of the time that it needs for them one
    by one. PostgreSQL would read such a statement anew every time; its driver sends a small one,
    prepared once, for all rows without waiting in between.

    Parameters
    ----------
    replaces : bool
        Whether a second row of a key takes the place of the first, or is an error.
    """

    def __init__(self, table: Table, *, replaces: bool, dialect: Dialect) -> None:
        self._is_sqlite = dialect.name == "sqlite"
        quote = dialect.identifier_preparer.quote
        names = [quote(column.name) for column in table.columns if column.autoincrement is not True]
        keys = [quote(column.name) for column in table.primary_key]  # they come first
        changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
        end = f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}" if replaces else ""
        into = f"INSERT INTO {quote(table.name)} ({', '.join(names)}) VALUES "  # noqa: S608
        row = f"({', '.join(['?' if self._is_sqlite else '%s'] * len(names))})"
        self._texts = {rows: into + ", ".join([row] * rows) + end for rows in _ROWS_AT_ONCE}
        self._replaced_by = len(keys) if replaces else 0

    def put(self, columns: Columns, *, connection: Connection) -> None:
        """Insert rows in the connection's transaction."""
        if self._replaced_by:
            last = {row[: self._replaced_by]: row for row in zip(*columns, strict=True)}
            columns = list(zip(*last.values(), strict=True))
        if not self._is_sqlite:
            connection.exec_driver_sql(self._texts[1], list(zip(*columns, strict=True)))
            return
        width, start = len(columns), 0
        values: list[Any] = [None] * (width * len(columns[0]))
        for place, column in enumerate(columns):
            values[place::width] = column
        execute = connection.connection.cursor().execute  # SQLAlchemy has nothing to add to it
        for rows, text in self._texts.items():
            size = rows * width
            while start + size <= len(values):
                execute(text, values[start : start + size])
                start += size
