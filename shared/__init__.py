"""What both tiers agree on: decisions, the wire, limits, errors."""

import sys

if sys.platform == "win32":
    # File locks, process groups and the boot-time clock, on which the money rests, are POSIX.
    sys.exit("Tidegate runs on Linux and macOS; on Windows use WSL 2")
