"""What the task model sees of a text: hashed words, and hashed pairs of neighbouring tokens.

Device and lab compute the same numbers from the same bytes: no vocabulary, no tokeniser, no
language. Every step is over whole arrays, so a prompt of 1,000 characters takes a quarter of a
millisecond; of longer ones the head and the tail are read. The first and the last tokens count
once more, for themselves: there instructions stand, and a long text must not drown them.

A token is a word (a run of letters, digits and apostrophes; letters in lower case, every digit a
0) or one punctuation mark or line break. A character of a script without spaces is a word of its
own. A token's hash is a polynomial in its bytes, taken from prefix sums; a feature's hash names a
bucket and a sign (Weinberger et al. 2009, "Feature hashing for large scale multitask learning").
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError

FEATURES_VERSION: Final = 1
"""To be raised with every change that gives other numbers for the same text and settings."""

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]
Weights = NDArray[np.float32]

_MODULUS: Final = 2**64
_BASE: Final = 0x9E3779B97F4A7C15
_LEFT: Final = 0xD6E8FEB86659FD93
_RIGHT: Final = 0xA0761D6478BD642F
_BEGIN: Final = 0x2545F4914F6CDD1D
_END: Final = 0x5851F42D4C957F2D
_MIXERS: Final = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)  # of MurmurHash3's finaliser
_PART_SALTS: Final = (0, 0x9FB21C651E98DF25, 0xD1B54A32D192ED03)
_MIX_SHIFT: Final = np.uint64(33)
_SIGN_SHIFT: Final = np.uint64(63)

_NEWLINE: Final = 0x0A
_LEAD_MIN: Final = 0xE3  # the first byte of the characters of Chinese, Japanese, Korean, of emoji
_BYTES_PER_CHAR_MAX: Final = 4
_LEAST: Final = {
    "buckets": 1,
    "tokens_max": 2,
    "edge_tokens": 1,
    "head_chars": 1,
    "tail_chars": 1,
}
# Typographic marks that stand for plain ones.
_PLAIN: Final = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."}
)


@dataclass(frozen=True)
class FeatureSettings:
    """How texts become features; travels with a model.

    Attributes
    ----------
    buckets : int
        Size of the feature space.
    tokens_max : int, at least 2
        Features are single words, and runs of 2 to this many neighbouring tokens.
    edge_tokens : int
        Tokens at either end that count for themselves.
    head_chars, tail_chars : int
        What is read of a long text.
    """

    buckets: int = 32_768
    tokens_max: int = 2
    edge_tokens: int = 12
    head_chars: int = 1_024
    tail_chars: int = 512

    @property
    def chars_max(self) -> int:
        """The longest text that is read whole."""
        return self.head_chars + self.tail_chars

    def to_json(self) -> str:
        """The settings with the version, for a model's metadata."""
        return json.dumps({"version": FEATURES_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, *, source: str) -> FeatureSettings:
        """The settings out of a model's metadata.

        Raises
        ------
        ConfigError
            When they cannot be read, or are of another version than this software computes.
        """
        remedy = "train the model again with this release's `tidegate-lab train-classifier`"
        try:
            found = json.loads(text)
            version = found.pop("version")
        except (ValueError, AttributeError, KeyError, TypeError):
            raise ConfigError(source, f"says nothing readable of its features; {remedy}") from None
        if version != FEATURES_VERSION:
            raise ConfigError(
                source,
                f"was trained on features of version {version!r}, this software computes version "
                f"{FEATURES_VERSION}; {remedy}",
            )
        if sorted(found) != sorted(_LEAST) or not all(
            type(found[name]) is int and least <= found[name] <= 2**24
            for name, least in _LEAST.items()
        ):
            raise ConfigError(
                source, f"has features {found}, expected {', '.join(_LEAST)}; {remedy}"
            )
        return cls(**found)


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, in order.

    Attributes
    ----------
    hashes : uint64 ndarray, shape (T,)
    words : bool ndarray, shape (T,)
        Whether a token is a word.
    """

    hashes: Hashes
    words: NDArray[np.bool_]

    def kept(self, keep: NDArray[np.bool_] | slice) -> Tokens:
        """Some of the tokens, by a mask of shape (T,) or a slice."""
        return Tokens(self.hashes[keep], self.words[keep])


@dataclass(frozen=True)
class Bag:
    """The features of a text: of the whole, of its first and of its last tokens.

    Attributes
    ----------
    buckets : int64 ndarray, shape (N,)
        A bucket may come more than once; its weights add up.
    weights : float32 ndarray, shape (N,)
        Those of each of the three parts are of length 1.
    """

    buckets: Indices
    weights: Weights


def bag_of(text: str, settings: FeatureSettings) -> Bag:
    """The features of a text; those of an empty one, too, are at least one."""
    return bag(tokenise(text, settings), settings)


def tokenise(text: str, settings: FeatureSettings) -> Tokens:
    """The tokens of a text's head and tail."""
    if len(text) > settings.chars_max:
        text = f"{text[: settings.head_chars]}\n{text[-settings.tail_chars :]}"
    if not text.isascii():
        text = text.translate(_PLAIN)
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    spelled, is_word, is_mark = _SPELLED[data], _IS_WORD[data], _IS_MARK[data]
    begins = is_word.copy()
    begins[1:] &= ~is_word[:-1] | (data[1:] >= _LEAD_MIN)
    ends = is_word.copy()
    ends[:-1] &= ~is_word[1:] | begins[1:]
    starts, stops = np.flatnonzero(begins), np.flatnonzero(ends) + 1
    powers, inverses = _powers(_BYTES_PER_CHAR_MAX * (settings.chars_max + 1))
    sums = np.zeros(data.size + 1, np.uint64)
    np.cumsum(spelled * powers[: data.size], out=sums[1:])
    words = (sums[stops] - sums[starts]) * inverses[starts]
    marks = np.flatnonzero(is_mark)
    order = np.concatenate((starts, marks)).argsort(kind="stable")
    hashes = _mixed(np.concatenate((words, spelled[marks] + _MODULUS // 3)))
    return Tokens(hashes[order], order < starts.size)


def bag(tokens: Tokens, settings: FeatureSettings) -> Bag:
    """The features of tokens: counted, damped by the square root, scaled to length 1 by part."""
    size = settings.edge_tokens
    parts = (tokens, tokens.kept(slice(size)), tokens.kept(slice(-size, None)))
    found = [
        _part(part, settings, salt=salt) for part, salt in zip(parts, _PART_SALTS, strict=True)
    ]
    return Bag(
        np.concatenate([part.buckets for part in found]),
        np.concatenate([part.weights for part in found]),
    )


def _part(tokens: Tokens, settings: FeatureSettings, *, salt: int) -> Bag:
    """The features of one part of a text; the same words in another part are others."""
    run = np.empty(tokens.hashes.size + 2, np.uint64)
    run[0], run[1:-1], run[-1] = _BEGIN, tokens.hashes, _END
    found, grams = [tokens.hashes[tokens.words]], run
    for size in range(2, settings.tokens_max + 1):
        grams = grams[:-1] * _LEFT + run[size - 1 :] * _RIGHT
        found.append(grams)
    features = _mixed(np.concatenate(found) + salt)
    buckets = (features % settings.buckets).astype(np.int64)
    order = buckets.argsort(kind="stable")
    ordered = buckets[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    signs = 1.0 - 2.0 * (features[order] >> _SIGN_SHIFT).astype(np.float64)
    sums = np.add.reduceat(signs, first)
    weights = np.copysign(np.sqrt(np.abs(sums)), sums)
    # Not `weights @ weights`: for a large one the BLAS starts threads, which costs milliseconds.
    length = max(np.sqrt(np.square(weights).sum()), 1.0)
    return Bag(ordered[first], (weights / length).astype(np.float32))


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of a hash depends on every bit of what came in."""
    mixed = hashes ^ (hashes >> _MIX_SHIFT)
    for factor in _MIXERS:
        mixed *= factor
        mixed ^= mixed >> _MIX_SHIFT
    return mixed


@lru_cache(maxsize=4)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """The powers 0 to `count` of the base modulo 2^64, and of its inverse."""
    factors = np.ones((2, count + 1), np.uint64)
    factors[0, 1:], factors[1, 1:] = _BASE, pow(_BASE, -1, _MODULUS)
    powers: Hashes = np.cumprod(factors, axis=1, dtype=np.uint64)
    return powers[0], powers[1]


def _tables() -> tuple[Hashes, NDArray[np.bool_], NDArray[np.bool_]]:
    """By byte: how it is spelled within a token, whether it is of a word, whether it is a mark."""
    every = np.arange(256, dtype=np.uint64)
    is_digit = (every >= ord("0")) & (every <= ord("9"))
    is_upper = (every >= ord("A")) & (every <= ord("Z"))
    is_lower = (every >= ord("a")) & (every <= ord("z"))
    is_word = is_digit | is_upper | is_lower | (every >= 0x80) | (every == ord("'"))
    is_mark = ~is_word & ((every > ord(" ")) & (every < 0x7F) | (every == _NEWLINE))
    spelled = np.where(is_digit, ord("0"), np.where(is_upper, every + 32, every))
    return spelled.astype(np.uint64), is_word, is_mark


_SPELLED, _IS_WORD, _IS_MARK = _tables()
