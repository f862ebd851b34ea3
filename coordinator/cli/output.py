"""Where exports go: to standard output, or into a file that is there once it is whole."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from coordinator.cli.session import ExitCode, fail


@contextmanager
def output(path: Path | None) -> Iterator[IO[str]]:
    """What to write to; gzipped where the file's name ends in `.gz`.

    A file that cannot be written ends the command with the reason; one that was there before stays
    as it was unless all is written.
    """
    try:
        if path is None:
            yield sys.stdout
            return
        part = path.with_name(f"{path.name}.part")
        opened = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(part, "wt", encoding="utf-8", newline="") as file:
                yield cast("IO[str]", file)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        fail(f"cannot write {path or 'standard output'}: {error.strerror}", code=ExitCode.USAGE)
