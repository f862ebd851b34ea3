"""Small text files of the kernel, read without ever failing: a sensor may be switched off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def text(path: Path) -> str:
    """What a file says, without white space around it; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """The whole number in a file; None if there is none."""
    try:
        return int(text(path))
    except ValueError:
        return None


def hwmon(root: Path, *, name: str) -> Iterator[Path]:
    """The folders of the hardware monitors of that name.

    Parameters
    ----------
    root : Path
        Where `sys` is; `/` but in tests.
    """
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if text(folder / "name") == name:
            yield folder
