"""How often Python looks for garbage that refers to itself, and where freed memory goes."""

from __future__ import annotations

import ctypes
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


def give_back() -> None:
    """Return to the system what was freed, some MB after a start; only glibc has to be asked.

    After `collect_seldom`, which frees what a start has left behind.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
