"""Learning task classes: what the weights must do, and that a confidence means something."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.lab.labelled_texts import LabelledTexts
from coordinator.lab.task_training import (
    calibrated,
    feature_rows,
    fit,
    log_loss,
    softmax,
    train,
)
from shared.features import FeatureSettings
from tests.fakes.task_models import labelled, small_model

SETTINGS = FeatureSettings(buckets=2_048)


def test_what_was_learned_is_known() -> None:
    """Also in sentences that were not among the rows."""
    trained = small_model()
    texts = ["could you write a unit test", "my fraction is wrong", "a suitcase for the beach"]
    found = trained.model.probabilities(feature_rows(texts, settings=trained.settings))
    assert ["code", "math", "trips"] == [trained.classes[at] for at in found.argmax(axis=1)]
    assert np.allclose(1.0, found.sum(axis=1))


def test_the_same_seed_gives_the_same_model() -> None:
    """A training can be repeated."""
    rows = labelled()
    models = [
        train(rows, classes=rows.classes, settings=SETTINGS, rng=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(models[0].model.weights, models[1].model.weights)
    assert not np.array_equal(models[0].model.weights, models[2].model.weights)


def test_a_large_class_does_not_swallow_a_small_one() -> None:
    """Every class counts alike, however many rows it has."""
    texts = ["apple pear"] * 95 + ["apple plum"] * 5
    target = np.array([0] * 95 + [1] * 5)
    model = fit([feature_rows(texts, settings=SETTINGS)], target, classes=2)
    likely = softmax(model.scores(feature_rows(["apple"], settings=SETTINGS)))[0]
    assert 0.3 < likely[1] < 0.7


def test_buckets_that_no_row_has_weigh_nothing() -> None:
    """A word that was never seen changes nothing."""
    features = feature_rows(["write code", "add numbers"], settings=SETTINGS)
    model = fit([features], np.array([0, 1]), classes=2)
    unused = np.setdiff1d(np.arange(SETTINGS.buckets), np.unique(features.indices))
    assert not model.weights[unused].any()
    assert model.weights[np.unique(features.indices)].all()


@pytest.mark.parametrize("true_temperature", [0.25, 1.0, 4.0])
def test_the_temperature_makes_confidence_honest(true_temperature: float) -> None:
    """It is found again from scores that are too steep or too flat."""
    rng = np.random.default_rng(3)
    honest = rng.normal(size=(4_000, 4)) * 2.0
    likely = softmax(honest)
    target = np.array([rng.choice(4, p=row) for row in likely])
    steep = honest * true_temperature
    found = calibrated(steep, target)
    assert true_temperature == pytest.approx(found, rel=0.1)
    assert log_loss(softmax(steep / found), target) <= log_loss(softmax(steep), target) + 1e-9


def test_words_are_dropped_while_learning_and_never_while_asking() -> None:
    """Some are left, and without dropout a text always has the same features."""
    texts = labelled().texts
    whole = feature_rows(texts, settings=SETTINGS)
    thinned = feature_rows(texts, settings=SETTINGS, dropout=np.random.default_rng(1))
    assert 0 < thinned.nnz < whole.nnz
    again = feature_rows(texts, settings=SETTINGS)
    assert np.array_equal(whole.toarray(), again.toarray())


def test_confidence_comes_from_groups_that_were_not_learned_from() -> None:
    """Templates that are known by heart make a model too sure; held apart, they do not."""
    rows = labelled()
    by_subject = LabelledTexts(
        rows.texts,
        rows.labels,
        tuple(str(at // 5) for at in range(len(rows.texts))),  # five frames for each subject
    )
    apart = train(by_subject, classes=rows.classes, settings=SETTINGS, rng=np.random.default_rng(1))
    assert apart.model.temperature > small_model().model.temperature
