"""The coordinator's program: what its commands load, and where they look for books."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coordinator.app import cli
from shared.errors import ConfigError, StoreError


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDEGATE_COORDINATOR_DATABASE_URL", raising=False)
    return tmp_path


def call(*words: str) -> Result:
    """Run a command; what it refuses is raised."""
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def test_commands_load_neither_planner_nor_database_nor_servers() -> None:
    """Help, completion and `--check` come at once; these alone take seconds."""
    found = subprocess.run(
        [sys.executable, "-c", "import sys, coordinator.app; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in found.stdout.split()}
    heavy = {"aiohttp", "alembic", "grpc", "numpy", "scipy", "sqlalchemy", "starlette", "uvicorn"}
    assert set() == loaded & heavy
    assert "pydantic" in loaded


@pytest.mark.parametrize("words", [("token", "create"), ("restore", "--yes", "old.db")])
def test_books_do_not_begin_where_nobody_has_asked_for_them(
    words: tuple[str, ...], nowhere: Path
) -> None:
    """A forgotten `--config` must not end in a token for books that no coordinator reads."""
    (nowhere / "old.db").touch()
    with pytest.raises(ConfigError) as caught:
        call(*words)
    assert str(nowhere / "tidegate.db") in str(caught.value)
    assert "--config" in str(caught.value)
    assert ["old.db"] == [path.name for path in nowhere.iterdir()]


@pytest.mark.parametrize("by_file", [True, False])
def test_the_first_token_begins_the_books_that_are_named(
    by_file: bool, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a file or by a variable; where they began is said beside the token, not in its place."""
    url = f"sqlite:///{nowhere / 'books.db'}"
    (nowhere / "coordinator.toml").write_text(f'database_url = "{url}"\n' if by_file else "")
    if not by_file:
        monkeypatch.setenv("TIDEGATE_COORDINATOR_DATABASE_URL", url)
    words = ("token", "create", *(("--config", "coordinator.toml") if by_file else ()))
    first, second = call(*words), call(*words)
    assert f"new books began at {nowhere / 'books.db'}\n" == first.stderr
    assert ("tda_", 1) == (first.stdout[:4], len(first.stdout.splitlines()))
    assert "" == second.stderr
    with closing(sqlite3.connect(nowhere / "books.db")) as books:
        assert (2,) == books.execute("SELECT count(*) FROM admin_token").fetchone()


def test_books_in_the_working_folder_are_found_without_a_file(nowhere: Path) -> None:
    """As a coordinator that was started without one finds them."""
    (nowhere / "coordinator.toml").touch()
    call("token", "create", "--config", "coordinator.toml")
    assert call("token", "create").stdout.startswith("tda_")


def test_a_backup_of_no_books_says_where_it_looked(nowhere: Path) -> None:
    """And leaves no file behind."""
    with pytest.raises(StoreError) as caught:
        call("backup", "copy.db")
    assert f"there are no books at {nowhere / 'tidegate.db'}" in str(caught.value)
    assert [] == list(nowhere.iterdir())


def test_a_token_is_valid_for_a_hundred_years_at_most(nowhere: Path) -> None:
    """More is a slip, and no date; nothing is begun for it."""
    refused = call("token", "create", "--config", "none.toml", "--valid-for-days", "36501")
    assert 2 == refused.exit_code
    assert "--valid-for-days" in refused.output
    assert [] == list(nowhere.iterdir())


def test_a_restore_that_nobody_agrees_to_is_refused(nowhere: Path) -> None:
    """What was booked since the backup would be lost: a script has to say so."""
    (nowhere / "coordinator.toml").write_text(
        f'database_url = "sqlite:///{nowhere / "books.db"}"\n'
    )
    refused = call("restore", "--config", "coordinator.toml", "old.db")
    assert 2 == refused.exit_code
    assert "--yes" in refused.stderr
