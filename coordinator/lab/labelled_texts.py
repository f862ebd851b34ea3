"""Texts with the task class that each belongs to, out of a CSV file, and how they are split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coordinator.lab.csv_rows import read_columns
from shared.errors import ConfigError
from shared.limits import NAME_CHARS_MAX, TASK_CLASSES_MAX

ROWS_PER_CLASS_MIN: Final = 6
_LABEL: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, the class of each, and the group that it must not be parted from.

    Attributes
    ----------
    texts, labels, groups : tuple of str, all of one length
    repeated : int
        Rows left out because an earlier one has the same text and label.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    repeated: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))


def read_labelled(
    path: Path, *, text_column: str, label_column: str, group_column: str = ""
) -> LabelledTexts:
    """Read labelled texts; without a group column each is a group of its own.

    Raises
    ------
    ConfigError
        Naming the file, the line and what is wrong: a column that is not there, an empty text or
        label, a label that cannot name a task class, too few rows or classes.
    """
    columns = [text_column, label_column, *([group_column] if group_column else [])]
    rows: dict[tuple[str, str], str] = {}
    read = 0
    for place, (text, label, *group) in read_columns(path, columns=columns):
        read += 1
        if not text.strip():
            raise ConfigError(place, f"{text_column} is empty: fill it in or leave the row out")
        if not _LABEL.fullmatch(label):
            raise ConfigError(
                place,
                f"{label_column} is {label!r}, which cannot name a task class: up to "
                f"{NAME_CHARS_MAX} of a-z, 0-9, '.', '_' and '-', as in the fleet file",
            )
        rows.setdefault((text, label), group[0] if group else str(read))
    found = LabelledTexts(
        tuple(text for text, _ in rows),
        tuple(label for _, label in rows),
        tuple(rows.values()),
        repeated=read - len(rows),
    )
    _check(found, path=path, label_column=label_column, group_column=group_column)
    return found


def _check(found: LabelledTexts, *, path: Path, label_column: str, group_column: str) -> None:
    """Whether there is enough to learn from."""
    counts = Counter(found.labels)
    if len(counts) < 2:
        known = ", ".join(counts) or "none"
        raise ConfigError(str(path), f"has fewer than two classes in {label_column!r}: {known}")
    if len(counts) > TASK_CLASSES_MAX:
        raise ConfigError(
            str(path), f"has {len(counts)} classes; a fleet has {TASK_CLASSES_MAX} at most"
        )
    what = "rows"
    if group_column:
        counts = Counter(label for label, _ in set(zip(found.labels, found.groups, strict=True)))
        what = f"different values of {group_column!r}"
    label, fewest = min(counts.items(), key=lambda item: item[1])
    if fewest < ROWS_PER_CLASS_MIN:
        raise ConfigError(
            str(path),
            f"has {fewest} {what} for the class {label!r}, and each needs {ROWS_PER_CLASS_MIN}: "
            "add some, or leave the class out",
        )


def fold_of_each(
    labels: Sequence[str], groups: Sequence[str], *, folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal rows out into folds, shape (N,): groups stay whole, classes are spread evenly."""
    rows_of: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows_of.setdefault(group, []).append(row)
    groups_of: dict[str, list[str]] = {}
    for group, rows in rows_of.items():
        groups_of.setdefault(labels[rows[0]], []).append(group)
    found = np.zeros(len(labels), np.int64)
    for label in sorted(groups_of):
        start = rng.integers(folds)
        for place, at in enumerate(rng.permutation(len(groups_of[label]))):
            found[rows_of[groups_of[label][at]]] = (start + place) % folds
    return found
