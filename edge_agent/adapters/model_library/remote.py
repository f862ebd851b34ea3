"""What a source says of a file, and bringing its bytes: through the Hub's own client library.

Addresses, metadata, tokens, the connection and the errors are the library's. Its
`hf_hub_download` is not used: since version 2 it drops what has come when it is cut off, and its
parts hold 10 MiB back, which a bad line may never bring in one piece. A file in Xet storage is
fetched over plain HTTP, which the Hub offers for every file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import httpx2
import stamina
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata
from huggingface_hub.utils import (  # type: ignore[attr-defined] # it loads them lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from edge_agent.adapters.model_library.library import PIECE_BYTES
from edge_agent.adapters.model_library.problem import LibraryError
from edge_agent.model_source import HubSource, ModelSource, PathSource, UrlSource
from shared.version import SOFTWARE_VERSION

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HEAD_S: Final = 15.0
_SILENT_S_MAX: Final = 20.0
ATTEMPTS: Final = 6
"""In a row without a byte; what brings some starts the count anew."""
WAIT_S: Final = 0.5
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_HEAD: Final = frozenset({403, 405, 501})
_NAME: Final = "tidegate-agent"


@dataclass(frozen=True)
class RemoteFile:
    """A file at its source, at one moment.

    Attributes
    ----------
    size_bytes : int or None
        None where the source does not tell.
    sha256, revision : str
        As the Hub tells them; empty elsewhere.
    identity : str
        Changes when the content does; empty if that cannot be told, so nothing can be resumed.
    """

    source: ModelSource
    size_bytes: int | None
    sha256: str = ""
    revision: str = ""
    identity: str = ""
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict, repr=False)


def look_up(source: ModelSource, *, endpoint: str | None = None) -> RemoteFile:
    """Ask a source about its file.

    Parameters
    ----------
    endpoint : str, optional
        Of the Hub; default: `HF_ENDPOINT`, else the public one.

    Raises
    ------
    LibraryError
        If it cannot be reached or has no such file.
    """
    if isinstance(source, PathSource):
        return _on_disk(source)
    with _explained(source):
        if isinstance(source, HubSource):
            return _on_hub(source, endpoint=endpoint)
        return _at_url(source)


def fetch(remote: RemoteFile, file: BinaryIO) -> None:
    """Append to a file what it lacks; it stands at its end.

    Raises
    ------
    LibraryError
        If the rest does not come; what has come stays.
    """
    if isinstance(remote.source, PathSource):
        _copy(remote.source, file)
        return
    with _explained(remote.source):
        ended = False
        while not ended:
            for attempt in stamina.retry_context(
                on=(httpx2.TransportError, _BusyError),
                attempts=ATTEMPTS,
                timeout=None,
                wait_initial=WAIT_S,
                wait_jitter=WAIT_S,
                wait_max=10.0,
            ):
                with attempt:
                    ended = file.tell() == remote.size_bytes or _stream(remote, file)
    if remote.size_bytes not in (None, file.tell()):
        raise LibraryError(
            f"{remote.source} has {file.tell()} bytes instead of the {remote.size_bytes} that were "
            "told: run the same command again"
        )


class _BusyError(Exception):
    """The server asks for patience."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def _stream(remote: RemoteFile, file: BinaryIO) -> bool:
    """Append what comes; False if it broke off after some bytes, and the rest is to be asked for.

    Raises
    ------
    TransportError
        If nothing came.
    """
    have, came = file.tell(), 0
    wanted = {"Range": f"bytes={have}-"} if have else {}
    with get_session().stream(
        "GET", remote.url, headers={**remote.headers, **wanted}, timeout=_SILENT_S_MAX
    ) as response:
        if response.status_code in _BUSY:
            raise _BusyError(response.status_code)
        hf_raise_for_status(response)
        if have and response.status_code != httpx2.codes.PARTIAL_CONTENT:
            file.seek(0)
            file.truncate()  # it sends the whole file again
        try:
            for piece in response.iter_bytes():
                file.write(piece)
                came += len(piece)
        except httpx2.TransportError:
            if not came:
                raise
            return False
    return True


def _on_hub(source: HubSource, *, endpoint: str | None) -> RemoteFile:
    url = hf_hub_url(source.repo, source.file, revision=source.revision or None, endpoint=endpoint)
    found = get_hf_file_metadata(
        url,
        timeout=_HEAD_S,
        endpoint=endpoint,
        library_name=_NAME,
        library_version=SOFTWARE_VERSION,
    )
    if found.commit_hash is None or found.etag is None:
        raise FileMetadataError("it does not answer like the Hugging Face Hub")
    # From here on the commit is named, so that what is resumed is the same file.
    pinned = hf_hub_url(source.repo, source.file, revision=found.commit_hash, endpoint=endpoint)
    is_sha256 = _SHA256.fullmatch(found.etag) is not None
    return RemoteFile(
        source=source,
        size_bytes=found.size,
        sha256=found.etag if is_sha256 else "",
        revision=found.commit_hash,
        identity=found.etag,
        url=pinned,
        headers=_headers(token=None),
    )


def _at_url(source: UrlSource) -> RemoteFile:
    # Without the Hub's token: this is another's address.
    asked = _headers(token=False)
    response = get_session().head(source.url, headers=asked, timeout=_HEAD_S)
    if response.status_code in _NO_HEAD:
        return RemoteFile(source=source, size_bytes=None, url=source.url, headers=asked)
    response.raise_for_status()
    length, etag = response.headers.get("content-length"), response.headers.get("etag", "")
    mark = etag or response.headers.get("last-modified", "")
    if etag and not etag.startswith("W/"):
        asked["If-Range"] = etag  # another content comes whole instead of as a wrong rest
    return RemoteFile(
        source=source,
        size_bytes=int(length) if length else None,
        identity=f"{mark} {length}" if mark and length else "",
        url=source.url,
        headers=asked,
    )


def _headers(*, token: bool | None) -> dict[str, str]:
    """What every request says; with None, the token that this machine has for the Hub."""
    headers = build_hf_headers(token=token, library_name=_NAME, library_version=SOFTWARE_VERSION)
    return {**headers, "Accept-Encoding": "identity"}


def _on_disk(source: PathSource) -> RemoteFile:
    try:
        found = Path(source.path).stat()
    except OSError as error:
        raise LibraryError(f"cannot read {source.path}: {error.strerror}") from error
    return RemoteFile(
        source=source,
        size_bytes=found.st_size,
        identity=f"{found.st_mtime_ns} {found.st_size}",
    )


def _copy(source: PathSource, file: BinaryIO) -> None:
    try:
        with Path(source.path).open("rb") as original:
            original.seek(file.tell())
            while piece := original.read(PIECE_BYTES):
                file.write(piece)
    except OSError as error:
        raise LibraryError(f"cannot copy {source.path}: {error.strerror}") from error


@contextmanager
def _explained(source: ModelSource) -> Iterator[None]:
    """Say what an error of the network means, and what helps."""
    try:
        yield
    except GatedRepoError as error:
        raise LibraryError(
            f"{source} is for those who have accepted its terms: do so on its page, and set "
            "HF_TOKEN to a token of yours"
        ) from error
    except (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError) as error:
        raise LibraryError(f"{source} cannot be found: {_not_found(error)}") from error
    except OfflineModeIsEnabled as error:
        raise LibraryError(f"{source}: HF_HUB_OFFLINE is set, so nothing is fetched") from error
    except FileMetadataError as error:
        raise LibraryError(f"{source}: {constants.ENDPOINT}: {error}; check HF_ENDPOINT") from error
    except (HfHubHTTPError, httpx2.HTTPStatusError) as error:
        status = error.response.status_code
        raise LibraryError(f"{source} was refused with HTTP {status}: {_remedy(status)}") from error
    except _BusyError as error:
        raise LibraryError(
            f"{source} was refused with HTTP {error.status} again and again: try later; it goes on "
            "where it stopped"
        ) from error
    except httpx2.HTTPError as error:
        raise LibraryError(
            f"{source} cannot be reached ({_words(error)}): check the network and run the same "
            "command again; it goes on where it stopped"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise LibraryError(f"cannot write: {os.strerror(error.errno)}") from error
        raise LibraryError(f"{source}: {_words(error)}") from error


def _not_found(error: Exception) -> str:
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private: then set HF_TOKEN"
    return "the repository has no such file; look at its file list"


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "it wants a token that may read it; for the Hub set HF_TOKEN"
    if status == 404:
        return "there is no such file; correct the address"
    return "try again later"


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
