"""What a process does with its garbage once it has started."""

from __future__ import annotations

import subprocess
import sys

AFTER_A_START = """
import gc, weakref
from shared.garbage import collect_seldom, give_back
class Cycle: pass
cycle = Cycle()
cycle.itself, seen = cycle, weakref.ref(cycle)
del cycle
collect_seldom()
give_back()
print(seen() is None, gc.get_freeze_count() > 1_000, gc.get_threshold()[0])
"""


def test_what_a_start_leaves_behind_is_freed_once_and_the_rest_is_looked_at_no_more() -> None:
    """A cycle made before is gone; what is there now is in no later search, and those are rare."""
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_START], capture_output=True, text=True, check=True
    )
    assert ["True", "True", "20000"] == done.stdout.split()
