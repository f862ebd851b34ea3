"""Time, ids and randomness as things that are passed in.

Only the daemons, the commands and tests create them; everything else receives them.
"""

from __future__ import annotations

import random
import secrets
import sys
import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """The three clocks that Tidegate tells apart."""

    def unix_ms(self) -> int:
        """Wall-clock time in Unix milliseconds; it may step."""

    def monotonic_ms(self) -> float:
        """Milliseconds for measuring durations inside one process."""

    def boot_ms(self) -> int:
        """Milliseconds since boot, running on in suspend (rule L_3)."""

    def boot_id(self) -> str:
        """An id of the present boot; empty where the system has none (rule L_3)."""


class SystemClock:
    """The clocks of this machine."""

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> float:
        return time.perf_counter_ns() / 1e6

    def boot_ms(self) -> int:
        if sys.platform == "linux":
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        # macOS: CLOCK_MONOTONIC_RAW is mach_continuous_time, which runs on in suspend.
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) // 1_000_000

    def boot_id(self) -> str:
        path = Path("/proc/sys/kernel/random/boot_id")
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""


class IdSource(Protocol):
    """Where new ids and secrets come from."""

    def new_id(self, prefix: str) -> str:
        """A fresh id such as `req-5f0c...`; unique, not secret."""

    def new_secret(self, prefix: str) -> str:
        """A fresh token with at least 256 bits that nobody can guess."""


class SystemIds:
    """Secrets from the system's random source, and ids from a generator that it has seeded.

    Asking the system for every id would let another thread take Python's global lock each time.
    Two instances never make the same ids; a process that forked would, and none of these does.
    """

    def __init__(self) -> None:
        self._generator = random.Random()

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{self._generator.getrandbits(96):024x}"

    def new_secret(self, prefix: str) -> str:
        return f"{prefix}_{secrets.token_urlsafe(32)}"
