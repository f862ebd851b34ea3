"""How a task model is judged: figures that can be checked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coordinator.lab.task_judgement import judge

CLASSES = ("code", "math", "qa")
LABELS = ("code", "code", "math", "code")
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.35, 0.65, 0.0], [0.2, 0.8, 0.0], [0.55, 0.0, 0.45]])


def test_the_figures_of_a_small_example() -> None:
    """Three of four are right; a class without rows counts for nothing."""
    found = judge(PROBABILITIES, LABELS, classes=CLASSES)
    assert (4, 0.75) == (found.rows, found.accuracy)
    assert pytest.approx((2 / 3 + 1) / 2) == found.balanced_accuracy
    assert [[2, 1, 0], [0, 1, 0], [0, 0, 0]] == found.confusion.tolist()
    code, math, qa = (found.classes[name] for name in CLASSES)
    assert (3, 1.0) == (code.rows, code.precision)
    assert pytest.approx(2 / 3) == code.recall
    assert (1, 0.5, 1.0) == (math.rows, math.precision, math.recall)
    assert (0, None, None) == (qa.rows, qa.precision, qa.recall)
    expected = -(np.log(0.9) + np.log(0.35) + np.log(0.8) + np.log(0.55)) / 4
    assert pytest.approx(expected) == found.log_loss


def test_a_threshold_trades_coverage_for_accuracy() -> None:
    """Where nothing is kept there is no accuracy, rather than a perfect one."""
    kept = {at.threshold: at for at in judge(PROBABILITIES, LABELS, classes=CLASSES).thresholds}
    assert (1.0, 0.75) == (kept[0.0].coverage, kept[0.0].accuracy)
    assert (0.5, 1.0) == (kept[0.7].coverage, kept[0.7].accuracy)
    assert (0.0, None) == (kept[0.95].coverage, kept[0.95].accuracy)


def test_confidence_that_is_too_high_is_an_error() -> None:
    """Half right at a confidence of 0.9 is off by 0.4."""
    sure = np.array([[0.9, 0.1, 0.0]] * 10)
    found = judge(sure, ("code", "math") * 5, classes=CLASSES)
    assert pytest.approx(0.4) == found.calibration_error
    honest = np.array([[0.9, 0.1, 0.0]] * 10)
    assert pytest.approx(0.0) == (
        judge(honest, ("code",) * 9 + ("math",), classes=CLASSES).calibration_error
    )


def test_the_report_is_plain_json() -> None:
    """Keys are names, and nothing is NaN."""
    report = judge(PROBABILITIES, LABELS, classes=CLASSES).to_json()
    again = json.loads(json.dumps(report, allow_nan=False))
    assert {"code": 2, "math": 1, "qa": 0} == again["confusion"]["code"]
    assert None is again["classes"]["qa"]["recall"]
