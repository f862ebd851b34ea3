"""Corrupt books are set aside, and the device comes back as itself (rules O_3, D_2)."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.adapters.books_opening import credential_in, open_books
from edge_agent.adapters.identity_file import IdentityFile
from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.books import BooksSnapshot, MetaKey, PutMeta
from edge_agent.engine import AgentEngine
from edge_agent.session import Credential
from shared.clock import SystemClock
from shared.errors import BooksFullError
from tests.fakes.samples import device_config

ME = Credential("dev-1", "secret")
CLOCK = SystemClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the books are."""
    return tmp_path / "books.db"


def engine_on(snapshot: BooksSnapshot) -> AgentEngine:
    """An agent's engine, started on these books."""
    return AgentEngine(
        incarnation="i", boot_id="b", snapshot=snapshot, fallback=device_config(), unix_ms=0
    )


async def opened(path: Path) -> BooksSnapshot:
    """What a start finds."""
    books, snapshot = await open_books(path, clock=CLOCK)
    await books.close()
    return snapshot


async def join(path: Path) -> None:
    """A device that has joined, and holds a token of its last session."""
    books, _ = await open_books(path, clock=CLOCK)
    facts = {
        MetaKey.DEVICE_ID: ME.device_id,
        MetaKey.CREDENTIAL: ME.secret,
        MetaKey.RESUME_TOKEN: "token",
    }
    await books.commit([PutMeta(key, value) for key, value in facts.items()], sync=True)
    await books.close()
    IdentityFile(path).keep(ME)


def truncate(path: Path) -> None:
    """The second half is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    """Everything but the beginning is something else."""
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(byte ^ 0x5A for byte in whole[4096:]))


def empty(path: Path) -> None:
    """Nothing is left."""
    path.write_bytes(b"")


def remove(path: Path) -> None:
    """Somebody takes the file away."""
    path.unlink()


DAMAGES = pytest.mark.parametrize("damage", [truncate, garble, empty])
Damage = Callable[[Path], None]


@DAMAGES
async def test_a_device_whose_books_were_corrupt_comes_back_as_itself(
    path: Path, damage: Damage
) -> None:
    """With its credential, without its resume token, as a copy; and it says what to do."""
    await join(path)
    damage(path)
    snapshot = await opened(path)
    assert ME == credential_in(snapshot)
    hello = engine_on(snapshot).hello()
    assert ("", True) == (hello.resume_token, hello.copied)
    problem = engine_on(snapshot).gate.books_lost
    assert "books.db.corrupt-*" in problem
    assert "tidectl device readmit dev-1" in problem
    assert 1 == len(list(path.parent.glob("books.db.corrupt-*")))
    assert snapshot.meta == (await opened(path)).meta, "also after a restart"


@DAMAGES
async def test_a_start_that_ends_in_the_middle_is_gone_on_with(
    path: Path, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The books were set aside, and the disk had no room for new ones."""
    await join(path)
    damage(path)
    with monkeypatch.context() as patched:
        set_aside = SqliteBooks.set_aside

        def then_full(path: Path, *, clock: SystemClock) -> Path:
            set_aside(path, clock=clock)
            raise BooksFullError("no space")

        patched.setattr(SqliteBooks, "set_aside", then_full)
        with pytest.raises(BooksFullError):
            await opened(path)
    snapshot = await opened(path)
    assert ME == credential_in(snapshot)
    assert "readmit dev-1" in snapshot.meta[MetaKey.BOOKS_LOST]


async def test_without_a_trace_of_its_identity_it_says_how_to_join_anew(path: Path) -> None:
    """And what becomes of the old one's leases."""
    await join(path)
    garble(path)
    path.with_name("identity.json").write_text("{")
    snapshot = await opened(path)
    assert credential_in(snapshot) is None
    problem = engine_on(snapshot).gate.books_lost
    assert "tidectl token create" in problem
    assert "tidectl budget write-off OLD_ID" in problem


async def test_books_that_somebody_removed_are_not_lost_ones(path: Path) -> None:
    """Whoever wants to join anew may take them away."""
    await join(path)
    remove(path)
    assert {} == (await opened(path)).meta


async def test_the_problem_stands_until_the_device_may_spend(path: Path) -> None:
    """A welcome in quarantine leaves it, readmission ends it, for later starts too."""
    await join(path)
    garble(path)
    books, snapshot = await open_books(path, clock=CLOCK)
    engine = engine_on(snapshot)
    await books.commit(
        engine.welcomed(resume_token="t", spend_paused=False, quarantined="a clone"), sync=True
    )
    assert engine.gate.books_lost
    assert not engine.hello().copied, "the coordinator knows"
    assert engine_on(books.load()).gate.books_lost
    await books.commit(
        engine.welcomed(resume_token="t2", spend_paused=False, quarantined=""), sync=True
    )
    assert "" == engine.gate.books_lost == engine_on(books.load()).gate.books_lost
    await books.close()


async def test_the_identity_is_noted_for_its_owner_only(path: Path) -> None:
    """Also of books that were joined with before there was such a file."""
    await join(path)
    file = path.with_name("identity.json")
    file.unlink()
    await opened(path)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    kept = IdentityFile(path).read()
    assert kept is not None
    assert (ME.device_id, ME.secret) == (kept.device_id, kept.secret)


async def test_an_identity_that_cannot_be_noted_keeps_nobody_from_starting(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start tries again (promise P2)."""
    await join(path)
    path.with_name("identity.json").unlink()

    def full(*_: object) -> None:
        raise BooksFullError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(IdentityFile, "keep", full)
        assert ME == credential_in(await opened(path))
    await opened(path)
    assert path.with_name("identity.json").exists()
