"""The plan of a chaos run comes from its seed alone, and leaves no kind out."""

from __future__ import annotations

import random

from tests.chaos.faults import KINDS, QUIET_S, plan_faults
from tests.chaos.load import draw

TARGETS = {
    "agents": ("edge-1", "edge-2"),
    "links": ("edge-1", "metered"),
    "coordinator": ("coordinator",),
    "provider": ("provider",),
    "cloud": ("cloud",),
    "small_disk": ("edge-2",),
}


def test_the_same_seed_gives_the_same_faults() -> None:
    """And another seed gives others."""
    first = plan_faults(seed=1, seconds=60.0, targets=TARGETS)
    assert first == plan_faults(seed=1, seconds=60.0, targets=TARGETS)
    assert first != plan_faults(seed=2, seconds=60.0, targets=TARGETS)


def test_a_minute_holds_every_kind_and_ends_quietly() -> None:
    """Each kind comes in turn, at a time that lies within the run, at a target of its own."""
    for seed in range(20):
        faults = plan_faults(seed=seed, seconds=60.0, targets=TARGETS)
        assert set(KINDS) == {fault.kind for fault in faults}
        assert all(0.0 < fault.at_s < 60.0 - QUIET_S for fault in faults)
        assert all(fault.target in TARGETS[KINDS[fault.kind].targets] for fault in faults)


def test_what_a_machine_does_not_allow_is_left_out() -> None:
    """Without a small disk there is no full disk; what is not wanted does not come either."""
    faults = plan_faults(
        seed=1, seconds=60.0, targets={**TARGETS, "small_disk": ()}, without=("clone",)
    )
    assert set(KINDS) - {"full_disk", "clone"} == {fault.kind for fault in faults}


def test_a_client_draws_the_same_requests_again() -> None:
    """Texts are unique by their tag, so that the bill can be read by text."""

    def drawn() -> list[object]:
        rng = random.Random("7/client")
        return [draw(rng, tag=f"edge.{number}", target="edge") for number in range(50)]

    assert drawn() == drawn()
    texts = [draw(random.Random(1), tag=f"edge.{n}", target="edge").text for n in range(50)]
    assert 50 == len(set(texts))
