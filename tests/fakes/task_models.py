"""Small task models, trained in a moment."""

from __future__ import annotations

import functools

import numpy as np

from coordinator.lab.labelled_texts import LabelledTexts
from coordinator.lab.task_export import to_onnx
from coordinator.lab.task_training import Trained, train
from shared.features import FeatureSettings

SUBJECTS = {
    "code": ("function", "python class", "unit test", "SQL query", "compiler error", "git branch"),
    "math": ("equation", "integral", "fraction", "triangle", "percentage", "probability"),
    "trips": ("hotel", "flight to Lisbon", "train ticket", "beach", "suitcase", "museum tour"),
}
FRAMES = ("write a {}", "help with the {}", "what about my {}?", "{} please", "fix this {}: now")


def labelled() -> LabelledTexts:
    """Texts of three classes, each a group of its own."""
    rows = [
        (frame.format(subject), label)
        for label, subjects in SUBJECTS.items()
        for subject in subjects
        for frame in FRAMES
    ]
    texts, labels = zip(*rows, strict=True)
    return LabelledTexts(texts, labels, tuple(map(str, range(len(rows)))))


@functools.cache
def small_model() -> Trained:
    """A model of `SUBJECTS`' classes with few buckets."""
    rows = labelled()
    settings = FeatureSettings(buckets=2_048)
    return train(rows, classes=rows.classes, settings=settings, rng=np.random.default_rng(1))


@functools.cache
def small_onnx() -> bytes:
    """The same as a file."""
    return to_onnx(small_model())
