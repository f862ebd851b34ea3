"""The logged propensity of a turn is the probability that it has its arm, given which turns of its
conversation were kept: exactly, whatever tables and candidates the turns meet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.attempts import AttemptEnd
from edge_agent.books import BooksSnapshot
from edge_agent.candidates import ArmCondition
from edge_agent.engine import AgentEngine
from shared.decision.money import PPM
from shared.decision.table import TableArm
from shared.decision.types import Outcome, RequestStatus
from tests.fakes.samples import device_config, facts, local_arm, table

ARMS = ("a", "b", "c")
CONFIG = device_config(*(local_arm(arm) for arm in ARMS))
Turn = tuple[list[int], list[bool]]
"""The table's weights (in hundredths), and which arms can answer."""

turn = st.tuples(
    st.sampled_from([[20, 30, 50], [90, 8, 2], [4, 48, 48], [0, 60, 40], [34, 33, 33]]),
    st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
)


def played(turns: Sequence[Turn], *, uniforms: Sequence[float]) -> Outcome:
    """The last turn of a conversation whose draws come from these numbers."""
    engine = AgentEngine(
        incarnation="i1",
        boot_id="b1",
        snapshot=BooksSnapshot(config=CONFIG),
        fallback=CONFIG,
        unix_ms=0,
    )
    outcome = None
    for number, ((weights, usable), uniform) in enumerate(zip(turns, uniforms, strict=True)):
        row = [TableArm(arm, w * PPM // 100) for arm, w in zip(ARMS, weights, strict=True)]
        engine.table_pushed(table(*row))
        conditions = {
            arm: ArmCondition("" if can else "broken")
            for arm, can in zip(ARMS, usable, strict=True)
        }
        asked = facts(f"r{number}", turn=f"t{number}", goes_on_from=f"t{number - 1}")
        engine.begin(asked, conditions=conditions, now_ms=0.0, uniform=uniform)
        engine.next_attempt(asked.request_id, boot_ms=0)
        outcome, _ = engine.finish(
            asked.request_id, status=RequestStatus.OK, end=AttemptEnd(1), ttft_ms=1, latency_ms=1
        )
    assert outcome is not None
    return outcome


def branches(outcome: Outcome) -> Iterator[tuple[Fraction, float]]:
    """The possible results of a draw: the probability of each, and a number that leads to it."""
    total = sum(each.weight_ppm for each in outcome.candidates)
    if not total:
        yield Fraction(1), 0.0
        return
    below = 0
    for each in outcome.candidates:
        if each.weight_ppm:
            yield Fraction(each.weight_ppm, total), (below + each.weight_ppm / 2) / total
        below += each.weight_ppm


@given(turns=st.lists(turn, min_size=2, max_size=3))
def test_propensities_are_conditional_probabilities(turns: list[Turn]) -> None:
    """Every course that a conversation can take is played, with its exact probability."""
    mass: dict[tuple[bool, ...], dict[str, Fraction]] = defaultdict(lambda: defaultdict(Fraction))
    logged: dict[tuple[tuple[bool, ...], str], int] = {}
    courses: list[tuple[Fraction, list[float], tuple[bool, ...]]] = [(Fraction(1), [], ())]
    for number in range(1, len(turns) + 1):
        longer = []
        for probability, uniforms, pattern in courses:
            tried = played(turns[:number], uniforms=[*uniforms, 0.0])
            kept = "kept" in tried.reason
            for share, uniform in [(Fraction(1), 0.0)] if kept else branches(tried):
                outcome = played(turns[:number], uniforms=[*uniforms, uniform])
                course = (probability * share, [*uniforms, uniform], (*pattern, kept))
                longer.append(course)
                mass[course[2]][outcome.arm] += course[0]
                known = logged.setdefault((course[2], outcome.arm), outcome.propensity_ppm)
                assert known == outcome.propensity_ppm
        courses = longer
    for pattern, arms in mass.items():
        for arm, probability in arms.items():
            expected = probability / sum(arms.values())
            assert abs(logged[pattern, arm] - expected * PPM) <= 1
