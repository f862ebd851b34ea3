"""Where a model file comes from: the Hugging Face Hub, an HTTPS address, or a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final
from urllib.parse import unquote, urlsplit

HUB_PREFIX: Final = "hf://"
_HUB: Final = re.compile(
    r"hf://(?:models/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@\s]+))?/(?P<file>[^@\s]+)"
)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}")
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class HubSource:
    """A file in a repository of the Hugging Face Hub.

    Attributes
    ----------
    revision : str
        A branch, a tag or a commit; empty for the main branch.
    """

    repo: str
    file: str
    revision: str = ""

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{HUB_PREFIX}{self.repo}{at}/{self.file}"


@dataclass(frozen=True)
class UrlSource:
    """A file at an HTTPS address; its text is without the query, which may be a secret."""

    url: str

    def __str__(self) -> str:
        return self.url.partition("?")[0]


@dataclass(frozen=True)
class PathSource:
    """A file of this machine, such as one on a USB stick."""

    path: str

    def __str__(self) -> str:
        return self.path


ModelSource = HubSource | UrlSource | PathSource


def parse_source(text: str) -> ModelSource:
    """Read a source as it is written in a configuration.

    Raises
    ------
    ValueError
        Saying what would be right.
    """
    source = _parse(text)
    name = file_name(source)
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(
            f"should end with the name of a file, of letters, digits, '.', '_' and '-'; "
            f"{name[:40]!r} is none"
        )
    return source


def file_name(source: ModelSource) -> str:
    """The name of the file at its source."""
    if isinstance(source, HubSource):
        return source.file.rpartition("/")[2]
    if isinstance(source, UrlSource):
        return unquote(urlsplit(source.url).path).rpartition("/")[2]
    return PurePath(source.path).name


def _parse(text: str) -> ModelSource:
    if text.startswith(HUB_PREFIX):
        match = _HUB.fullmatch(text)
        if match is None or ".." in text:
            raise ValueError(
                'should be "hf://OWNER/REPOSITORY/FILE", or with a revision '
                '"hf://OWNER/REPOSITORY@REVISION/FILE"'
            )
        return HubSource(match["repo"], match["file"], unquote(match["revision"] or ""))
    if "://" in text:
        return _url(text)
    if not text.strip() or "\0" in text:
        raise ValueError('should be "hf://OWNER/REPOSITORY/FILE", an https:// address, or a path')
    return PathSource(text)


def _url(text: str) -> UrlSource:
    try:
        url = urlsplit(text)
        host = url.hostname or ""
    except ValueError:
        host, url = "", urlsplit("")
    plain_here = url.scheme == "http" and host in _LOOPBACK
    if not host or not (url.scheme == "https" or plain_here):
        raise ValueError(
            "should be an https:// address (plain http:// only of this machine itself), "
            'or "hf://OWNER/REPOSITORY/FILE"'
        )
    if url.username is not None or url.password is not None:
        raise ValueError("should have no user name or password in its address")
    return UrlSource(text)
