"""How much a plan may explore: the floor under propensities, and the caps on the unknown."""

import numpy as np

from coordinator.policy.base import (
    MONEY_ROW,
    BoolArray,
    Estimates,
    FloatArray,
    pick_best,
)

_PPM = 1_000_000


def floors_and_reserve(
    estimates: Estimates,
    *,
    feasible: BoolArray,
    epsilon_ppm: int,
    explore_share: float,
    demand: FloatArray,
    packing: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Spread epsilon over each row's candidates; costly arms only as far as explore_share pays.

    Money comes last, so that what is set aside elsewhere does not depend on it: with more money
    the programme's optimum cannot fall.

    Parameters
    ----------
    estimates : Estimates
    feasible : ndarray of bool, shape (X, A)
        Arms that may serve in this slot.
    epsilon_ppm : int
    explore_share : float
    demand : ndarray, shape (X,)
    packing : ndarray, shape (P,)
        Left of each packing row.

    Returns
    -------
    floors : ndarray, shape (X, A)
    reserve : ndarray, shape (P,)
        To set aside for them.
    """
    candidates = feasible.sum(axis=1, keepdims=True)
    epsilon = epsilon_ppm / _PPM
    floors = np.where(feasible & (candidates > 1), epsilon / np.maximum(candidates, 1), 0.0)
    reserve = np.zeros(len(estimates.packing))
    for index in reversed(range(len(estimates.packing))):
        row = estimates.packing[index]
        spend = float(demand @ (floors * row.mean).sum(axis=1))
        allowance = explore_share * max(float(packing[index]), 0.0)
        if spend > allowance:
            floors = np.where(row.mean > 0.0, floors * (allowance / spend), floors)
        reserve[index] = float(demand @ (floors * row.lower).sum(axis=1))
    return floors, reserve


def affordable_floors(
    floors: FloatArray,
    *,
    gap: FloatArray,
    demand: FloatArray,
    band: float,
    loss_max: float,
) -> FloatArray:
    """Keep the floor of arms that are nearly as good; scale that of the others to a loss.

    Parameters
    ----------
    floors : ndarray, shape (X, A)
    gap : ndarray, shape (X, A)
        What a request loses on the arm, at mean estimates and the plan's prices.
    demand : ndarray, shape (X,)
    band : float
        Arms with a smaller gap are within the band of indifference.
    loss_max : float
        Largest total loss of the others.
    """
    outside = gap > band
    loss = float(demand @ np.where(outside, floors * gap, 0.0).sum(axis=1))
    if loss <= loss_max:
        return floors
    return np.where(outside, floors * (max(loss_max, 0.0) / loss), floors)


def cap_unexplored(
    weights: FloatArray,
    *,
    estimates: Estimates,
    feasible: BoolArray,
    next_slot: FloatArray,
    explore_requests: int,
) -> FloatArray:
    """Hold each arm to at most max(explore_requests, booked) requests in the next slot."""
    booked = estimates.outcomes
    cap = np.maximum(explore_requests, booked) / np.maximum(next_slot, 1e-9)[:, None]
    return _move(weights, ceiling=cap, estimates=estimates, feasible=feasible)


def cap_spend(
    weights: FloatArray,
    *,
    estimates: Estimates,
    feasible: BoolArray,
    gap: FloatArray,
    next_slot: FloatArray,
    explore_requests: int,
    allowance: float,
) -> tuple[FloatArray, float]:
    """Hold the money of one slot that only optimism justifies to the allowance.

    A weight is exploration when the arm is unexplored in the context and, at the programme's
    prices and at mean estimates, another arm is better.

    Returns
    -------
    weights : ndarray, shape (X, A)
    spend : float
        Expected spend of the next slot on exploration, in nano-dollars.
    """
    cost = estimates.packing[MONEY_ROW].mean
    exploring = (estimates.outcomes < explore_requests) & (gap > 0.0) & (cost > 0.0)
    spend = float(next_slot @ np.where(exploring, weights * cost, 0.0).sum(axis=1))
    if spend <= allowance:
        return weights, spend
    ceiling = np.where(exploring, weights * (allowance / spend), np.inf)
    return _move(weights, ceiling=ceiling, estimates=estimates, feasible=feasible), allowance


def _move(
    weights: FloatArray, *, ceiling: FloatArray, estimates: Estimates, feasible: BoolArray
) -> FloatArray:
    """Cut weights to their ceiling; the excess goes to the row's best known cheap arm.

    That is the free arm with most booked outcomes, or without a free arm the best known one that
    costs no more than any arm that was cut. If it is itself above its ceiling, it keeps the
    excess: somebody has to answer.
    """
    excess = np.maximum(weights - ceiling, 0.0)
    if not excess.any():
        return weights
    cost = estimates.packing[MONEY_ROW].lower
    limit = np.where(excess > 0.0, cost, np.inf).min(axis=1, keepdims=True)
    free = estimates.free & feasible
    allowed = np.where(free.any(axis=1, keepdims=True), free, feasible & (cost <= limit))
    # Equally well known arms: the one that is used already, then the one of higher mean.
    rank = estimates.outcomes + 0.5 * weights + 0.25 * np.clip(estimates.reward.mean, 0.0, 1.0)
    receiver = pick_best(rank, allowed=allowed)
    served = receiver.any(axis=1, keepdims=True)
    excess = np.where(served, excess, 0.0)
    moved: FloatArray = weights - excess + receiver * excess.sum(axis=1, keepdims=True)
    return moved
