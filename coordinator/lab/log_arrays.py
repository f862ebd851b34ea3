"""A decision log as arrays: contexts, draws, what came of them, and which grades are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import BoolArray, FloatArray, IntArray
from shared.decision.logged import LoggedDecision
from shared.decision.money import PPM
from shared.decision.types import RequestStatus
from shared.errors import ConfigError

SLOTS_FOR_CLUSTERS = 20
"""With fewer slots than this, slots say too little about their own spread."""
_PROPENSITY_TOLERANCE_PPM = 2
_PROPENSITY_TOLERANCE_SHARE = 0.01
_SHORTFALL_SIGMAS = 4.0
_RESPONSE_SHRINK = 8.0


@dataclass(frozen=True, eq=False, kw_only=True)
class LogArrays:
    """What was logged of n requests over X contexts and A arms.

    Parameters
    ----------
    contexts : tuple of (device class, task class), length X
    arms : tuple of str, length A
    context, slot : ndarray of int, shape (n,)
    drawn : ndarray of int, shape (n,)
        Index of the arm drawn first; -1 where there was no candidate.
    candidate : ndarray of bool, shape (n, A)
        The arms that could have been drawn.
    logged : ndarray, shape (n, A)
        The probabilities of the draw; rows without candidates are 0.
    reward : ndarray, shape (n,)
        0 for a request that was not answered, and where it is not known.
    graded : ndarray of bool, shape (n,)
        The reward is known.
    grading : ndarray, shape (n,)
        Logged probability that it becomes known; 1 for requests that were not answered.
    answered : ndarray of bool, shape (n,)
        An arm answered.
    alone : ndarray of bool, shape (n,)
        No other arm than the one drawn was tried.
    hit : ndarray, shape (n,)
        1 for an answer in time.
    cost_nanos, latency_ms : ndarray, shape (n,)
    admitted : ndarray of bool, shape (n,)
        All but those that their client aborted: the denominator of reward and SLA.
    decided : ndarray, shape (n, A)
        The probabilities of the agent's own decision: those of the draw, or, where a fixed arm was
        told to answer, those of the draw that was only observed.
    observed : ndarray of bool, shape (n,)
        A fixed arm was told to answer.
    """

    contexts: tuple[tuple[str, str], ...]
    arms: tuple[str, ...]
    context: IntArray
    slot: IntArray
    drawn: IntArray
    candidate: BoolArray
    logged: FloatArray
    reward: FloatArray
    graded: BoolArray
    grading: FloatArray
    answered: BoolArray
    alone: BoolArray
    hit: FloatArray
    cost_nanos: FloatArray
    latency_ms: FloatArray
    admitted: BoolArray
    decided: FloatArray
    observed: BoolArray

    @property
    def requests(self) -> int:
        """How many requests there are."""
        return int(self.context.size)

    @property
    def propensity(self) -> FloatArray:
        """Probability of the draw that was made, shape (n,); 1 where nothing was drawn."""
        picked = self.logged[np.arange(self.requests), np.maximum(self.drawn, 0)]
        return np.where(self.drawn >= 0, picked, 1.0)

    @property
    def feasible(self) -> BoolArray:
        """Arms that were a candidate in a context, and were drawn somewhere, shape (X, A)."""
        found = np.zeros((len(self.contexts), len(self.arms)), dtype=np.bool_)
        np.logical_or.at(found, self.context, self.candidate)
        return found & np.isin(np.arange(len(self.arms)), self.drawn)

    @property
    def free(self) -> BoolArray:
        """Arms that cost nothing whenever they were tried alone, shape (A,)."""
        paid = self.drawn[self.alone & (self.cost_nanos > 0.0)]
        return ~np.isin(np.arange(len(self.arms)), paid)


@dataclass(frozen=True, eq=False, kw_only=True)
class Grading:
    """How likely each request's reward is to be known.

    Parameters
    ----------
    inclusion : ndarray, shape (n,)
        Grading probability, times the share of those due that came, where some are missing.
    missing : float
        Share of the grades that were due and did not come; 0 where the shortfall is chance.
    """

    inclusion: FloatArray
    missing: float


def arrays_of(decisions: Sequence[LoggedDecision]) -> LogArrays:
    """Turn a log into arrays.

    Raises
    ------
    ConfigError
        When there is no decision, or a propensity contradicts the weights it was drawn from.
    """
    if not decisions:
        raise ConfigError("log", "holds no decision")
    contexts = tuple(sorted({(d.device_class, d.task_class) for d in decisions}))
    arms = tuple(sorted({arm for d in decisions for arm in (*d.candidates, *d.observed)}))
    if not arms:
        raise ConfigError("log", "no decision has candidates; there was nothing to decide")
    row_of = {context: row for row, context in enumerate(contexts)}
    column_of = {arm: column for column, arm in enumerate(arms)}
    weights = _weights([d.candidates for d in decisions], column_of=column_of)
    drawn = np.array([column_of[d.drawn_arm] if d.drawn_arm else -1 for d in decisions])
    logged = _probabilities(weights, drawn=drawn)
    observed = np.array([bool(d.observed) for d in decisions])
    aside = _probabilities(
        _weights([d.observed for d in decisions], column_of=column_of),
        drawn=np.array([column_of[d.observed_arm] if d.observed_arm else -1 for d in decisions]),
    )
    answered = np.array([d.status is RequestStatus.OK for d in decisions])
    known = np.array([d.reward is not None for d in decisions])
    arrays = LogArrays(
        contexts=contexts,
        arms=arms,
        context=np.array([row_of[d.device_class, d.task_class] for d in decisions]),
        slot=np.array([d.slot for d in decisions]),
        drawn=drawn,
        candidate=weights >= 0.0,
        logged=logged,
        reward=np.array([d.reward or 0.0 for d in decisions]),
        graded=known | ~answered,
        grading=np.where(answered, [d.grading_ppm / PPM for d in decisions], 1.0),
        answered=answered,
        alone=np.array([set(d.attempts or (d.arm,)) <= {d.drawn_arm} for d in decisions]),
        hit=np.array([float(d.hit) for d in decisions]),
        cost_nanos=np.array([float(d.cost_nanos) for d in decisions]),
        latency_ms=np.array([float(d.latency_ms) for d in decisions]),
        admitted=np.array([d.status is not RequestStatus.ABORTED for d in decisions]),
        decided=np.where(observed[:, None], aside, logged),
        observed=observed,
    )
    _check_propensities(arrays, decisions=decisions)
    return arrays


def grading_of(log: LogArrays) -> Grading:
    """Work out how likely each reward was to be known.

    Where fewer grades came than the logged probabilities say, beyond chance, the rest is taken to
    be missing at random within (context, arm drawn): the share that came there, shrunk to the
    overall one, multiplies the probability. Requests that were sure to be graded and those that
    were sampled are looked at apart.
    """
    due = log.admitted & (log.drawn >= 0)
    inclusion = log.grading.copy()
    expected, came = float(log.grading[due].sum()), float(log.graded[due].sum())
    short = False
    for group in (due & (log.grading >= 1.0), due & (log.grading < 1.0)):
        wanted = log.grading[group]
        spread = float(np.sqrt((wanted * (1.0 - wanted)).sum()))
        if float(wanted.sum() - log.graded[group].sum()) > _SHORTFALL_SIGMAS * spread:
            short = True
            inclusion[group] *= _response(log, group=group)
    missing = max(0.0, 1.0 - came / expected) if short and expected else 0.0
    return Grading(inclusion=inclusion, missing=missing)


def clusters_of(log: LogArrays, *, by: str) -> IntArray:
    """Which requests may depend on each other: those of a slot, or none.

    Parameters
    ----------
    by : str
        `slot`, `request`, or `auto`: slots if there are at least `SLOTS_FOR_CLUSTERS` of them.
    """
    found = np.unique(log.slot)
    if by == "slot" or (by == "auto" and found.size >= SLOTS_FOR_CLUSTERS):
        return np.asarray(log.slot)
    return np.arange(log.requests)


def folds_of(cluster: IntArray, *, folds: int, rng: np.random.Generator) -> IntArray:
    """Deal whole clusters to folds at random, as evenly as their number allows, shape (n,).

    Raises
    ------
    ConfigError
        When there are fewer clusters than folds.
    """
    found, index = np.unique(cluster, return_inverse=True)
    if found.size < folds:
        raise ConfigError(
            "--folds", f"{folds} folds need as many slots or requests, the log has {found.size}"
        )
    dealt = np.arange(found.size) % folds
    return np.asarray(rng.permutation(dealt)[index])


def _response(log: LogArrays, *, group: BoolArray) -> FloatArray:
    """Share of the grades due that came, per (context, arm drawn), for each request of a group."""
    shape = (len(log.contexts), len(log.arms))
    cells = (log.context[group], log.drawn[group])
    due, came = np.zeros(shape), np.zeros(shape)
    np.add.at(due, cells, log.grading[group])
    np.add.at(came, cells, log.graded[group].astype(np.float64))
    overall = max(float(came.sum()), 0.5) / float(due.sum())
    share = (came + _RESPONSE_SHRINK * overall) / (due + _RESPONSE_SHRINK)
    return np.asarray(np.minimum(share, 1.0)[cells])


def _weights(rows: Sequence[Mapping[str, int]], *, column_of: Mapping[str, int]) -> FloatArray:
    """Weights as an array; -1 for what is no candidate."""
    weights = np.full((len(rows), len(column_of)), -1.0)
    for row, named in enumerate(rows):
        for arm, weight in named.items():
            weights[row, column_of[arm]] = weight
    return weights


def _probabilities(weights: FloatArray, *, drawn: IntArray) -> FloatArray:
    """Logged draw probabilities; without any weight the arm drawn was the certain one."""
    positive = np.maximum(weights, 0.0)
    total = positive.sum(axis=1)
    logged = positive / np.maximum(total, 1.0)[:, None]
    certain = np.flatnonzero((total <= 0.0) & (drawn >= 0))
    logged[certain, drawn[certain]] = 1.0
    return np.asarray(logged)


def _check_propensities(log: LogArrays, *, decisions: Sequence[LoggedDecision]) -> None:
    wanted = log.propensity * PPM
    said = np.array([float(d.propensity_ppm) for d in decisions])
    allowed = _PROPENSITY_TOLERANCE_PPM + _PROPENSITY_TOLERANCE_SHARE * wanted
    wrong = np.flatnonzero((np.abs(wanted - said) > allowed) & (log.drawn >= 0))
    if wrong.size:
        at = int(wrong[0])
        raise ConfigError(
            f"request {decisions[at].request_id!r}",
            f"propensity_ppm is {decisions[at].propensity_ppm}, but {decisions[at].drawn_arm!r} "
            f"has {wanted[at]:.0f} ppm of its candidates' weights",
        )
