"""Small files that are there as a whole or not at all, also after a loss of power."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from edge_agent.adapters.sqlite_books_file import sync_path


def write_whole(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write a file under another name, sync it, and give it its name.

    Parameters
    ----------
    mode : int
        Who may read and write it, as far as the process's umask allows.
    """
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)  # left by a crash, perhaps with another mode
    with open(draft, "w", encoding="utf-8", opener=partial(os.open, mode=mode)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_path(path.parent)
