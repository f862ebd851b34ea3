"""What is done to the books on the coordinator's own machine, beside the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from coordinator.adapters import sql_backup
from coordinator.adapters.sql_connection import parse_url, sqlite_path
from coordinator.adapters.sql_store import SqlStore
from coordinator.config import CoordinatorConfig
from coordinator.records import AdminTokenRow
from coordinator.registry import digest
from shared.clock import SystemClock, SystemIds
from shared.errors import ConfigError


def new_books(settings: CoordinatorConfig, *, named: bool) -> Path | None:
    """Where books would begin; None if there are some, or if a server keeps them.

    Parameters
    ----------
    named : bool
        Whether the settings are those of a file that was named.

    Raises
    ------
    ConfigError
        If they would begin in the working folder only because nothing says where they are.
    """
    path = sqlite_path(parse_url(settings.resolved_database_url()))
    if path is None or path.exists():
        return None
    if not named and "database_url" not in settings.model_fields_set:
        raise ConfigError(
            "database_url",
            f"there are no books at {path.absolute()}: name the coordinator's file with --config, "
            "or their place with TIDEGATE_COORDINATOR_DATABASE_URL",
        )
    return path.absolute()


def store_of(settings: CoordinatorConfig) -> SqlStore:
    """The store that the configuration names, not opened yet."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return SqlStore(settings.resolved_database_url(), mark_file=settings.state_dir / "epoch")


def new_admin_token(settings: CoordinatorConfig, *, name: str, valid_for_days: int) -> str:
    """Make an admin token and keep its digest in the books.

    Raises
    ------
    StoreError
        If the coordinator is running, or its database cannot be opened.
    """
    clock, token = SystemClock(), SystemIds().new_secret("tda")
    now = clock.unix_ms()
    expires = now + round(timedelta(days=valid_for_days).total_seconds()) * 1000
    store = store_of(settings)
    try:
        store.open()
        store.commit([AdminTokenRow(digest(token), name, now, expires if valid_for_days else 0)])
    finally:
        store.close()
    return token


def backup(settings: CoordinatorConfig, out: Path) -> None:
    """Copy the books into a file, with a bar of progress."""
    with _progress("backing up") as progress:
        sql_backup.backup(settings.resolved_database_url(), out, progress=progress)


def restore(settings: CoordinatorConfig, source: Path) -> None:
    """Put a backup in the place of the books, with a bar of progress."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _progress("restoring") as progress:
        sql_backup.restore(
            settings.resolved_database_url(),
            source,
            mark_file=settings.state_dir / "epoch",
            progress=progress,
        )


@contextmanager
def _progress(what: str) -> Iterator[sql_backup.Progress]:
    """A bar on a terminal; nothing elsewhere."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
