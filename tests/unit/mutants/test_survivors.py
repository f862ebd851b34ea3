"""The list of explained survivors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.making import Mutant
from tests.mutants.survivors import Listed, ListError, entry, read

ONE = Mutant("a.py", "f", "- x = 'a'\n+ pass", "")
OTHER = Mutant("a.py", "g", "- y\n+ pass", "")


def written(folder: Path, text: str) -> Listed:
    """A list in a file."""
    path = folder / "survivors.toml"
    path.write_text(text)
    return read(path)


def test_what_is_printed_can_be_pasted_and_explained(tmp_path: Path) -> None:
    """Only the reason is missing."""
    listed = written(tmp_path, entry(ONE).replace('reason = ""', 'reason = "words"'))
    assert listed.explains(ONE)
    assert not listed.explains(OTHER)


def test_an_entry_without_a_reason_is_refused(tmp_path: Path) -> None:
    """A list of survivors that nobody has looked at explains nothing."""
    with pytest.raises(ListError, match="needs module, function, diff and reason"):
        written(tmp_path, entry(ONE))


def test_an_entry_stands_once(tmp_path: Path) -> None:
    """A second reason for the same change would hide the first."""
    text = entry(ONE).replace('reason = ""', 'reason = "words"')
    with pytest.raises(ListError, match=r"a\.py f is listed twice"):
        written(tmp_path, text + text)


def test_entries_that_survive_no_longer_are_outdated() -> None:
    """Of what was tried; nothing is known of the rest."""
    listed = Listed({("a.py", "f", ONE.diff): "x", ("a.py", "g", OTHER.diff): "y"})
    assert [("a.py", "g", OTHER.diff)] == listed.outdated([ONE], tried=lambda _: True)
    assert [] == listed.outdated([ONE], tried=lambda key: key[1] == "f")
