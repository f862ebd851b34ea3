"""Opening the books at the start: corrupt ones are set aside, the device stays who it is (O_3)."""

from __future__ import annotations

from pathlib import Path

import structlog

from edge_agent.adapters.identity_file import IdentityFile
from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.books import BookEffect, BooksSnapshot, MetaKey, PutMeta
from edge_agent.session import Credential
from shared.clock import Clock
from shared.errors import BooksCorruptError, StoreError

log = structlog.get_logger(__name__)


async def open_books(path: Path, *, clock: Clock) -> tuple[SqliteBooks, BooksSnapshot]:
    """Open the books and read them; new ones take the place of corrupt ones.

    New books take the device's identity over from the file beside them, but no resume token, and
    they count as a copy. So the device says hello as itself, and the coordinator, which cannot
    know what was spent, books all its leases in full and holds it in quarantine (rule D_2).

    Raises
    ------
    StoreError
        If another process holds the books, a newer agent wrote them, or the disk is full.
    """
    identity = IdentityFile(path)
    lost = False
    try:
        books, snapshot = await _opened(path)
    except BooksCorruptError as error:
        lost = True
        identity.note_loss()  # first: a start that ends in between must not forget it
        aside = SqliteBooks.set_aside(path, clock=clock)
        log.error("books_corrupt", problem=str(error), kept_as=str(aside))
        books, snapshot = await _opened(path)
    try:
        if MetaKey.CREDENTIAL not in snapshot.meta:
            snapshot = await _take_over(books, identity, snapshot, path=path, lost=lost)
        _keep(identity, snapshot)
    except BaseException:
        await books.close()
        raise
    return books, snapshot


def credential_in(snapshot: BooksSnapshot) -> Credential | None:
    """Who the device is by its books; None if it has not joined."""
    secret = snapshot.meta.get(MetaKey.CREDENTIAL)
    return Credential(snapshot.meta.get(MetaKey.DEVICE_ID, ""), secret) if secret else None


async def _opened(path: Path) -> tuple[SqliteBooks, BooksSnapshot]:
    books = SqliteBooks(path)
    try:
        return books, books.load()
    except BaseException:
        await books.close()
        raise


async def _take_over(
    books: SqliteBooks, identity: IdentityFile, snapshot: BooksSnapshot, *, path: Path, lost: bool
) -> BooksSnapshot:
    """Tell new books what became of the old ones, if these were lost."""
    known = identity.read()
    knows = known is not None and known.books_lost
    if not (lost or knows):
        return snapshot
    problem = f"the books were corrupt and are kept as {path.name}.corrupt-*: "
    effects: list[BookEffect] = [PutMeta(MetaKey.COPIED, "1")]
    if known is not None and knows:
        problem += (
            "nobody knows what was spent, so the coordinator books this device's leases in full "
            "and holds it in quarantine; find out why (disk, power), then run `tidectl device "
            f"readmit {known.device_id}`"
        )
        effects += [
            PutMeta(MetaKey.DEVICE_ID, known.device_id),
            PutMeta(MetaKey.CREDENTIAL, known.secret),
        ]
    else:
        problem += (
            "nothing is left that tells who this device was; give it a new join token (`tidectl "
            "token create`) and end the leases that it had under its old id (`tidectl budget "
            "write-off OLD_ID --reason WHY`)"
        )
    effects.append(PutMeta(MetaKey.BOOKS_LOST, problem))
    await books.commit(effects, sync=True)
    log.error("books_lost", problem=problem)
    return books.load()


def _keep(identity: IdentityFile, snapshot: BooksSnapshot) -> None:
    """Note who the device is; a disk without room for that does not keep it from answering."""
    credential = credential_in(snapshot)
    if credential is None:
        return
    try:
        identity.keep(credential)
    except StoreError as error:
        log.error("identity_not_kept", problem=str(error))
