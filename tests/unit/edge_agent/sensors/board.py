"""Boards whose kernel files were written down after the documented formats."""

from __future__ import annotations

from pathlib import Path

BOARDS = Path(__file__).parent / "boards"


class Board:
    """A board's files in a folder, which a test may change."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        for line in recorded(name).splitlines():
            path, found, content = line.partition(" =")
            if found and not line.startswith("#"):
                self.write(path, content.strip())

    def write(self, path: str, content: str) -> None:
        """What a file says from now on."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n" if content else "")


def recorded(name: str) -> str:
    """A recording's text."""
    return (BOARDS / f"{name}.txt").read_text(encoding="utf-8")
