"""Rows into a table, a few large statements for many of them."""

from __future__ import annotations

from sqlalchemy.dialects import sqlite

from coordinator.adapters.sql_insert import _ROWS_AT_ONCE, Insert
from coordinator.adapters.sql_schema import METADATA

OLDER_SQLITE_VALUES_MAX = 999


def test_no_statement_has_more_values_than_an_older_sqlite_takes() -> None:
    """Also the largest one into the widest table."""
    for table in METADATA.sorted_tables:
        insert = Insert(table, replaces=False, dialect=sqlite.dialect())
        values = insert._texts[max(_ROWS_AT_ONCE)].count("?")
        assert 0 < values <= OLDER_SQLITE_VALUES_MAX, table.name
