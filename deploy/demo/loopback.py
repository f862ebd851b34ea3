"""HTTP to this machine itself, past any proxy that the environment names."""

from __future__ import annotations

from typing import Final
from urllib.request import ProxyHandler, Request, build_opener

TIMEOUT_S: Final = 5.0
_OPENER: Final = build_opener(ProxyHandler({}))


def fetch(url: str, *, bearer: str = "") -> bytes:
    """The body of a page.

    Raises
    ------
    OSError
        When it cannot be had, or its status is an error.
    """
    headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
    with _OPENER.open(Request(url, headers=headers), timeout=TIMEOUT_S) as reply:
        body: bytes = reply.read()
        return body


def answers(url: str, *, bearer: str = "") -> bool:
    """Whether a page can be had."""
    try:
        fetch(url, bearer=bearer)
    except OSError:
        return False
    return True
