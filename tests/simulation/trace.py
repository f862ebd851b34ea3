"""What happens in a run: a list of operations, made from a seed and played by the world."""

from __future__ import annotations

import random
from itertools import accumulate

from shared.rows import quick_dataclass

DEVICES = 4
FAULTS: dict[str, float] = {
    "message_lost": 6,
    "message_repeated": 22,
    "message_delayed": 18,
    "message_reordered": 12,
    "grant_repeated_late": 5,
    "line_cut": 6,
    "partition": 2,
    "device_killed": 1.2,
    "device_dies_in_commit": 1.2,
    "power_lost": 1.2,
    "device_reboots": 0.5,
    "disk_full": 2,
    "suspend": 2.5,
    "device_clock_steps": 3,
    "coordinator_restarts": 1.2,
    "coordinator_dies_in_commit": 2,
    "coordinator_away": 1,
    "coordinator_clock_steps": 1,
    "database_unwritable": 1,
    "database_slow": 8,
    "takeover": 1.5,
    "client_gone": 24,
    "budget_set": 3,
    "price_rises": 1,
    "spend_paused": 0.5,
    "arm_disabled": 0.5,
    "device_written_off": 3,
    "provider": 55,
}
"""Kinds of fault, with their weights."""
DISK_FAULTS = {
    "disk_copied": 6.0,
    "disk_restored": 4.0,
    "disk_copied_back": 1.0,
    "disk_moved": 0.5,
    "clone_of_image": 0.8,
    "clone_of_stopped": 0.8,
    "clone_of_running": 1.0,
}
DATABASE_FAULTS = {"database_backed_up": 8.0, "database_restored": 0.8}
FAULT_SHARE = 0.335
BURSTS = (1, 2, 3, 5, 8)
GAPS_MS = (5, 40, 85, 155, 250)
GAPS_IN_BURST_MS = (0, 5, 20, 40)


@quick_dataclass(frozen=True)
class Op:
    """One operation.

    Attributes
    ----------
    wait_ms : int
        What passes before it.
    seed : int
        For whatever it draws, so that leaving another operation out does not change this one.
    """

    wait_ms: int
    kind: str
    device: int
    seed: int

    def __str__(self) -> str:
        return f"+{self.wait_ms} ms {self.kind} d{self.device} #{self.seed}"


def make_trace(seed: int, *, steps: int) -> list[Op]:
    """A run of `steps` requests, with faults in between.

    Restored databases and restored or cloned disks never meet in one run: together they can undo
    the very sessions by which the protocol tells one from the other.
    """
    rng = random.Random(f"trace {seed}")
    weights = {**FAULTS, **(DATABASE_FAULTS if seed % 2 else DISK_FAULTS)}
    kinds, shares = list(weights), list(accumulate(weights.values()))
    ops: list[Op] = []
    left = steps
    while left:
        burst = min(left, rng.choice(BURSTS))
        left -= burst
        device, wait_ms = rng.randrange(DEVICES), rng.choice(GAPS_MS)
        for _ in range(burst):
            ops.append(Op(wait_ms, "ask", device, rng.getrandbits(32)))
            wait_ms = rng.choice(GAPS_IN_BURST_MS)
            if rng.random() < FAULT_SHARE:
                kind, at = rng.choices(kinds, cum_weights=shares)[0], rng.randrange(DEVICES)
                ops.append(Op(rng.randint(0, 40), kind, at, rng.getrandbits(32)))
    return ops
