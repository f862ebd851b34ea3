"""An exclusive lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shared.errors import StoreError


class FileLock:
    """Hold `path` exclusively from construction until `release`.

    The file itself stays: to delete it would let two processes hold different files of the same
    name.

    Parameters
    ----------
    path : Path
        The lock file; created with mode 0600.
    protects : Path
        What the lock is for, named in errors.

    Raises
    ------
    StoreError
        If another process holds it, or if the file cannot be created.
    """

    def __init__(self, path: Path, *, protects: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot create the lock file {path}: {error.strerror}; "
                "the folder must exist and be writable"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            if not isinstance(error, BlockingIOError):
                raise StoreError(f"cannot lock {path}: {error.strerror}") from error
            raise StoreError(
                f"{protects} is in use by another process, which holds {path}; stop that one first"
            ) from error

    @property
    def made_ns(self) -> int:
        """When the file came to be where it is, in nanoseconds; a copy of it has another time."""
        # Nobody writes to it, and no tool that copies can set this time.
        return os.fstat(self._fd).st_ctime_ns

    def release(self) -> None:
        """Let others have it; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
