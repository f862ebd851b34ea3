"""Backups of the books, taken while they are written, and what a restore begins."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.adapters import sql_backup
from coordinator.adapters.sql_backup import backup, restore
from coordinator.adapters.sql_connection import begin_recovery
from coordinator.adapters.sql_store import SqlStore
from coordinator.records import PutSetting, SettingKey
from shared.errors import StoreError
from tests.contract.store_suite import WINDOW, ledger_row
from tests.fakes.postgres_server import postgres_programs, running_postgres


def quiet(done: int, total: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A server of our own, with PostgreSQL's client programs."""
    programs = postgres_programs()
    if programs is None or shutil.which("pg_dump") is None:
        pytest.skip("PostgreSQL's programs are not installed")
    with running_postgres(programs) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'books.db'}"
    return str(request.getfixturevalue("postgres"))


def test_a_backup_of_running_books_comes_back_whole_and_begins_a_recovery(
    url: str, tmp_path: Path
) -> None:
    """What was written later is gone, the epoch rises, and the coordinator knows of both."""
    mark_file, out = tmp_path / "epoch", tmp_path / "books.backup"
    store = SqlStore(url, mark_file=mark_file)
    store.open()
    store.commit([WINDOW, ledger_row(1)])
    backup(url, out, progress=quiet)
    store.commit([ledger_row(2)])
    with pytest.raises(StoreError, match=r"another (coordinator|process)"):
        restore(url, out, mark_file=mark_file, progress=quiet)
    epoch = store.epoch
    store.close()
    restore(url, out, mark_file=mark_file, progress=quiet)
    store = SqlStore(url, mark_file=mark_file)
    store.open()
    assert [1] == [row.id for row in store.ledger(after_id=0, limit=9)]
    assert "restored from a backup" in store.load().settings[SettingKey.RECOVERY]
    assert store.epoch > epoch
    store.close()
    with pytest.raises(StoreError, match="exists already"):
        backup(url, out, progress=quiet)


def test_a_restore_is_noticed_by_a_standby_with_a_mark_of_its_own(url: str, tmp_path: Path) -> None:
    """The restored books themselves begin the recovery, wherever they are opened next."""
    out = tmp_path / "books.backup"
    store = SqlStore(url, mark_file=tmp_path / "epoch")
    store.open()
    store.commit([WINDOW])
    backup(url, out, progress=quiet)
    store.close()
    restore(url, out, mark_file=tmp_path / "another-host", progress=quiet)
    store = SqlStore(url, mark_file=tmp_path / "a-third-host")
    store.open()
    assert "restored from a backup" in store.load().settings[SettingKey.RECOVERY]
    store.commit([PutSetting(SettingKey.RECOVERY, "")])
    store.close()


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(9))
def test_a_restore_that_is_cut_short_mixes_no_books(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a `kill -9` the old books have a log, which must never meet the new ones."""
    path, mark_file, out = tmp_path / "books.db", tmp_path / "epoch", tmp_path / "books.backup"
    url = f"sqlite:///{path}"
    store = SqlStore(url, mark_file=mark_file)
    store.open()
    store.commit([WINDOW, ledger_row(1)])
    backup(url, out, progress=quiet)
    store.commit([ledger_row(2)])
    killed = {name: (tmp_path / name).read_bytes() for name in ("books.db", "books.db-wal")}
    store.close()
    for name, content in killed.items():
        (tmp_path / name).write_bytes(content)
    with monkeypatch.context() as patch:
        left = [step]
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, _cut_after(left, getattr(Path, name)))
        with contextlib.suppress(Cut):
            restore(url, out, mark_file=mark_file, progress=quiet)
    if path.exists() and path.read_bytes() != killed["books.db"]:
        assert not (tmp_path / "books.db-wal").exists()
    store = SqlStore(url, mark_file=mark_file)
    store.open()
    rows = [row.id for row in store.ledger(after_id=0, limit=9)]
    if rows != [1, 2]:  # else nothing has begun yet
        assert rows in ([], [1])
        assert SettingKey.RECOVERY in store.load().settings
    store.close()
    restore(url, out, mark_file=mark_file, progress=quiet)
    assert [] == list(tmp_path.glob("*.replaced*"))


@pytest.mark.postgres
def test_a_restore_that_is_cut_short_behind_the_rows_is_noticed_by_the_mark(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL has the old rows again, and nobody has told it that they are."""
    mark_file, out = tmp_path / "epoch", tmp_path / "books.backup"
    store = SqlStore(postgres, mark_file=mark_file)
    store.open()
    store.commit([WINDOW])
    backup(postgres, out, progress=quiet)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(sql_backup, "begin_recovery", _cut_after([0], begin_recovery))
        with pytest.raises(Cut):
            restore(postgres, out, mark_file=mark_file, progress=quiet)
    store = SqlStore(postgres, mark_file=mark_file)
    store.open()
    assert "restored from a backup" in store.load().settings[SettingKey.RECOVERY]
    store.close()


def _cut_after(left: list[int], operate: Callable[..., Any]) -> Callable[..., Any]:
    def operated(*args: Any, **named: Any) -> Any:
        if not left[0]:
            raise Cut
        left[0] -= 1
        return operate(*args, **named)

    return operated


def test_what_is_no_backup_is_refused_and_the_books_stay(tmp_path: Path) -> None:
    """Both a missing file and a foreign one, by name."""
    url, mark_file = f"sqlite:///{tmp_path / 'books.db'}", tmp_path / "epoch"
    store = SqlStore(url, mark_file=mark_file)
    store.open()
    store.commit([WINDOW, ledger_row(1)])
    store.close()
    foreign = tmp_path / "notes.txt"
    foreign.write_text("no books " * 500)
    for source in (foreign, tmp_path / "nothing"):
        with pytest.raises(StoreError, match=source.name):
            restore(url, source, mark_file=mark_file, progress=quiet)
    store = SqlStore(url, mark_file=mark_file)
    store.open()
    assert [1] == [row.id for row in store.ledger(after_id=0, limit=9)]
    store.close()
