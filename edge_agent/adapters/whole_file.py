"""Small files that are there as a whole or not at all, also after a loss of power."""

from __future__ import annotations

import os
from pathlib import Path

from edge_agent.adapters.sqlite_books_file import sync_path


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, sync it, and give it its name."""
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_path(path.parent)
