"""Links carry bytes, and cut, delay and half-open connections when they are told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.chaos.proxy import HalfOpen, Link, Proxies

WAIT_S = 20.0
"""Only a broken link waits so long."""
SILENT_S = 0.2


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything again."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while said := connection.recv(1024):
                connection.sendall(said)

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    # Wakes the thread that accepts, which a plain close would not.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def link(echo: int) -> Iterator[Link]:
    """A link to the server."""
    with Proxies() as proxies:
        yield proxies.link(echo)


def connected(link: Link) -> socket.socket:
    """A connection that has carried something."""
    client = socket.create_connection(("127.0.0.1", link.port), timeout=WAIT_S)
    client.sendall(b"hello")
    assert b"hello" == client.recv(16)
    return client


def silent(client: socket.socket) -> bool:
    """Whether nothing comes for a moment; it may only ever say so too often."""
    client.settimeout(SILENT_S)
    try:
        client.recv(16)
    except TimeoutError:
        return True
    finally:
        client.settimeout(WAIT_S)
    return False


def test_a_healthy_link_carries_both_ways(link: Link) -> None:
    """What is said comes back, and an end in order is an end in order."""
    with connected(link) as client:
        client.shutdown(socket.SHUT_WR)
        assert b"" == client.recv(16)


def test_a_cut_resets_what_stands_and_what_comes(link: Link) -> None:
    """Until the link is healed; then new connections work."""
    with connected(link) as client:
        link.cut()
        with pytest.raises(ConnectionError):
            client.recv(16)
    with (
        pytest.raises(ConnectionError),
        socket.create_connection(("127.0.0.1", link.port), timeout=WAIT_S) as refused,
    ):
        refused.sendall(b"anybody")
        if not refused.recv(16):
            raise ConnectionError("closed in order")
    link.heal(drop=False)
    connected(link).close()


@pytest.mark.parametrize("mode", [HalfOpen.HOLD, HalfOpen.DEAF, HalfOpen.MUTE])
def test_a_half_open_link_holds_back_and_delivers_late(link: Link, mode: HalfOpen) -> None:
    """The connection stands, nothing comes through, and healing delivers it."""
    with connected(link) as client:
        link.half_open(mode)
        client.sendall(b"late")
        assert silent(client)
        link.heal(drop=False)
        assert b"late" == client.recv(16)


def test_an_orphaned_client_is_told_only_when_the_link_heals(link: Link) -> None:
    """Its server is gone, and it does not know."""
    with connected(link) as client:
        link.half_open(HalfOpen.ORPHAN)
        assert silent(client)
        link.heal(drop=False)
        with pytest.raises(ConnectionError):
            client.recv(16)
    connected(link).close()


def test_healing_may_drop_what_was_held(link: Link) -> None:
    """Bytes that were under way are lost with their connection."""
    with connected(link) as client:
        link.half_open(HalfOpen.HOLD)
        client.sendall(b"lost")
        assert silent(client)
        link.heal(drop=True)
        with pytest.raises(ConnectionError):
            client.recv(16)


def test_a_delayed_link_still_carries_everything(link: Link) -> None:
    """Late is not lost."""
    with connected(link) as client:
        link.delay(0.05)
        client.sendall(b"slow")
        assert b"slow" == client.recv(16)
