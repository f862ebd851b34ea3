"""Durations, sizes and addresses as people write them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNITS_BYTES: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_AMOUNT: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")


def duration_ms(text: object) -> int:
    """Parse a duration such as `"500ms"`, `"10s"`, `"5m"`, `"1h"` or `"1d"` into milliseconds.

    Raises
    ------
    ValueError
        If it is no text of that form, or no whole number of milliseconds.
    """
    amount = _scaled(text, units=_UNITS_MS)
    if amount is None:
        raise ValueError('should be a duration in quotes, with its unit: "500ms", "10s", "1h"')
    if amount != int(amount):
        raise ValueError(f"{text!r} is no whole number of milliseconds")
    return int(amount)


def duration_text(ms: int) -> str:
    """Milliseconds in the largest unit that fits a whole number of times."""
    for unit, size in reversed(_UNITS_MS.items()):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return "0s"


def size_bytes(value: object) -> int:
    """Parse a size such as `"512MiB"` or `"2GB"` into bytes; an integer is bytes already.

    Raises
    ------
    ValueError
        If it is neither, or no whole number of bytes.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    amount = _scaled(value, units=_UNITS_BYTES)
    if amount is None:
        raise ValueError('should be a size with its unit: "512MiB", "2GB", or whole bytes')
    if amount != int(amount):
        raise ValueError(f"{value!r} is no whole number of bytes")
    return int(amount)


@dataclass(frozen=True)
class Address:
    """A host and a port; IPv6 hosts are written in brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be reached by it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """Parse `host:port`.

    Raises
    ------
    ValueError
        If it has another form or the port is not within 0 to 65535.
    """
    if isinstance(value, Address):
        return value
    text = value if isinstance(value, str) else ""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65_535:
        raise ValueError('should be host and port, such as "127.0.0.1:7481" or "[::1]:7481"')
    return Address(found[1] or found[2], int(found[3]))


def _scaled(text: object, *, units: dict[str, int]) -> Decimal | None:
    """The number times its unit, or None if the text has no such form."""
    found = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if found is None or found[2] not in units:
        return None
    return Decimal(found[1]) * units[found[2]]
