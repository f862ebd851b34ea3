"""Hashed features: what counts as the same text, what is read, and what a change would break."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shared.errors import ConfigError
from shared.features import FEATURES_VERSION, FeatureSettings, bag, bag_of, tokenise

SETTINGS = FeatureSettings()
# fmt: off
GOLDEN = [
    1102, -2968, 4891, -7575, -8380, 9310, -10110, -10368, 14824, -16653, -23787, 25061, 28536,
    -31107, -2584, 4680, -5016, 6812, 7463, 14390, 23041, -24257, -25500, -26117, -26231, 26494,
    -28235, 30939, 1536, 7954, 8045, -8970, -10860, -12363, 13903, 14299, -18225, -19741, 20640,
    21830, -24716, -28053,
]
# fmt: on
"""Buckets, with the signs of their weights."""


def same(one: str, other: str) -> bool:
    """Whether two texts have the same features."""
    first, second = bag_of(one, SETTINGS), bag_of(other, SETTINGS)
    return bool(
        np.array_equal(first.buckets, second.buckets)
        and np.array_equal(first.weights, second.weights)
    )


def test_the_features_of_a_text_never_change_within_a_version() -> None:
    """A model that was trained last year still reads what it has learned.

    If this fails, raise `FEATURES_VERSION`, train the shipped model again, and only then renew it.
    """
    found = bag_of("Sort 12 words:\nfig, Äpfel", SETTINGS)
    assert 1 == FEATURES_VERSION
    assert GOLDEN == (found.buckets * np.sign(found.weights).astype(int)).tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Write CODE", "write code"),
        ("add 12 and 7", "add 34 and 9"),
        ("“it’s”", '"it\'s"'),
        ("a  b\tc", "a b c"),
    ],
)
def test_spellings_that_mean_the_same_have_the_same_features(one: str, other: str) -> None:
    """Letter case, digits, typographic marks and the width of gaps do not matter."""
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("dog bites man", "man bites dog"), ("(a)", "a"), ("a\nb", "a b"), ("", "a")]
)
def test_order_marks_and_lines_matter(one: str, other: str) -> None:
    """They tell an option from an article and a question from its answer."""
    assert not same(one, other)


def test_only_head_and_tail_of_a_long_text_are_read() -> None:
    """There the instructions stand, and time stays bounded."""
    head, tail = "h " * 512, " t" * 256
    assert same(f"{head}{'x ' * 9_000}{tail}", f"{head}{'y ' * 20_000}{tail}")
    assert not same(f"{head}{tail} now", f"{head}{tail}")


def test_first_and_last_tokens_count_once_more() -> None:
    """The same words in the middle of a text are other features than at its ends."""
    filler = "so it goes on " * 20
    texts = (f"sum up {filler}", f"{filler} sum up", f"{filler} sum up {filler}")
    first, last, middle = (set(bag_of(text, SETTINGS).buckets.tolist()) for text in texts)
    assert first - last - middle
    assert last - first - middle


def test_scripts_without_spaces_give_a_word_for_each_character() -> None:
    """Else a whole Chinese or Japanese sentence would be one word that never comes back."""
    assert [True, True, False] == tokenise("東京!", SETTINGS).words.tolist()


@pytest.mark.parametrize("text", ["", " \n ", "\ud83d", "é" * 5_000, "\x00\x01"])
def test_every_text_has_features(text: str) -> None:
    """Also an empty one, half of an emoji, and what is not printable."""
    found = bag_of(text, SETTINGS)
    assert found.buckets.size >= 1
    whole_head_and_tail = 3.0
    assert whole_head_and_tail == pytest.approx(float(np.square(found.weights).sum()), abs=1e-5)


def test_longer_runs_of_tokens_are_a_setting() -> None:
    """Runs of up to four give more features than pairs."""
    tokens = tokenise("write a function that sorts", SETTINGS)
    counts = [bag(tokens, FeatureSettings(tokens_max=size)).buckets.size for size in (2, 3, 4)]
    assert counts == sorted(set(counts))


def test_settings_travel_as_text() -> None:
    """They come back as they went."""
    settings = FeatureSettings(4_096, tokens_max=3, edge_tokens=8, head_chars=100, tail_chars=50)
    assert settings == FeatureSettings.from_json(settings.to_json(), source="m")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "features of version 2, this software computes version 1"),
        ({"buckets": -1}, "expected buckets, tokens_max, edge_tokens, head_chars, tail_chars"),
        ({"buckets": "many"}, "expected buckets"),
        ({"tokens_max": 1}, "expected buckets"),
        ({"edge_tokens": 0}, "expected buckets"),
        ({"colour": 3}, "expected buckets"),
    ],
)
def test_settings_of_other_software_are_refused(change: dict[str, object], problem: str) -> None:
    """The message names the file, what it says and the remedy."""
    text = json.dumps({**json.loads(SETTINGS.to_json()), **change})
    with pytest.raises(ConfigError, match="tidegate-lab train-classifier") as caught:
        FeatureSettings.from_json(text, source="my.onnx")
    assert problem in str(caught.value)
    assert str(caught.value).startswith("my.onnx: ")


@pytest.mark.parametrize("text", ["", "[1]", "{", "{}", "null"])
def test_metadata_that_says_nothing_is_refused(text: str) -> None:
    """A model from elsewhere has no settings at all."""
    with pytest.raises(ConfigError, match="says nothing readable of its features"):
        FeatureSettings.from_json(text, source="my.onnx")
