"""How often Python looks for garbage that refers to itself."""

from __future__ import annotations

import gc
from typing import Final

_NEW_OBJECTS: Final = 20_000
_YOUNGER: Final = (20, 50)


def collect_seldom() -> None:
    """Look for cycles less often, and never again among what is there already.

    For a process through which small objects pass by the million. Nearly none of them is in a
    cycle, so the search finds nothing and takes a sixth of the time in which outcomes are booked.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, *_YOUNGER)
