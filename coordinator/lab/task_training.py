"""Learning task classes from labelled texts: multinomial logistic regression on hashed features.

Words are dropped at random while the weights are learned, so that no single one decides (Srivastava
et al. 2014, "Dropout"), and the scores are divided by a temperature, so that a confidence of 0.8 is
right in four cases of five (Guo et al. 2017, "On calibration of modern neural networks"); it comes
from cross-validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy
from numpy.typing import NDArray

from coordinator.lab.labelled_texts import LabelledTexts, fold_of_each
from shared.features import Bag, FeatureSettings, bag, tokenise

STRENGTH: Final = 0.1
FOLDS: Final = 3
FITS: Final = FOLDS + 1
WORD_DROPOUT: Final = 0.3
STEPS_MAX: Final = 80
TEMPERATURE_RANGE: Final = (0.05, 20.0)

Floats = NDArray[np.float64]
if TYPE_CHECKING:  # scipy's parts are loaded by whoever uses them, and no command's help does
    Features = scipy.sparse.csr_array[np.float32]


@dataclass(frozen=True)
class LinearModel:
    """Scores of classes: features times weights, plus bias, over the temperature.

    Attributes
    ----------
    weights : float64 ndarray, shape (buckets, classes)
    bias : float64 ndarray, shape (classes,)
    """

    weights: Floats
    bias: Floats
    temperature: float = 1.0

    def scores(self, features: Features) -> Floats:
        """Scores before the temperature, shape (rows, classes)."""
        found: Floats = features @ self.weights + self.bias
        return found

    def probabilities(self, features: Features) -> Floats:
        """Calibrated, shape (rows, classes); rows sum to 1."""
        return softmax(self.scores(features) / self.temperature)


@dataclass(frozen=True)
class Trained:
    """What training gives: the model, and how it was found."""

    model: LinearModel
    classes: tuple[str, ...]
    settings: FeatureSettings


def train(
    rows: LabelledTexts,
    *,
    classes: Sequence[str],
    settings: FeatureSettings,
    rng: np.random.Generator,
    advance: Callable[[int], None] = lambda _: None,
) -> Trained:
    """Learn the classes of the rows.

    Parameters
    ----------
    classes : sequence of str
        In the order of the model's outputs; every label is one of them.
    advance : callable
        Told after each of the `FITS` fits.
    """
    target = np.array([classes.index(label) for label in rows.labels], np.int64)
    whole = feature_rows(rows.texts, settings=settings)
    thinned = feature_rows(rows.texts, settings=settings, dropout=rng)
    fold = fold_of_each(rows.labels, rows.groups, folds=FOLDS, rng=rng)
    scores = np.empty((len(target), len(classes)))
    for held in range(FOLDS):
        learn, rest = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        found = fit((whole[learn], thinned[learn]), target[learn], classes=len(classes))
        scores[rest] = found.scores(whole[rest])
        advance(1)
    found = fit((whole, thinned), target, classes=len(classes))
    advance(1)
    model = LinearModel(found.weights, found.bias, calibrated(scores, target))
    return Trained(model, tuple(classes), settings)


def feature_rows(
    texts: Sequence[str],
    *,
    settings: FeatureSettings,
    dropout: np.random.Generator | None = None,
) -> Features:
    """Features of texts, shape (texts, buckets); with `dropout`, of what is left of them."""
    bags: list[Bag] = []
    for text in texts:
        tokens = tokenise(text, settings)
        if dropout is not None:
            kept = ~tokens.words | (dropout.random(tokens.words.size) >= WORD_DROPOUT)
            tokens = tokens.kept(kept)
        bags.append(bag(tokens, settings))
    ends = np.cumsum([0, *(each.buckets.size for each in bags)])
    values = np.concatenate([each.weights for each in bags])
    indices = np.concatenate([each.buckets for each in bags])
    found = scipy.sparse.csr_array((values, indices, ends), shape=(len(texts), settings.buckets))
    found.sum_duplicates()
    return found


def fit(views: Sequence[Features], target: NDArray[np.int64], *, classes: int) -> LinearModel:
    """Minimise the cross-entropy plus `STRENGTH` / 2 times the squared weights (L-BFGS).

    Every class counts alike, however many rows it has.

    Parameters
    ----------
    views : sequence of csr_array, each of shape (rows, buckets)
        The same rows, whole and thinned.
    target : int64 ndarray, shape (rows,)
    """
    features = scipy.sparse.vstack(views, format="csr")
    target = np.tile(target, len(views))
    used = np.unique(features.indices)
    narrow = features[:, used]
    rows, width = narrow.shape
    counts = np.bincount(target, minlength=classes)
    share = (1.0 / (np.count_nonzero(counts) * counts[target])).astype(np.float32)
    wanted = np.zeros((rows, classes), np.float32)
    wanted[np.arange(rows), target] = 1.0
    turned = narrow.T.tocsr()
    penalty = STRENGTH / rows

    def loss_and_slope(flat: Floats) -> tuple[float, Floats]:
        weights = flat[classes:].reshape(width, classes).astype(np.float32)
        scores = narrow @ weights + flat[:classes].astype(np.float32)
        scores -= scores.max(axis=1, keepdims=True)
        likely = np.exp(scores)
        sums = likely.sum(axis=1, keepdims=True)
        log_likely = scores[np.arange(rows), target] - np.log(sums[:, 0])
        loss = -float(share @ log_likely) + penalty / 2 * float(np.square(weights).sum())
        slope = (likely / sums - wanted) * share[:, None]
        weight_slope = turned @ slope + penalty * weights
        return loss, np.concatenate((slope.sum(axis=0), weight_slope.ravel())).astype(np.float64)

    start = np.zeros(classes * (width + 1))
    found = scipy.optimize.minimize(
        loss_and_slope, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS_MAX}
    )
    weights = np.zeros((features.shape[1], classes))
    weights[used] = found.x[classes:].reshape(width, classes)
    return LinearModel(weights, found.x[:classes])


def calibrated(scores: Floats, target: NDArray[np.int64]) -> float:
    """The temperature that makes the right classes of unseen rows likeliest."""

    def loss(log_temperature: float) -> float:
        return log_loss(softmax(scores / np.exp(log_temperature)), target)

    low, high = np.log(TEMPERATURE_RANGE)
    found = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def softmax(scores: Floats) -> Floats:
    """Probabilities of scores, by row."""
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Floats = likely / likely.sum(axis=1, keepdims=True)
    return found


def log_loss(probabilities: Floats, target: NDArray[np.int64]) -> float:
    """Mean of minus the logarithm of what the right class was given."""
    given = probabilities[np.arange(len(target)), target]
    return float(-np.log(np.maximum(given, 1e-12)).mean())
