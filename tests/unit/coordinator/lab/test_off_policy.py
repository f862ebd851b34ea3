"""The estimators: by hand on few requests, and their intervals on many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coordinator.lab.off_policy import (
    Logged,
    clustered_mean,
    doubly_robust,
    dr_scores,
    inverse_propensity,
    self_normalised,
    shrunk_means,
)

FOUR = Logged(
    weight=np.array([2.0, 0.0, 1.0, 1.0]),
    known=np.array([True, True, True, False]),
    inclusion=np.array([1.0, 1.0, 0.5, 0.5]),
    value=np.array([1.0, 0.5, 0.25, 0.9]),
    model_drawn=np.array([0.5, 0.5, 0.5, 0.5]),
    model_target=np.array([0.6, 0.6, 0.4, 0.4]),
    cluster=np.arange(4),
    expected_square=np.array([2.0, 2.0, 2.0, 2.0]),
)


def test_ips_weights_by_propensity_and_grading() -> None:
    """(2 * 1 + 0 + 2 * 0.25 + nothing known) / 4."""
    assert inverse_propensity(FOUR).value == pytest.approx(2.5 / 4)


def test_snips_divides_by_the_weights_that_were_seen() -> None:
    """2.5 over 2 + 0 + 2."""
    assert self_normalised(FOUR).value == pytest.approx(2.5 / 4.0)
    heavier = replace(FOUR, weight=np.array([4.0, 0.0, 1.0, 1.0]))
    assert self_normalised(heavier).value == pytest.approx((4.0 + 0.5) / 6.0)


def test_dr_corrects_the_model_by_what_was_seen() -> None:
    """The model's mean, and the weighted errors of the known ones."""
    errors = np.array([2 * 0.5, 0.0, 2 * -0.25, 0.0])
    expected = np.array([0.6, 0.6, 0.4, 0.4]) + errors
    assert dr_scores(FOUR) == pytest.approx(expected)
    assert doubly_robust(FOUR).value == pytest.approx(expected.mean())


def test_what_stands_in_place_of_an_unknown_value_does_not_matter() -> None:
    """Not even if it is no number."""
    odd = replace(FOUR, value=np.array([1.0, 0.5, 0.25, np.nan]))
    for estimator in (inverse_propensity, self_normalised, doubly_robust):
        assert estimator(FOUR) == estimator(odd)


def test_a_wrong_model_does_not_bias_dr() -> None:
    """With a model that is off by 0.5 everywhere the mean over many draws stays."""
    rng = np.random.default_rng(3)
    n = 200_000
    drawn = rng.random(n) < 0.2
    logged = Logged(
        weight=np.where(drawn, 0.8 / 0.2, 0.2 / 0.8),
        known=np.ones(n, dtype=np.bool_),
        inclusion=np.ones(n),
        value=np.where(drawn, rng.random(n) < 0.9, rng.random(n) < 0.3).astype(np.float64),
        model_drawn=np.where(drawn, 0.4, 0.8),
        model_target=np.full(n, 0.8 * 0.4 + 0.2 * 0.8),
        cluster=np.arange(n),
        expected_square=np.full(n, 0.8**2 / 0.2 + 0.2**2 / 0.8),
    )
    found = doubly_robust(logged)
    assert found.value == pytest.approx(0.8 * 0.9 + 0.2 * 0.3, abs=0.01)
    assert found.low < 0.78 < found.high


def test_the_effective_sample_is_the_number_of_equal_weights() -> None:
    """Equal weights count in full; one heavy weight counts as one."""
    equal = replace(FOUR, weight=np.ones(4), known=np.ones(4, dtype=np.bool_), inclusion=np.ones(4))
    assert equal.effective_sample_size == pytest.approx(4.0)
    heavy = replace(equal, weight=np.array([1e9, 1.0, 1.0, 1.0]))
    assert heavy.effective_sample_size == pytest.approx(1.0)


def test_requests_of_a_slot_count_as_one_where_they_move_together() -> None:
    """Ten copies of each score: clustered, the error is that of the slots, not of the copies."""
    scores = np.random.default_rng(1).normal(size=50)
    slots = clustered_mean(scores, cluster=np.arange(50))
    copies = clustered_mean(np.repeat(scores, 10), cluster=np.repeat(np.arange(50), 10))
    ignored = clustered_mean(np.repeat(scores, 10), cluster=np.arange(500))
    assert copies.error == pytest.approx(slots.error)
    assert ignored.error == pytest.approx(slots.error / np.sqrt(10), rel=0.02)


def test_one_cluster_says_nothing_about_the_error() -> None:
    """The interval is without end instead of without width."""
    found = clustered_mean(np.array([0.0, 1.0]), cluster=np.zeros(2, dtype=np.int64))
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_a_few_heavy_scores_widen_the_interval_beyond_the_normal_one() -> None:
    """Their spread is itself uncertain: t with few degrees of freedom."""
    scores = np.zeros(100)
    scores[:3] = [30.0, 50.0, 40.0]
    found = clustered_mean(scores, cluster=np.arange(100))
    assert (found.high - found.value) / found.error > 2.2
    even = clustered_mean(np.random.default_rng(0).normal(size=100), cluster=np.arange(100))
    assert (even.high - even.value) / even.error == pytest.approx(1.98, abs=0.05)


def test_equal_values_do_not_give_an_interval_of_no_width() -> None:
    """Graded draws that all happened to be good leave the pooled spread."""
    n = 400
    known = np.zeros(n, dtype=np.bool_)
    known[:200] = True
    weight = np.where(np.arange(n) < 20, 10.0, 0.0)
    value = np.where(np.arange(n) < 20, 1.0, np.arange(n) % 2)
    model = np.full(n, 0.99)
    found = doubly_robust(
        Logged(
            weight=weight,
            known=known,
            inclusion=np.full(n, 0.5),
            value=value,
            model_drawn=model,
            model_target=model,
            cluster=np.arange(n),
            expected_square=np.full(n, 10.0),
        )
    )
    assert found.high - found.low > 0.05


def test_heavy_weights_that_did_not_come_widen_the_interval() -> None:
    """A target that is drawn once in a thousand, and was not: the light draws are no proof."""
    n = 500
    light = Logged(
        weight=np.full(n, 0.5),
        known=np.ones(n, dtype=np.bool_),
        inclusion=np.ones(n),
        value=np.random.default_rng(2).random(n),
        model_drawn=np.full(n, 0.5),
        model_target=np.full(n, 0.5),
        cluster=np.arange(n),
        expected_square=np.full(n, 0.5),
    )
    heavy = replace(light, expected_square=np.full(n, 0.5**2 / 0.001))
    for estimator in (inverse_propensity, self_normalised, doubly_robust):
        narrow, wide = estimator(light), estimator(heavy)
        assert narrow.value == wide.value
        assert wide.high - wide.low > 5 * (narrow.high - narrow.low)


def test_snips_needs_a_known_value_with_weight() -> None:
    """Otherwise there is nothing to divide by."""
    nothing = replace(FOUR, weight=np.zeros(4))
    with pytest.raises(ValueError, match="no weight"):
        self_normalised(nothing)


def test_no_requests_or_wrong_shapes_are_refused() -> None:
    """With the name of the array at fault."""
    with pytest.raises(ValueError, match="no request"):
        Logged(**{name: values[:0] for name, values in vars(FOUR).items()})
    with pytest.raises(ValueError, match="value has shape"):
        replace(FOUR, value=np.zeros(3))
    with pytest.raises(ValueError, match="inclusion"):
        replace(FOUR, inclusion=np.zeros(4))


def test_the_model_of_a_fold_has_not_seen_it() -> None:
    """Changing a fold's own values changes every other fold's model, never its own."""
    rng = np.random.default_rng(5)
    context, arm, fold = (rng.integers(0, size, 300) for size in (3, 2, 4))
    known, value = rng.random(300) < 0.7, rng.random(300)
    shape = (4, 3, 2)

    def fitted(values: np.ndarray) -> np.ndarray:
        return shrunk_means(values, known=known, context=context, arm=arm, fold=fold, shape=shape)

    before, after = fitted(value), fitted(np.where(fold == 2, 0.0, value))
    assert before[2] == pytest.approx(after[2])
    assert all(np.abs(before[f] - after[f]).max() > 0.01 for f in (0, 1, 3))


def test_the_model_shrinks_to_the_arm_where_little_was_seen() -> None:
    """An unseen cell has its arm's mean; one seen often has its own."""
    context = np.array([0] * 1_000 + [1])
    value = np.array([0.9] * 1_000 + [0.0])
    found = shrunk_means(
        value,
        known=np.ones(1_001, dtype=np.bool_),
        context=context,
        arm=np.zeros(1_001, dtype=np.int64),
        fold=np.array([0] * 1_000 + [1]),
        shape=(3, 2, 1),
    )
    assert found[1, :, 0] == pytest.approx([0.9, 0.9], abs=1e-6)
    assert 0.7 < found[2, 1, 0] < 0.85
