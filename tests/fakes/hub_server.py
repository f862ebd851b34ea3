"""A server on loopback that speaks the Hugging Face Hub's protocol for files.

A second port plays the CDN that the Hub sends clients to: another origin, as in life.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "5bf1c3a0d1e2f3a4b5c6d7e8f90112233445566a"


@dataclass
class Asked:
    """One request that came."""

    server: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class HubServer:
    """The Hub and its CDN.

    Attributes
    ----------
    files : dict
        `owner/repo/file` to its bytes; all are kept as large files, under their SHA-256.
    commits : dict
        Revision to commit; a commit stands for itself.
    cut_after : list of int
        The next downloads break off after so many bytes, one each.
    hold_after : int
        A download stops after so many bytes until `let_go`; -1: none does.
    gated, ranges, heads, sized, xet, lie : bool or str
        Terms not accepted; whether ranges and HEAD are honoured and sizes told; whether the Hub
        says that the file is in Xet storage; a checksum that it tells instead of the true one.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v1": "1" * 40})
    cut_after: list[int] = field(default_factory=list)
    hold_after: int = -1
    gated: bool = False
    ranges: bool = True
    heads: bool = True
    sized: bool = True
    xet: bool = False
    lie: str = ""
    asked: list[Asked] = field(default_factory=list)
    hub_url: str = ""
    cdn_url: str = ""

    def __post_init__(self) -> None:
        self._held, self._free = threading.Event(), threading.Event()

    def wait_held(self) -> None:
        """Wait until a download has stopped half-way."""
        assert self._held.wait(20.0), "no download came so far"

    def let_go(self) -> None:
        """Let held downloads go on."""
        self.hold_after = -1
        self._free.set()

    def downloads(self) -> list[Asked]:
        """The requests for content."""
        return [each for each in self.asked if each.server == "cdn" and each.method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    """What both servers share."""

    protocol_version = "HTTP/1.1"
    kind = ""
    hub: HubServer

    def log_message(self, *_: Any) -> None:
        """Tests are silent."""

    def do_HEAD(self) -> None:
        self._note()
        self.answer(body=False)

    def do_GET(self) -> None:
        self._note()
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        raise NotImplementedError

    def _note(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.asked.append(Asked(self.kind, self.command, self.path, headers))

    def reply(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()


class _Hub(_Handler):
    """Tells what there is, and sends clients to the CDN."""

    kind = "hub"

    def answer(self, *, body: bool) -> None:
        hub, (repo, found, rest) = self.hub, unquote(self.path)[1:].partition("/resolve/")
        revision, _, file = rest.partition("/")
        name = f"{repo}/{file}"
        commit = hub.commits.get(revision, revision if len(revision) == 40 else "")
        if not found or not any(each.startswith(f"{repo}/") for each in hub.files):
            self.reply(404, {"X-Error-Code": "RepoNotFound"})
        elif hub.gated and self.headers.get("authorization") != "Bearer hf_good":
            self.reply(403, {"X-Error-Code": "GatedRepo"})
        elif not commit:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
        elif name not in hub.files:
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            content = hub.files[name]
            sha256 = hashlib.sha256(content).hexdigest()
            xet = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": f"{hub.hub_url}/token"}
            self.reply(
                302,
                {
                    "X-Repo-Commit": commit,
                    "X-Linked-Etag": f'"{hub.lie or sha256}"',
                    "X-Linked-Size": str(len(content)) if hub.sized else "",
                    "ETag": '"pointer"',
                    "Location": f"{hub.cdn_url}/{name}?signature=x",
                    **(xet if hub.xet else {}),
                },
            )


class _Cdn(_Handler):
    """Gives out the bytes, whole or from a place on."""

    kind = "cdn"

    def answer(self, *, body: bool) -> None:
        hub, name = self.hub, unquote(self.path.partition("?")[0])[1:]
        if not hub.heads and not body:
            self.reply(405, {})
            return
        if name not in hub.files:
            self.reply(404, {})
            return
        content, start = hub.files[name], 0
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        wanted = self.headers.get("range", "")
        same = self.headers.get("if-range", etag) == etag
        headers = {"ETag": etag, "Content-Length": str(len(content))}
        if wanted and hub.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers["Content-Length"] = str(len(content) - start)
        if not hub.sized and not start:
            headers["Content-Length"] = ""
            self.close_connection = True
        self.reply(206 if start else HTTPStatus.OK, headers)
        if body:
            self._send(content[start:])

    def _send(self, content: bytes) -> None:
        hub = self.hub
        if hub.cut_after:
            self.wfile.write(content[: hub.cut_after.pop(0)])
            self.close_connection = True
            return
        if hub.hold_after >= 0:
            self.wfile.write(content[: hub.hold_after])
            self.wfile.flush()
            hub._held.set()
            hub._free.wait(30.0)
            content = content[hub.hold_after :]
        try:
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client has gone


@contextmanager
def running_hub(**options: Any) -> Iterator[HubServer]:
    """A hub that listens until the context is left."""
    hub = HubServer(**options)
    servers = []
    for handler, name in ((_Hub, "hub_url"), (_Cdn, "cdn_url")):
        bound = type(handler.__name__, (handler,), {"hub": hub})
        server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        server.daemon_threads = True
        setattr(hub, name, f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    try:
        yield hub
    finally:
        hub.let_go()
        for server in servers:
            server.shutdown()
            server.server_close()
