"""How good a task model is on rows that it has not learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coordinator.lab.task_training import Floats, log_loss

THRESHOLDS: Final = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
BINS: Final = 10


@dataclass(frozen=True)
class ClassJudgement:
    """One class: rows, and the shares of them found, and of what was called so that is right.

    A share of nothing is None.
    """

    rows: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class AtThreshold:
    """Rows that are at least so sure: their share, and how many of them are right."""

    threshold: float
    coverage: float
    accuracy: float | None


@dataclass(frozen=True)
class Judgement:
    """The figures of one set of rows.

    Attributes
    ----------
    balanced_accuracy : float
        The mean of the classes' recalls: a large class does not hide a small one.
    calibration_error : float
        Mean distance between confidence and accuracy, over ten bins of confidence.
    confusion : int64 ndarray, shape (classes, classes)
        Rows by their class (first axis) and by what they were taken for.
    """

    rows: int
    accuracy: float
    balanced_accuracy: float
    log_loss: float
    calibration_error: float
    classes: Mapping[str, ClassJudgement]
    thresholds: tuple[AtThreshold, ...]
    confusion: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a report."""
        names = list(self.classes)
        return {
            "rows": self.rows,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
            "classes": {
                name: {"rows": each.rows, "precision": each.precision, "recall": each.recall}
                for name, each in self.classes.items()
            },
            "thresholds": [
                {"threshold": at.threshold, "coverage": at.coverage, "accuracy": at.accuracy}
                for at in self.thresholds
            ],
            "confusion": {
                name: dict(zip(names, row.tolist(), strict=True))
                for name, row in zip(names, self.confusion, strict=True)
            },
        }


def judge(probabilities: Floats, labels: Sequence[str], *, classes: Sequence[str]) -> Judgement:
    """Compare probabilities, shape (rows, classes), with the rows' labels."""
    target = np.array([classes.index(label) for label in labels], np.int64)
    taken = probabilities.argmax(axis=1)
    right, sure = taken == target, probabilities.max(axis=1)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (target, taken), 1)
    of_class, called = confusion.sum(axis=1), confusion.sum(axis=0)
    hits = confusion.diagonal()
    each = {
        name: ClassJudgement(
            int(of_class[at]), _share(hits[at], called[at]), _share(hits[at], of_class[at])
        )
        for at, name in enumerate(classes)
    }
    recalls = [one.recall for one in each.values() if one.recall is not None]
    return Judgement(
        rows=len(target),
        accuracy=float(right.mean()),
        balanced_accuracy=float(np.mean(recalls)),
        log_loss=log_loss(probabilities, target),
        calibration_error=_calibration_error(right, sure),
        classes=each,
        thresholds=tuple(_at(threshold, right, sure) for threshold in THRESHOLDS),
        confusion=confusion,
    )


def _at(threshold: float, right: NDArray[np.bool_], sure: Floats) -> AtThreshold:
    covered = sure >= threshold
    return AtThreshold(
        threshold, float(covered.mean()), _share(int(right[covered].sum()), int(covered.sum()))
    )


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _calibration_error(right: NDArray[np.bool_], sure: Floats) -> float:
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=right - sure, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))
