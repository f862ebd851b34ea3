"""What an error of the database means, and what to do about it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from shared.errors import ProtocolError, StoreError

_SQLITE_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: "another program holds the database: close it",
    sqlite3.SQLITE_LOCKED: "another program holds the database: close it",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_CANTOPEN: "the folder must exist and be writable",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database: restore a backup",
    sqlite3.SQLITE_IOERR: "the disk failed: see the system's log",
    sqlite3.SQLITE_CONSTRAINT: "the row is already in the books",
}
# By the SQLSTATE or, failing that, its class of two characters.
_POSTGRES_REMEDIES: Final = {
    "53100": "the server's disk is full: free some space",
    "53": "the server is short of resources: see its log",
    "25006": "the server is read-only: connect to the primary",
    "42501": "grant the role of the URL its rights on the schema",
    "3D000": "create the database first",
    "28": "check the role and the password of the URL",
    "23": "the row is already in the books",
    "55P03": "another session holds the row: close it",
    "57": "the server is stopping or starting: wait for it",
    "08": "check that the server runs and is reachable",
}


def store_error(error: Exception, *, operation: str) -> StoreError:
    """An error with its remedy; only the driver's own first line, which holds no credentials."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = str(cause).partition("\n")[0]
    remedy = _remedy(cause)
    return StoreError(f"cannot {operation}: {text}; {remedy}")


def _remedy(cause: BaseException | None) -> str:
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        return _SQLITE_REMEDIES.get(code, "see the message of SQLite")
    state = getattr(cause, "sqlstate", None) or ""
    if not state and type(cause).__name__ == "OperationalError":
        # The driver itself could not connect, or lost the connection.
        state = "08"
    fallback = "see the message of the server"
    return _POSTGRES_REMEDIES.get(state) or _POSTGRES_REMEDIES.get(state[:2]) or fallback


@contextmanager
def translated(operation: str) -> Iterator[None]:
    """Turn the database's errors into `StoreError`s that name the operation."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise store_error(error, operation=operation) from error
    except OverflowError as error:
        raise StoreError(f"cannot {operation}: {error}; amounts have 64 bits") from error
    except (ProtocolError, ValueError) as error:
        raise StoreError(
            f"cannot {operation}: the database holds what this program cannot read, {error}; was "
            "it written by a newer one?"
        ) from error
