"""What a process does with its garbage once it has started."""

from __future__ import annotations

import subprocess
import sys

AFTER_A_START = """
import gc
from shared.garbage import collect_seldom, give_back
cycle = []
cycle.append(cycle)
del cycle
collect_seldom()
give_back()
print(gc.get_freeze_count() > 1_000, gc.get_threshold()[0] > 700, gc.collect())
"""


def test_what_a_start_leaves_behind_is_freed_once_and_the_rest_never_looked_at_again() -> None:
    """A cycle made before is gone, so that another search finds nothing."""
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_START], capture_output=True, text=True, check=True
    )
    assert ["True", "True", "0"] == done.stdout.split()
