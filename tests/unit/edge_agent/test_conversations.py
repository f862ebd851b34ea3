"""The memory of which draw a conversation goes on with."""

from __future__ import annotations

from edge_agent.conversations import Conversations, Kept
from shared.decision.types import Candidate

BETWEEN = (Candidate("big", 600_000), Candidate("mid", 300_000), Candidate("tiny", 100_000))
KEPT = Kept("big", BETWEEN)


def test_a_remembered_turn_is_found() -> None:
    """The draw of a turn is found by the turn's id, and no other."""
    known = Conversations()
    known.remember("t1", KEPT, now_ms=0.0)
    assert KEPT == known.find("t1", now_ms=1.0)
    assert known.find("t2", now_ms=1.0) is None


def test_only_the_latest_turns_are_kept() -> None:
    """Memory is bounded: the turn that was answered longest ago goes first."""
    known = Conversations(size_max=2)
    for turn in ("t1", "t2", "t1", "t3"):
        known.remember(turn, KEPT, now_ms=0.0)
    assert 2 == len(known)
    found = [known.find(turn, now_ms=0.0) is not None for turn in ("t1", "t2", "t3")]
    assert [True, False, True] == found


def test_a_turn_is_forgotten_when_no_cache_can_remember_it() -> None:
    """After a long silence there is nothing to be gained from the same arm."""
    known = Conversations(idle_ms_max=1_000)
    known.remember("t1", KEPT, now_ms=0.0)
    assert KEPT == known.find("t1", now_ms=1_000.0)
    assert known.find("t1", now_ms=1_001.0) is None


def test_an_arm_without_weight_is_not_remembered() -> None:
    """Where no arm had any weight the best one was certain, and is so again."""
    known = Conversations()
    known.remember("t1", Kept("tiny", (Candidate("tiny", 0), Candidate("big", 5))), now_ms=0.0)
    assert 0 == len(known)


def test_the_propensity_is_that_of_the_draw_among_the_arms_that_would_be_kept() -> None:
    """Fewer arms that could be kept make the one that is kept likelier; its own must be there."""
    assert 600_000 == KEPT.propensity_ppm
    narrowed = KEPT.among({"big", "tiny", "new"})
    assert narrowed == Kept("big", (BETWEEN[0], BETWEEN[2]))
    assert 857_142 == narrowed.propensity_ppm
    assert KEPT.among({"mid", "tiny"}) is None
