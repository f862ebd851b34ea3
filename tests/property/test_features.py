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
    edge_tokens=st.integers(1, 40),
    head_chars=st.integers(1, 300),
    tail_chars=st.integers(1, 300),
)
TEXT = st.text(max_size=900) | st.text(alphabet="aZ9' .,\n(東é", max_size=900)
PARTS = 3
WORD = st.text(alphabet="abcxyzé0", min_size=1, max_size=12)


@given(TEXT, SETTINGS)
def test_a_bag_s_parts_are_of_length_one_and_within_its_buckets(
    text: str, settings: FeatureSettings
) -> None:
    """Each rises from bucket to bucket; weights that no model has to be afraid of."""
    found = bag_of(text, settings)
    assert found.buckets.size == found.weights.size > 0
    assert 0 <= found.buckets.min() <= found.buckets.max() < settings.buckets
    falls = np.flatnonzero(np.diff(found.buckets) <= 0) + 1
    assert falls.size <= PARTS - 1
    squares = np.square(found.weights.astype(np.float64))
    # Where a part begins above the end of the one before it, the two look like one.
    lengths = [float(part.sum()) for part in np.split(squares, falls)]
    assert sum(lengths) < PARTS + 1e-4
    for length in lengths:
        # With few buckets, signs may cancel out.
        assert min(abs(length - whole) for whole in range(PARTS + 1)) < 1e-4


@given(st.lists(WORD, min_size=1, max_size=30), WORD)
def test_a_word_has_the_same_hash_wherever_it_stands(before: list[str], word: str) -> None:
    """Hashes come from prefix sums, which must leave no trace of what stood before."""
    settings = FeatureSettings()
    alone = tokenise(word, settings).hashes
    assert alone[0] == tokenise(" ".join([*before, word]), settings).hashes[-1]
