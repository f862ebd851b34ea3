"""Off-policy evaluation of one target policy on one log: estimates, overlap, warnings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from coordinator.lab.log_arrays import Grading, LogArrays, clusters_of, grading_of
from coordinator.lab.off_policy import (
    Estimate,
    Logged,
    doubly_robust,
    inverse_propensity,
    self_normalised,
    shrunk_means,
)
from coordinator.lab.target_policy import Target
from coordinator.policy.base import BoolArray, FloatArray, IntArray
from shared.decision.money import NANOS_PER_DOLLAR
from shared.errors import ConfigError

OVERLAP_MIN = 0.01
EFFECTIVE_LOW = 30.0
WEIGHT_CAP_NOTED = 100.0
WEIGHT_MEAN_TOLERANCE = 0.2


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One quantity under the target policy, by three estimators, and as it was logged.

    Attributes
    ----------
    difference : Estimate
        Target less logged, request by request: narrower than the two intervals suggest.
    effective_sample_size : float
        Equally weighted requests that would tell as much.
    weight_mean : float
        Of the weights that came; near the evaluation's `support` unless rare, heavy draws decide.
    """

    dr: Estimate
    snips: Estimate
    ips: Estimate
    logged: Estimate
    difference: Estimate
    effective_sample_size: float
    weight_mean: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a target policy would have done on a log.

    Attributes
    ----------
    reward_mean, sla_share : Measure
        Per admitted request.
    spend_usd : Measure
        Of all requests together.
    overlap : float
        Mean over requests of the probability that both policies share, sum_a min(pi, p).
    support : float
        Share of the target's probability on arms that the logger could have drawn.
    weight_max : float
        Largest pi / p.
    """

    requests: int
    admitted: int
    graded: int
    grades_missing: float
    clusters: int
    overlap: float
    support: float
    weight_max: float
    reward_mean: Measure
    spend_usd: Measure
    sla_share: Measure
    warnings: tuple[str, ...]


def evaluate(
    log: LogArrays, *, target: Target, fold: IntArray, cluster: IntArray | None = None
) -> Evaluation:
    """Estimate reward, spend and SLA share of a target policy.

    Parameters
    ----------
    target : Target
        Its entry f MUST NOT have been planned on the requests of fold f; one entry serves all
        folds.
    fold, cluster : ndarray of int, shape (n,)
        For cross-fitting, and for what may be correlated (default: `clusters_of` by `auto`).

    Raises
    ------
    ConfigError
        When the target shares less than `OVERLAP_MIN` of its probability with the logger, or no
        request that it would have made has a grade.
    """
    if cluster is None:
        cluster = clusters_of(log, by="auto")
    planned = fold if len(target.weights) > 1 else np.zeros_like(fold)
    wanted = target.probabilities(log, fold=planned)
    drew = log.drawn >= 0
    overlap, support = _overlap(log, wanted=wanted)
    weight = np.where(
        drew, wanted[np.arange(log.requests), np.maximum(log.drawn, 0)] / log.propensity, 1.0
    )
    grading = grading_of(log)
    everything, always = np.ones(log.requests, dtype=np.bool_), np.ones(log.requests)
    logged = np.where(log.logged > 0.0, log.logged, np.inf)
    view = _View(
        log=log,
        wanted=wanted,
        weight=weight,
        square=np.where(drew, (wanted**2 / logged).sum(axis=1), 1.0),
        possible=np.where(log.logged > 0.0, wanted, 0.0).sum(axis=1),
        fold=fold,
        cluster=cluster,
    )
    reward = view.measure(
        log.reward, known=log.graded, inclusion=grading.inclusion, counted=log.admitted
    )
    hits = view.measure(log.hit, known=everything, inclusion=always, counted=log.admitted)
    cost = view.measure(log.cost_nanos, known=everything, inclusion=always, counted=everything)
    warnings = _warnings(
        log, grading=grading, support=support, weight_max=float(weight.max()), reward=reward
    )
    return Evaluation(
        requests=log.requests,
        admitted=int(log.admitted.sum()),
        graded=int((log.graded & log.admitted).sum()),
        grades_missing=grading.missing,
        clusters=int(np.unique(cluster).size),
        overlap=overlap,
        support=support,
        weight_max=float(weight.max()),
        reward_mean=_cut(reward, low=0.0, high=1.0),
        spend_usd=_cut(_scaled(cost, log.requests / NANOS_PER_DOLLAR), low=0.0, high=np.inf),
        sla_share=_cut(hits, low=0.0, high=1.0),
        warnings=warnings,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _View:
    """A log as the target policy sees it.

    Parameters
    ----------
    wanted : ndarray, shape (n, A)
        The target's draw probabilities pi.
    weight, square, possible : ndarray, shape (n,)
        pi / p of the draw, the sum of pi^2 / p, and the sum of pi over arms with p > 0.
    """

    log: LogArrays
    wanted: FloatArray
    weight: FloatArray
    square: FloatArray
    possible: FloatArray
    fold: IntArray
    cluster: IntArray

    def measure(
        self, value: FloatArray, *, known: BoolArray, inclusion: FloatArray, counted: BoolArray
    ) -> Measure:
        """Estimate the mean of a value over the requests that count."""
        log = self.log
        shape = (int(self.fold.max()) + 1, len(log.contexts), len(log.arms))
        model = shrunk_means(
            value,
            known=known & counted,
            context=log.context,
            arm=log.drawn,
            fold=self.fold,
            shape=shape,
        )[self.fold, log.context]
        drew = log.drawn >= 0
        of_drawn = model[np.arange(log.requests), np.maximum(log.drawn, 0)]
        # Where there was no choice every policy gets what was logged.
        model_drawn = np.where(drew, of_drawn, value)
        model_target = np.where(drew, (self.wanted * model).sum(axis=1), value)
        logged = Logged(
            weight=self.weight[counted],
            known=known[counted],
            inclusion=inclusion[counted],
            value=value[counted],
            model_drawn=model_drawn[counted],
            model_target=model_target[counted],
            cluster=self.cluster[counted],
            expected_square=self.square[counted] / inclusion[counted],
        )
        as_logged = replace(
            logged,
            weight=np.ones(int(counted.sum())),
            model_target=logged.model_drawn,
            expected_square=1.0 / logged.inclusion,
        )
        # Request by request: where both policies agree, their difference is known to be 0.
        apart = np.where(drew, self.square - 2.0 * self.possible + 1.0, 0.0)
        contrast = replace(
            logged,
            weight=logged.weight - 1.0,
            model_target=logged.model_target - logged.model_drawn,
            expected_square=np.maximum(apart[counted], 0.0) / logged.inclusion,
        )
        if logged.effective_sample_size <= 0.0:
            raise ConfigError(
                "--policy", "no request that this policy would have sent so has a grade"
            )
        return Measure(
            dr=doubly_robust(logged),
            snips=self_normalised(logged),
            ips=inverse_propensity(logged),
            logged=doubly_robust(as_logged),
            difference=doubly_robust(contrast),
            effective_sample_size=logged.effective_sample_size,
            weight_mean=float(logged.evidence.mean()),
        )


def _overlap(log: LogArrays, *, wanted: FloatArray) -> tuple[float, float]:
    """Shared probability, and the target's share on arms that could have been drawn.

    Raises
    ------
    ConfigError
        When the shared probability is below `OVERLAP_MIN`.
    """
    drew = log.drawn >= 0
    overlap = float(np.minimum(wanted, log.logged)[drew].sum(axis=1).mean())
    support = float(np.where(log.logged > 0.0, wanted, 0.0)[drew].sum(axis=1).mean())
    if overlap < OVERLAP_MIN:
        raise ConfigError(
            "--policy",
            f"shares only {100 * overlap:.2g} % of its choices with the log, less than "
            f"{100 * OVERLAP_MIN:.0f} %: nothing can be said. Collect a log with a larger "
            "epsilon_ppm, or ask about a policy nearer to the logged one",
        )
    return overlap, support


def _warnings(
    log: LogArrays, *, grading: Grading, support: float, weight_max: float, reward: Measure
) -> tuple[str, ...]:
    found = []
    if support < 0.999:
        found.append(
            f"{100 * (1 - support):.1f} % of the policy's choices were never possible in the log; "
            "dr fills them in from other contexts, ips counts them as 0, snips leaves them out"
        )
    if reward.effective_sample_size < EFFECTIVE_LOW:
        found.append(
            f"the effective sample is {reward.effective_sample_size:.0f} graded requests: "
            "intervals are rough below 30"
        )
    seen = reward.weight_mean / max(support, OVERLAP_MIN)
    if abs(seen - 1.0) > WEIGHT_MEAN_TOLERANCE:
        found.append(
            f"the weights of graded requests add up to {100 * seen:.0f} % of what is expected: "
            "rare draws decide, and ips is off by as much; read dr"
        )
    if weight_max > WEIGHT_CAP_NOTED:
        found.append(f"the largest weight is {weight_max:.0f}: single requests matter")
    if grading.missing > 0.0:
        found.append(
            f"{100 * grading.missing:.1f} % of the grades that were due did not come; they are "
            "taken to be missing at random within each context and arm"
        )
    aside = int(log.observed.sum())
    if aside:
        found.append(
            f"{aside} decisions were only observed while a fixed arm answered: of other arms they "
            "tell nothing"
        )
    aborted = log.requests - int(log.admitted.sum())
    if aborted:
        found.append(f"{aborted} requests that their clients aborted count in the spend only")
    return tuple(found)


def _scaled(measure: Measure, factor: float) -> Measure:
    return _mapped(measure, {name: each.scaled(factor) for name, each in _parts(measure).items()})


def _cut(measure: Measure, *, low: float, high: float) -> Measure:
    """Intervals cut to what is possible; a difference has twice the room."""
    parts = {name: each.within(low, high) for name, each in _parts(measure).items()}
    parts["difference"] = measure.difference.within(low - high, high - low)
    return _mapped(measure, parts)


def _parts(measure: Measure) -> dict[str, Estimate]:
    return {name: getattr(measure, name) for name in ("dr", "snips", "ips", "logged", "difference")}


def _mapped(measure: Measure, parts: Mapping[str, Estimate]) -> Measure:
    return Measure(
        **parts,
        effective_sample_size=measure.effective_sample_size,
        weight_mean=measure.weight_mean,
    )
