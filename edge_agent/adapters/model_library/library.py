"""The folder that holds this device's model files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.adapters.model_library.origin import Origin, origin_path, read_origin
from edge_agent.adapters.model_library.problem import LibraryError
from shared.errors import StoreError
from shared.file_lock import FileLock

PART_SUFFIX: Final = ".part"
FREE_BYTES_MIN: Final = 64 * 1024 * 1024
"""Left on the disk for the books, whatever the quota says."""
PIECE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class StoredFile:
    """A model file in the folder, whole or begun.

    Attributes
    ----------
    part_bytes : int
        What a download that has not ended has brought so far.
    """

    path: Path
    size_bytes: int
    part_bytes: int
    origin: Origin | None


class ModelLibrary:
    """The folder, its quota, and the right to change it.

    Parameters
    ----------
    folder : Path
        Made when the first file comes.
    disk_bytes_max : int
        For all files in it, begun ones included; 0 for no limit.
    """

    def __init__(self, folder: Path, *, disk_bytes_max: int = 0) -> None:
        self.folder = folder
        self.disk_bytes_max = disk_bytes_max

    def used_bytes(self) -> int:
        """What all files of the folder take."""
        return sum(path.stat().st_size for path in self._paths())

    def files(self) -> list[StoredFile]:
        """Every model file of the folder, by name."""
        names = {_model_name(path) for path in self._paths() if _model_name(path)}
        return [self.stored(self.folder / name) for name in sorted(names)]

    def stored(self, path: Path) -> StoredFile:
        """What there is of a model file."""
        return StoredFile(
            path=path,
            size_bytes=path.stat().st_size if path.is_file() else 0,
            part_bytes=sum(part.stat().st_size for part in parts_of(path)),
            origin=read_origin(path),
        )

    def check_room(self, path: Path, *, more_bytes: int) -> None:
        """Refuse what the quota or the disk has no room for.

        Raises
        ------
        LibraryError
            Before anything is written.
        """
        used = self.used_bytes()
        if self.disk_bytes_max and path.parent == self.folder:
            left = self.disk_bytes_max - used
            if more_bytes > left:
                raise LibraryError(
                    f"{path.name} needs {size_text(more_bytes)} more, and of the quota of "
                    f"{size_text(self.disk_bytes_max)} for {self.folder} {size_text(used)} are "
                    "used: remove a model (`tidegate-agent models remove`), or raise "
                    "library.disk_bytes_max"
                )
        free = shutil.disk_usage(_existing(path.parent)).free - FREE_BYTES_MIN
        if more_bytes > free:
            raise LibraryError(
                f"{path.name} needs {size_text(more_bytes)} more, and the disk of {path.parent} "
                f"has {size_text(max(0, free))} to spare: free some, or choose another "
                "library.folder"
            )

    def removable(self, path: Path) -> list[Path]:
        """A model file with its record and what was begun of it, as far as they are there.

        Raises
        ------
        LibraryError
            If there is nothing of that name, or nothing that a pull has put there.
        """
        found = [each for each in (path, origin_path(path), *parts_of(path)) if each.is_file()]
        if not found:
            raise LibraryError(f"there is no {path}; `tidegate-agent models list` shows all")
        if found == [path] and path.parent.resolve() != self.folder.resolve():
            raise LibraryError(
                f"{path} is a file of your own, which no pull can bring back: if it is not needed, "
                "delete it yourself"
            )
        return found

    def remove(self, path: Path) -> int:
        """Delete what is `removable`; the bytes freed."""
        found = self.removable(path)
        freed = sum(each.stat().st_size for each in found)
        for each in found:
            each.unlink()
        return freed

    def lock(self, folder: Path) -> FileLock:
        """The right to change a folder's files; making the folder if need be.

        Raises
        ------
        LibraryError
            If another process has it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return FileLock(folder / ".pull.lock", protects=folder)
        except (OSError, StoreError) as error:
            raise LibraryError(f"the folder of the models cannot be used: {error}") from error

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in sorted(self.folder.iterdir()) if path.is_file()]


def part_path(path: Path, *, identity: str) -> Path:
    """Where the begun download of a certain content is kept."""
    mark = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return path.with_name(f".{path.name}.{mark}{PART_SUFFIX}")


def parts_of(path: Path) -> list[Path]:
    """Every begun download of a model file."""
    return sorted(path.parent.glob(f".{_escaped(path.name)}.*{PART_SUFFIX}"))


def sha256_of(path: Path, *, told: Callable[[int], None]) -> str:
    """The checksum of a whole file; `told` is given the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            told(len(piece))
    return digest.hexdigest()


def size_text(size_bytes: float) -> str:
    """A size for the eye."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def _model_name(path: Path) -> str:
    """The model file that a file of the folder belongs to; empty if to none."""
    if path.name.startswith("."):
        name = path.name.removeprefix(".").removesuffix(PART_SUFFIX)
        return name.rpartition(".")[0] if path.name.endswith(PART_SUFFIX) else ""
    return path.name if path.suffix == ".gguf" else ""


def _escaped(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _existing(folder: Path) -> Path:
    """The folder, or the closest one above it that there is."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
