"""Sums by key, for what is counted at every step of a run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

K = TypeVar("K")

Counts = defaultdict[K, int]
"""A `Counter` takes three times as long to add to: it has a method of its own for deleting."""


def counts() -> Counts[Any]:
    """Everything is 0."""
    return defaultdict(int)
