"""Labelled texts: what is read, what is refused, and how rows are dealt out."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from coordinator.lab.labelled_texts import LabelledTexts, fold_of_each, read_labelled
from shared.errors import ConfigError


def write(path: Path, *lines: str) -> Path:
    """A CSV file of these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(label: str, *, count: int = 6) -> list[str]:
    """Lines of one class."""
    return [f'"text {number} of {label}",{label},g{number}' for number in range(count)]


HEADER = "text,label,group"


def read(path: Path, *, group_column: str = "") -> LabelledTexts:
    """Read with the usual columns."""
    return read_labelled(path, text_column="text", label_column="label", group_column=group_column)


def test_texts_labels_and_groups_are_read(tmp_path: Path) -> None:
    """Gzipped or not; without a group column every row stands alone."""
    path = write(tmp_path / "l.csv", HEADER, *rows("code"), *rows("math"))
    found = read(path)
    assert (12, ("code", "math")) == (len(found.texts), found.classes)
    assert 12 == len(set(found.groups))
    packed = tmp_path / "l.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert 6 == len(set(read(packed, group_column="group").groups))


def test_a_row_that_comes_again_counts_once(tmp_path: Path) -> None:
    """Else its like could be learned and judged by; the same text may have two classes."""
    again = ['"text 0 of code",code,g9', '"text 0 of code",math,g9']
    found = read(write(tmp_path / "l.csv", HEADER, *rows("code"), *rows("math"), *again))
    assert (13, 1) == (len(found.texts), found.repeated)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([HEADER, *rows("code"), ",math,g"], ":8: text is empty"),
        ([HEADER, *rows("code"), "a,,g"], ":8: label is '', which cannot name a task class"),
        ([HEADER, *rows("code"), "a,Two words,g"], ":8: label is 'Two words'"),
        ([HEADER, *rows("code")], "fewer than two classes in 'label': code"),
        ([HEADER], "fewer than two classes in 'label': none"),
        ([HEADER, *rows("code"), *rows("math", count=5)], "has 5 rows for the class 'math'"),
        (["prompt,label", "a,b"], "has no column 'text'; its columns are: prompt, label"),
        ([HEADER, *(row for at in range(65) for row in rows(f"c{at}"))], "has 65 classes"),
    ],
)
def test_what_cannot_be_learned_from_is_named(
    tmp_path: Path, lines: list[str], problem: str
) -> None:
    """The file, the line, the value, and what would be right."""
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path / "l.csv", *lines))
    assert problem in str(caught.value)


def test_a_class_with_few_groups_is_named(tmp_path: Path) -> None:
    """Rows of one group are as good as one."""
    lines = [HEADER, *rows("code"), *(f"text {number},math,same" for number in range(40))]
    with pytest.raises(ConfigError, match="has 1 different values of 'group' for the class 'math'"):
        read(write(tmp_path / "l.csv", *lines), group_column="group")


def test_groups_stay_whole_and_classes_are_spread(tmp_path: Path) -> None:
    """Each fold gets its share of each class."""
    labels = ["code"] * 60 + ["math"] * 30
    groups = [f"{label}{at // 2}" for at, label in enumerate(labels)]
    fold = fold_of_each(labels, groups, folds=3, rng=np.random.default_rng(1))
    for group in set(groups):
        assert 1 == len({fold[at] for at, other in enumerate(groups) if other == group})
    for label, share in (("code", 20), ("math", 10)):
        of_label = fold[[at for at, other in enumerate(labels) if other == label]]
        assert [share] * 3 == np.bincount(of_label, minlength=3).tolist()
