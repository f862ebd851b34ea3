"""The record beside a model file: where it came from, and the checksum that it must have."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from edge_agent.adapters.model_library.problem import LibraryError
from edge_agent.adapters.whole_file import write_whole

_SUFFIX: Final = ".origin.json"


@dataclass(frozen=True)
class Origin:
    """Where a file came from.

    Attributes
    ----------
    source, revision : str
        As configured, and the commit that it stood for; the revision is empty beyond the Hub.
    sha256 : str
        Of the whole file, in hexadecimal.
    checked_against : str
        What the checksum was compared with when the file came: `config`, `hub`, or empty if
        nobody told one, so that it only shows later changes.
    """

    source: str
    revision: str
    sha256: str
    size_bytes: int
    pulled_unix_ms: int
    checked_against: str


def origin_path(model: Path) -> Path:
    """Where a model file's record is."""
    return model.with_name(model.name + _SUFFIX)


def read_origin(model: Path) -> Origin | None:
    """A model file's record; None if it has none.

    Raises
    ------
    LibraryError
        If it is damaged.
    """
    path = origin_path(model)
    try:
        return Origin(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise LibraryError(
            f"{path} cannot be used ({error}): remove it; the next `tidegate-agent models pull` "
            "writes it anew"
        ) from error


def write_origin(model: Path, origin: Origin) -> None:
    """Keep a model file's record, whole or not at all."""
    write_whole(origin_path(model), json.dumps(asdict(origin), indent=2) + "\n")
