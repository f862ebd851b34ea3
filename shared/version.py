"""The versions that peers tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SOFTWARE_VERSION: Final = "0.1.0"


@dataclass(frozen=True, order=True)
class ProtocolVersion:
    """A version of the wire protocol.

    Peers work together when their major versions agree and their minor versions differ by at
    most one, so that a fleet can be upgraded device by device.
    """

    major: int
    minor: int

    def works_with(self, other: ProtocolVersion) -> bool:
        """Whether a peer of version `other` can be talked to."""
        return self.major == other.major and abs(self.minor - other.minor) <= 1

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


PROTOCOL_VERSION: Final = ProtocolVersion(1, 0)
