"""Which arm answers: the filters, and a draw between what they leave, or an earlier draw kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from edge_agent.candidates import ArmCondition, Candidates, PreparedRow, RequestFacts, row_for
from edge_agent.conversations import KEEP_SHARE_PPM_MIN, Conversations, Kept
from edge_agent.gate import Gate
from edge_agent.health import ArmHealth
from edge_agent.requests import RequestRefused
from shared.decision.money import PPM
from shared.decision.table import Draw, SelectionTable
from shared.decision.types import Arm, Candidate, DeviceConfig, Fallout, Observation
from shared.rows import quick_dataclass


@quick_dataclass(frozen=True)
class Choice:
    """The candidates of a request, and the draw between them or the one that it goes on with.

    Attributes
    ----------
    observed : Choice or None
        What was decided and only logged, because a fixed arm is told to answer.
    """

    candidates: Candidates
    draw: Draw | None
    kept: Kept | None = None
    observed: Choice | None = None

    @property
    def queue(self) -> tuple[str, ...]:
        """The arms in the order in which they are asked until one answers."""
        if self.draw is None:
            return ()
        return (self.draw.arm, *self.draw.fallbacks, *self.candidates.late)

    @property
    def between(self) -> tuple[Candidate, ...]:
        """Between what the draw was made, for the log (promise P6).

        Where the decision was only observed, the fixed arm was certain among its candidates.
        """
        if self.observed is None or self.draw is None:
            return self.kept.between if self.kept else self.candidates.weights
        fixed = self.draw.arm
        others = (each.arm for each in self.observed.between if each.arm != fixed)
        return (Candidate(fixed, PPM), *(Candidate(arm, 0) for arm in others))

    @property
    def decided(self) -> Choice:
        """What was decided, acted upon or not."""
        return self.observed or self

    @property
    def observation(self) -> Observation | None:
        """What would have been drawn, had a fixed arm not been told to answer."""
        if self.observed is None:
            return None
        draw = self.observed.draw
        arm, chance = (draw.arm, draw.propensity_ppm) if draw else ("", 0)
        return Observation(arm, chance, self.observed.between)

    @property
    def observed_fallouts(self) -> tuple[Fallout, ...]:
        """Why arms were no candidates of a decision that was only observed."""
        if self.observed is None:
            return ()
        own = {fallout.arm for fallout in self.candidates.fallouts}
        return tuple(f for f in self.observed.candidates.fallouts if f.arm not in own)

    def reason(self, facts: RequestFacts, *, table_version: int, failed: Sequence[str] = ()) -> str:
        """Why an arm answers, for `x-tidegate-reason`; `failed` names arms that could not."""
        if self.observed is not None:
            return "observe"
        if facts.pinned_arm:
            return "pinned"
        if failed:
            return "fallback:" + ",".join(failed)
        if not table_version:
            return "no_table"
        drawn = "table;kept" if self.kept else "table"
        without = [f"{fallout.arm}={fallout.reason}" for fallout in self.candidates.fallouts]
        return f"{drawn};without:{','.join(without)}" if without else drawn


class Chooser:
    """Chooses arms for one request after the other; told of answers, it keeps conversations.

    Parameters
    ----------
    observe_arm : str
        Answers every request that pins no arm, while what is decided is only logged; empty to
        act on the decisions.
    """

    def __init__(
        self,
        config: DeviceConfig,
        *,
        table: SelectionTable | None,
        gate: Gate,
        health: ArmHealth,
        observe_arm: str = "",
    ) -> None:
        self._config, self._table = config, table
        self._observe_arm = observe_arm
        self._conversations = Conversations()
        self._gate = gate
        self._health = health
        self._rows: dict[tuple[str, str], PreparedRow] = {}

    def follow(self, config: DeviceConfig, *, table: SelectionTable | None) -> None:
        """From now on this configuration and this table say between what is chosen."""
        kept = self._rows if config is self._config else {}
        self._rows = {key: row for key, row in kept.items() if key[0]}  # pinned: in no table
        self._config, self._table = config, table

    def choose(
        self,
        facts: RequestFacts,
        *,
        conditions: Mapping[str, ArmCondition],
        now_ms: float,
        uniform: float,
    ) -> Choice:
        """Filter a request's arms and draw one.

        Raises
        ------
        RequestRefused
            404 if it pins an arm that the fleet does not have, 503 if `observe_arm` is none.
        """
        if not self._observe_arm or facts.pinned_arm:
            return self._decide(facts, conditions=conditions, now_ms=now_ms, uniform=uniform)
        if self._config.arm(self._observe_arm) is None:
            raise RequestRefused(
                503,
                "observe_arm_unknown",
                f"observe_arm is {self._observe_arm!r} in the agent's configuration, and the fleet "
                "has no such arm for this device: name one of "
                + ", ".join(arm.id for arm in self._config.arms),
            )
        fixed, observed = (
            self._decide(each, conditions=conditions, now_ms=now_ms, uniform=uniform)
            for each in (replace(facts, pinned_arm=self._observe_arm), facts)
        )
        return replace(fixed, observed=observed)

    def _decide(
        self,
        facts: RequestFacts,
        *,
        conditions: Mapping[str, ArmCondition],
        now_ms: float,
        uniform: float,
    ) -> Choice:
        if facts.pinned_arm and self._config.arm(facts.pinned_arm) is None:
            known = ", ".join(["auto", *(arm.id for arm in self._config.arms)])
            raise RequestRefused(
                404,
                "model_not_found",
                f"the model {facts.pinned_arm!r} does not exist; known are: {known}",
                param="model",
            )
        prepared = self._prepared(facts)
        candidates = prepared.candidates(
            facts,
            conditions=self._rested(conditions, now_ms=now_ms),
            allowance=self._gate.allowance(facts.key_tag),
            money=self._money(facts, now_ms=now_ms),
        )
        kept = self._kept(facts, candidates=candidates, now_ms=now_ms)
        if kept is None:
            return Choice(candidates, prepared.ranked.draw(candidates.arms, uniform))
        fallbacks = prepared.ranked.fallbacks(candidates.arms, of=kept.arm)
        return Choice(candidates, Draw(kept.arm, kept.propensity_ppm, fallbacks), kept=kept)

    def answered(self, facts: RequestFacts, choice: Choice, *, now_ms: float) -> None:
        """The arm that was drawn has answered: the next turn may go on with it."""
        if facts.turn and choice.draw is not None:
            kept = Kept(choice.draw.arm, choice.between)
            self._conversations.remember(facts.turn, kept, now_ms=now_ms)

    def _kept(self, facts: RequestFacts, *, candidates: Candidates, now_ms: float) -> Kept | None:
        """The draw that a conversation goes on with, while that is feasible and worth it."""
        if not facts.goes_on_from:
            return None
        kept = self._conversations.find(facts.goes_on_from, now_ms=now_ms)
        if kept is None:
            return None
        return kept.among(candidates.played(share_ppm_min=KEEP_SHARE_PPM_MIN))

    def _rested(
        self, conditions: Mapping[str, ArmCondition], *, now_ms: float
    ) -> Mapping[str, ArmCondition]:
        """The arms' conditions, with those that rest after failures closed."""
        if not self._health.any_failed:
            return conditions
        return {
            arm: ArmCondition(problem="resting")
            if not condition.problem and self._health.resting_ms(arm, now_ms=now_ms)
            else condition
            for arm, condition in conditions.items()
        }

    def _money(self, facts: RequestFacts, *, now_ms: float) -> Callable[[Arm], str]:
        """Why a paid arm is no candidate; a lease that may still come is no reason."""

        def problem(arm: Arm) -> str:
            found = self._gate.problem(facts, arm=arm)
            return "" if self._gate.may_come(found, now_ms=now_ms) else found

        return problem

    def _prepared(self, facts: RequestFacts) -> PreparedRow:
        """The row to choose from; prepared once for as long as it is followed."""
        key = (facts.pinned_arm, facts.task_class)
        found = self._rows.get(key)
        if found is None:
            row = row_for(facts, config=self._config, table=self._table)
            found = self._rows[key] = PreparedRow(row, config=self._config)
        return found
