"""Figures of a run against the clairvoyant, and their summary over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import scipy

from coordinator.lab.simulation.clairvoyant import Clairvoyant, Yardstick
from coordinator.lab.simulation.schema import Scenario
from coordinator.lab.simulation.tally import Regime, Tally
from coordinator.policy.base import FloatArray

NEAR: Final = 0.02
"""Within this share of a regime's optimum counts as being back."""
RETURN_WIDTH: Final = 0.05
"""Share of the window over which the gap is averaged to tell."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One run's judged window.

    Attributes
    ----------
    penalised_regret_share : float
        Of `reward - rho x requests missing below the floor`, short of the clairvoyant's.
    regret_share : float
        Of the reward alone; negative if misses bought reward.
    sla_share, sla_share_clairvoyant : float
        Requests in time, as expected after the wait that each had.
    spend_share : float
        Of the budget as it stood at the end.
    overrun_nanos : int
        Billed beyond the most that the window ever allowed; must be 0.
    stranded_share : float
        Of the budget: lent to devices at the window's end and not spent.
    unspent_share : float
        Of the budget: not spent, lent or not.
    lease_lost_share : float
        Requests that lost a paid arm for want of a lease.
    lease_lost_weight : float
        The share of all table weight that was lost so.
    lease_refused_share : float
        Those of them for which the budget was not exhausted.
    refused_share : float
        Requests without an answer.
    choice_loss_share : float
        Lost by the arms that answered, at the clairvoyant's prices, of its reward.
    unspent_loss_share : float
        Worth of the unspent money at the clairvoyant's price, of its reward.
    return_shares : list of float or None
        For each change: after which share of the window the run was back within 2 % of the new
        regime's optimum; None if it was not before the regime ended.
    """

    seed: int
    requests: int
    penalised_regret_share: float
    regret_share: float
    reward_mean: float
    reward_mean_clairvoyant: float
    sla_share: float
    sla_share_realised: float
    sla_share_clairvoyant: float
    spend_share: float
    spend_share_clairvoyant: float
    overrun_nanos: int
    stranded_share: float
    unspent_share: float
    lease_lost_share: float
    lease_lost_weight: float
    lease_refused_share: float
    refused_share: float
    choice_loss_share: float
    unspent_loss_share: float
    arm_shares: dict[str, float]
    arm_shares_clairvoyant: dict[str, float]
    return_shares: list[float | None]
    requests_per_s: float

    @property
    def sla_gap(self) -> float:
        """By how much the share in time is short of the clairvoyant's; negative if above."""
        return self.sla_share_clairvoyant - self.sla_share


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves:
    """Per slot of the judged window, for pictures and CSV."""

    reward: FloatArray
    reward_clairvoyant: FloatArray
    hits: FloatArray
    spend: FloatArray
    requests: FloatArray


def judge(
    scenario: Scenario, *, tally: Tally, seed: int, window: int = -1
) -> tuple[Figures, Curves]:
    """Compare a window of a run with the clairvoyant's; by default the last one.

    An earlier window can be judged where the scenario has no events: then its regime is the same.
    """
    index = range(tally.windows)[window]
    columns, counts = tally.window(index), tally.counts(index)
    yardstick = Yardstick(scenario, contexts=tally.demand.contexts, arms=tally.arms)
    best = yardstick.over(tally.regimes, counts=counts)
    requests, end = len(columns["slot"]), tally.ends[index]
    reward, hits = float(columns["reward"].sum()), float(columns["hit_expected"].sum())
    floor, rho = scenario.sla.floor, scenario.sla.rho
    value = reward - rho * max(0.0, floor * requests - hits)
    budget = max(1, end.budget)
    unspent = max(0, end.allowed - end.settled - end.unconfirmed)
    served = {
        arm: float(np.mean(columns["arm"] == at)) if requests else 0.0
        for at, arm in enumerate(tally.arms)
    }
    figures = Figures(
        seed=seed,
        requests=requests,
        penalised_regret_share=_short(value, of=best.value),
        regret_share=_short(reward, of=best.reward),
        reward_mean=reward / max(1, requests),
        reward_mean_clairvoyant=best.reward / max(1.0, best.requests),
        sla_share=hits / max(1, requests),
        sla_share_realised=float(columns["hit"].sum()) / max(1, requests),
        sla_share_clairvoyant=best.sla_share,
        spend_share=end.billed / budget,
        spend_share_clairvoyant=best.spent_nanos / budget,
        overrun_nanos=max(0, end.billed - end.allowed),
        stranded_share=min(unspent, end.outstanding) / budget,
        unspent_share=unspent / budget,
        lease_lost_share=float((columns["lease_lost"] > 0.0).sum()) / max(1, requests),
        lease_lost_weight=float(columns["lease_lost"].sum()) / max(1, requests),
        lease_refused_share=float(columns["lease_refused"].sum()) / max(1, requests),
        refused_share=float((columns["arm"] < 0).sum()) / max(1, requests),
        choice_loss_share=_choice_loss(tally.regimes, best=best, columns=columns),
        unspent_loss_share=best.optima[-1].money_price * unspent / max(1e-9, best.reward),
        arm_shares=served,
        arm_shares_clairvoyant=best.arm_shares,
        return_shares=_returns(yardstick, regimes=tally.regimes, columns=columns, counts=counts),
        requests_per_s=tally.requests / max(1e-9, tally.cpu_s),
    )
    return figures, _curves(tally, best=best, columns=columns, counts=counts)


def _short(value: float, *, of: float) -> float:
    return (of - value) / max(1e-9, abs(of))


def _gaps(score: FloatArray, *, columns: dict[str, FloatArray]) -> FloatArray:
    """Per request: how far the arm that answered is below the best one, at given prices."""
    context, arm = columns["context"].astype(int), columns["arm"].astype(int)
    best = score.max(axis=1)[context]
    got = np.where(arm >= 0, score[context, arm], 0.0)
    return np.asarray(best - np.where(np.isfinite(got), got, 0.0), dtype=np.float64)


def _choice_loss(
    regimes: Sequence[Regime], *, best: Clairvoyant, columns: dict[str, FloatArray]
) -> float:
    lost, ends = 0.0, [*(regime.slot for regime in regimes[1:]), np.inf]
    for regime, end, optimum in zip(regimes, ends, best.optima, strict=True):
        mine = (columns["slot"] >= regime.slot) & (columns["slot"] < end)
        lost += float(_gaps(optimum.score, columns=columns)[mine].sum())
    return lost / max(1e-9, best.reward)


def _returns(
    yardstick: Yardstick,
    *,
    regimes: Sequence[Regime],
    columns: dict[str, FloatArray],
    counts: FloatArray,
) -> list[float | None]:
    """After each change: the share of the window until the gap stays within `NEAR`.

    The new regime's optimum is that of the money and the debt that the run really had left. The
    gap is taken at its prices, so that neither overspending nor missing the floor looks good.
    """
    slots, found = len(counts), []
    width = max(3, round(RETURN_WIDTH * slots))
    ends = [*(regime.slot for regime in regimes[1:]), slots]
    for regime, end in list(zip(regimes, ends, strict=True))[1:]:
        demand = counts[regime.slot :].sum(axis=0)
        optimum = yardstick.optimum(
            regime,
            demand=demand,
            slots=slots - regime.slot,
            money=regime.budget_nanos - regime.spent_nanos,
            debt=yardstick.scenario.sla.floor * regime.requests - regime.hits,
        )
        usual = float((demand[:, None] * optimum.weights * regime.reward).sum())
        usual /= max(1.0, float(demand.sum()))
        gaps = _gaps(optimum.score, columns=columns)
        total = np.bincount(columns["slot"].astype(int), weights=gaps, minlength=slots)
        came = np.bincount(columns["slot"].astype(int), minlength=slots)
        back: float | None = None
        for slot in range(regime.slot, end - width + 1):
            lost = total[slot : slot + width].sum() / max(1, came[slot : slot + width].sum())
            if lost <= NEAR * usual:
                back = (slot - regime.slot) / slots
                break
        found.append(back)
    return found


def _curves(
    tally: Tally, *, best: Clairvoyant, columns: dict[str, FloatArray], counts: FloatArray
) -> Curves:
    slots = columns["slot"].astype(int)

    def per_slot(values: FloatArray) -> FloatArray:
        return np.bincount(slots, weights=values, minlength=len(counts)).astype(np.float64)

    wanted = np.zeros(len(counts))
    ends = [*(regime.slot for regime in tally.regimes[1:]), len(counts)]
    for regime, end, optimum in zip(tally.regimes, ends, best.optima, strict=True):
        each = (optimum.weights * regime.reward).sum(axis=1)
        wanted[regime.slot : end] = counts[regime.slot : end] @ each
    return Curves(
        reward=per_slot(columns["reward"]),
        reward_clairvoyant=wanted,
        hits=per_slot(columns["hit_expected"]),
        spend=per_slot(columns["cost_nanos"]),
        requests=counts.sum(axis=1),
    )


def summary(figures: Sequence[Figures]) -> dict[str, Any]:
    """Mean, 95 % bound and worst over seeds, and every run."""
    regret = np.array([each.penalised_regret_share for each in figures])
    gaps = np.array([each.sla_gap for each in figures])
    back = [share for each in figures for share in each.return_shares]
    return {
        "seeds": len(figures),
        "requests_mean": float(np.mean([each.requests for each in figures])),
        "penalised_regret_share": float(regret.mean()),
        "penalised_regret_share_ci95_high": _bound(regret),
        "penalised_regret_share_worst": float(regret.max()),
        "regret_share": float(np.mean([each.regret_share for each in figures])),
        "sla_gap_mean": float(gaps.mean()),
        "sla_gap_worst": float(gaps.max()),
        "sla_share": float(np.mean([each.sla_share for each in figures])),
        "sla_share_clairvoyant": float(np.mean([each.sla_share_clairvoyant for each in figures])),
        "spend_share": float(np.mean([each.spend_share for each in figures])),
        "overrun_nanos_max": max(each.overrun_nanos for each in figures),
        "stranded_share": float(np.mean([each.stranded_share for each in figures])),
        "unspent_share": float(np.mean([each.unspent_share for each in figures])),
        "lease_lost_share": float(np.mean([each.lease_lost_share for each in figures])),
        "lease_refused_share": float(np.mean([each.lease_refused_share for each in figures])),
        "return_share_worst": None if not back or None in back else max(b or 0.0 for b in back),
        "returned": all(share is not None for share in back),
        "requests_per_s": float(np.mean([each.requests_per_s for each in figures])),
        "runs": [asdict(each) for each in figures],
    }


def _bound(values: FloatArray) -> float:
    """The upper end of the 95 % interval of the mean; the value itself for a single run."""
    if values.size < 2:
        return float(values.max())
    width = float(scipy.special.stdtrit(values.size - 1, 0.975)) * float(values.std(ddof=1))
    return float(values.mean()) + width / float(np.sqrt(values.size))
