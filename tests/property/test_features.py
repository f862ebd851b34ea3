"""Hashed features hold for every text and setting."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.features import FeatureSettings, bag_of, tokenise

SETTINGS = st.builds(
    FeatureSettings,
    buckets=st.integers(1, 2**17),
    tokens_max=st.integers(2, 4),
    head_chars=st.integers(1, 300),
    tail_chars=st.integers(1, 300),
)
TEXT = st.text(max_size=900) | st.text(alphabet="aZ9' .,\n(東é", max_size=900)
WORD = st.text(alphabet="abcxyzé0", min_size=1, max_size=12)


@given(TEXT, SETTINGS)
def test_a_bag_is_of_length_one_and_within_its_buckets(
    text: str, settings: FeatureSettings
) -> None:
    """Rising, distinct buckets; weights that no model has to be afraid of."""
    found = bag_of(text, settings)
    assert found.buckets.size == found.weights.size > 0
    assert np.all(np.diff(found.buckets) > 0)
    assert 0 <= found.buckets[0] <= found.buckets[-1] < settings.buckets
    length = float(np.square(found.weights).sum())
    assert abs(length - 1.0) < 1e-5 or length == 0.0  # with few buckets, signs may cancel out


@given(st.lists(WORD, min_size=1, max_size=30), WORD)
def test_a_word_has_the_same_hash_wherever_it_stands(before: list[str], word: str) -> None:
    """Hashes come from prefix sums, which must leave no trace of what stood before."""
    settings = FeatureSettings()
    alone = tokenise(word, settings).hashes
    assert alone[0] == tokenise(" ".join([*before, word]), settings).hashes[-1]
