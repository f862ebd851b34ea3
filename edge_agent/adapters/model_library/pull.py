"""Fetching a model file: into a part file first, checked, and then into its place at once."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, read_shape
from edge_agent.adapters.model_library.library import (
    ModelLibrary,
    part_path,
    parts_of,
    sha256_of,
)
from edge_agent.adapters.model_library.origin import Origin, read_origin, write_origin
from edge_agent.adapters.model_library.problem import LibraryError
from edge_agent.adapters.sqlite_books_file import sync_path
from edge_agent.model_source import ModelSource
from shared.clock import Clock

if TYPE_CHECKING:
    from edge_agent.adapters.model_library.remote import RemoteFile


@dataclass(frozen=True)
class Wanted:
    """A model file that this device is to have.

    Attributes
    ----------
    sha256 : str
        The only content that will do; empty if none is pinned.
    """

    path: Path
    source: ModelSource
    sha256: str = ""


@dataclass(frozen=True)
class Pulled:
    """What became of a pull; `resumed_bytes` were there from an earlier one."""

    path: Path
    origin: Origin | None
    fetched_bytes: int = 0
    resumed_bytes: int = 0

    @property
    def was_there(self) -> bool:
        """Whether nothing had to be fetched."""
        return not self.fetched_bytes and not self.resumed_bytes


class Progress(ABC):
    """Is told how a long piece of work goes."""

    @abstractmethod
    def begin(self, what: str, *, done: int, total: int | None) -> None:
        """A step begins, in bytes."""

    @abstractmethod
    def advance(self, done: int) -> None:
        """So many bytes more; fewer than 0 when some have to be fetched again."""


def pull(
    wanted: Wanted,
    *,
    library: ModelLibrary,
    clock: Clock,
    progress: Progress,
    again: bool = False,
    endpoint: str | None = None,
) -> Pulled:
    """Make sure that a model file is here.

    A download that was cut off goes on where it stopped, as long as the file at its source is the
    same. Nothing takes the file's place before its checksum and its header are right.

    Parameters
    ----------
    again : bool
        Fetch what the source has now, also if the file is here already, or was another before.
    endpoint : str, optional
        Of the Hugging Face Hub.

    Raises
    ------
    LibraryError
        If it cannot be had; what has come of it stays for the next try.
    """
    lock = library.lock(wanted.path.parent)
    try:
        if wanted.path.exists() and not again:
            return _already_there(wanted, clock=clock, progress=progress)
        remote = _network().look_up(wanted.source, endpoint=endpoint)
        _check_told(wanted, remote, again=again)
        return _fetch_whole(wanted, remote, library=library, clock=clock, progress=progress)
    finally:
        lock.release()


def _network() -> ModuleType:
    """The Hub's client, loaded when something is fetched: it would double the daemon's start."""
    from edge_agent.adapters.model_library import remote  # noqa: PLC0415

    return remote


def verify(path: Path, *, sha256: str, progress: Progress) -> str:
    """Read a whole model file; its checksum.

    Raises
    ------
    LibraryError
        If it is no model file or has another checksum than the one given.
    """
    _check_header(path, called=str(path))
    progress.begin(f"checking {path.name}", done=0, total=path.stat().st_size)
    found = sha256_of(path, told=progress.advance)
    if sha256 and found != sha256:
        raise LibraryError(
            f"{path} is damaged or another file: its sha256 is {found} instead of {sha256}; fetch "
            "it again with `tidegate-agent models pull --again`"
        )
    return found


def _already_there(wanted: Wanted, *, clock: Clock, progress: Progress) -> Pulled:
    """Check a file against what is pinned; a file that was put there by hand gets a record."""
    origin, size = read_origin(wanted.path), wanted.path.stat().st_size
    if origin is not None and origin.size_bytes == size:
        if wanted.sha256 in ("", origin.sha256):
            _check_header(wanted.path, called=str(wanted.path))
            return Pulled(wanted.path, origin)
        raise LibraryError(
            f"{wanted.path} has the sha256 {origin.sha256}, and {wanted.sha256} is pinned: fetch "
            "the other with `tidegate-agent models pull --again`, or correct the pin"
        )
    expected = wanted.sha256 or (origin.sha256 if origin is not None else "")
    found = verify(wanted.path, sha256=expected, progress=progress)
    if not wanted.sha256:
        return Pulled(wanted.path, origin)
    origin = Origin(str(wanted.source), "", found, size, clock.unix_ms(), "config")
    write_origin(wanted.path, origin)
    return Pulled(wanted.path, origin)


def _check_told(wanted: Wanted, remote: RemoteFile, *, again: bool) -> None:
    """Refuse, before a byte is fetched, what the source itself says is another file."""
    if not remote.sha256:
        return
    if wanted.sha256 and wanted.sha256 != remote.sha256:
        raise LibraryError(
            f"{wanted.source} has the sha256 {remote.sha256} at commit {remote.revision[:12]}, and "
            f"{wanted.sha256} is pinned: pin the commit too (hf://OWNER/REPOSITORY@COMMIT/FILE), "
            "or correct the pin"
        )
    recorded = read_origin(wanted.path)
    same_source = recorded is not None and recorded.source == str(wanted.source)
    if recorded is not None and same_source and recorded.sha256 != remote.sha256 and not again:
        raise LibraryError(
            f"{wanted.source} has changed since it was recorded (sha256 {recorded.sha256[:12]}..., "
            f"now {remote.sha256[:12]}...): take the new one with `tidegate-agent models pull "
            f"--again`, or name the commit {recorded.revision[:12]} in the source"
        )


def _fetch_whole(
    wanted: Wanted,
    remote: RemoteFile,
    *,
    library: ModelLibrary,
    clock: Clock,
    progress: Progress,
) -> Pulled:
    part = part_path(wanted.path, identity=remote.identity)
    for other in parts_of(wanted.path):
        if other != part or not remote.identity:
            other.unlink()
    have = part.stat().st_size if part.exists() else 0
    if remote.size_bytes is not None:
        if have > remote.size_bytes:
            part.unlink()
            have = 0
        library.check_room(wanted.path, more_bytes=remote.size_bytes - have)
    progress.begin(f"fetching {wanted.path.name}", done=have, total=remote.size_bytes)
    with _appending(part, library=library, target=wanted.path, progress=progress) as file:
        _network().fetch(remote, file)
    fetched = part.stat().st_size - have
    origin = _checked(part, wanted, remote, clock=clock, progress=progress)
    # The record goes first: a file without one would be trusted for nothing but its name.
    write_origin(wanted.path, origin)
    part.replace(wanted.path)
    sync_path(wanted.path.parent)
    return Pulled(wanted.path, origin, fetched_bytes=fetched, resumed_bytes=have)


def _checked(
    part: Path, wanted: Wanted, remote: RemoteFile, *, clock: Clock, progress: Progress
) -> Origin:
    """The record of a download that is what it should be; one that is not is deleted."""
    size = part.stat().st_size
    progress.begin(f"checking {wanted.path.name}", done=0, total=size)
    found = sha256_of(part, told=progress.advance)
    told = wanted.sha256 or remote.sha256
    if told and found != told:
        part.unlink()
        raise LibraryError(
            f"{wanted.source} came with the sha256 {found} instead of {told}: it was damaged on "
            "its way or is another file; nothing of it was kept"
        )
    try:
        _check_header(part, called=str(wanted.source))
    except LibraryError:
        part.unlink()
        raise
    return Origin(
        source=str(wanted.source),
        revision=remote.revision,
        sha256=found,
        size_bytes=size,
        pulled_unix_ms=clock.unix_ms(),
        checked_against="config" if wanted.sha256 else "hub" if remote.sha256 else "",
    )


def _check_header(path: Path, *, called: str) -> None:
    try:
        read_shape(path)
    except ModelFileError as error:
        problem = str(error).replace(str(path), called)
        raise LibraryError(f"no usable model: {problem}") from error


@contextmanager
def _appending(
    part: Path, *, library: ModelLibrary, target: Path, progress: Progress
) -> Iterator[BinaryIO]:
    """A part file that goes on at its end, watches the quota, and is synced when left."""
    part.touch(mode=0o644)
    with part.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        watched = _Watched(file, library=library, target=target, progress=progress)
        try:
            yield cast("BinaryIO", watched)
        finally:
            file.flush()
            os.fsync(file.fileno())


class _Watched:
    """A file that tells what is written, and stops when there is no more room for it.

    The size of a download is not always known beforehand.
    """

    def __init__(
        self, file: BinaryIO, *, library: ModelLibrary, target: Path, progress: Progress
    ) -> None:
        self._file = file
        self._library = library
        self._target = target
        self._progress = progress

    def write(self, data: bytes) -> int:
        self._library.check_room(self._target, more_bytes=len(data))
        written = self._file.write(data)
        self._file.flush()  # what has come is kept whatever ends this process
        self._progress.advance(written)
        return written

    def truncate(self) -> int:
        """Forget what comes after the present place: the server sends it again."""
        lost = os.fstat(self._file.fileno()).st_size - self._file.tell()
        self._progress.advance(-lost)
        return self._file.truncate()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
