"""Who the device is, in a small file beside its books, which outlives them (rule O_3).

The books are the authority. The file is only asked when they were corrupt and had to be set aside.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from edge_agent.adapters.sqlite_books_file import store_error
from edge_agent.adapters.whole_file import write_whole
from edge_agent.session import Credential

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Identity:
    """What the file says.

    Attributes
    ----------
    books_lost : bool
        The books of this device were set aside, and the new ones do not know it yet.
    """

    device_id: str
    secret: str
    books_lost: bool = False


class IdentityFile:
    """The file beside some books, for its owner only.

    Parameters
    ----------
    books : Path
        The file of the books.
    """

    def __init__(self, books: Path) -> None:
        self._path = books.with_name("identity.json")

    def read(self) -> Identity | None:
        """What it says; None if there is none, or if it cannot be read, which is logged."""
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
            return Identity(str(said["device_id"]), str(said["secret"]), bool(said["books_lost"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.error("identity_unreadable", file=str(self._path), problem=str(error))
            return None

    def keep(self, credential: Credential) -> None:
        """Note who the device is, through a loss of power; nothing happens if it is noted.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        self._write(Identity(credential.device_id, credential.secret))

    def note_loss(self) -> None:
        """The books are about to be set aside: whoever opens the new ones must know.

        Raises
        ------
        StoreError
            If it cannot be written.
        """
        known = self.read()
        if known is not None:
            self._write(Identity(known.device_id, known.secret, books_lost=True))

    def _write(self, identity: Identity) -> None:
        if identity == self.read():
            return
        try:
            write_whole(self._path, json.dumps(asdict(identity)) + "\n", mode=0o600)
        except OSError as error:
            operation = "note the device's identity"
            raise store_error(error, path=self._path, operation=operation) from error
