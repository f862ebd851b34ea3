"""The fluid programme of one context: a tableau of few rows in plain Python.

A simulation solves it once per slot and policy. At this size a call of an array library costs more
than the arithmetic in it.
"""

from math import isfinite
from typing import NamedTuple

import numpy as np

from coordinator.policy.base import BoolArray, FloatArray
from coordinator.policy.programme import AFFORDABLE_MIN, GAP_MAX, FluidSolution

_GAIN_MIN = 1e-13
# Entries below this are rounding, once columns are divided by their largest.
_PIVOT_MIN = 1e-11
# A handful of pivots is usual. Cycling, and whatever else takes long, is left to the caller.
_PIVOTS_MAX = 100

Row = list[float]


def solve_single(
    demand: float,
    *,
    reward: FloatArray,
    packing: tuple[FloatArray, ...],
    budget: FloatArray,
    hits: tuple[FloatArray, ...],
    floor: FloatArray,
    rho: FloatArray,
    feasible: BoolArray,
) -> FluidSolution | None:
    """Return the optimum of a programme with one context, or None when it is not certain.

    It is not when a value is not finite, an arm is beyond the budget, or the value of the weights
    and the bound at the prices differ. Arguments as for ``solve_fluid_lp``.

    Parameters
    ----------
    demand : float
        Requests to come, > 0.
    """
    arms = feasible[0].nonzero()[0].tolist()
    rewards = reward[0].tolist()
    rows = _Rows(
        gains=[rewards[arm] for arm in arms],
        used=[_taken(cost, arms) for cost in packing],
        limits=[max(limit, 0.0) / demand for limit in budget.tolist()],
        earned=[_taken(credit, arms) for credit in hits],
        floors=[max(share, 0.0) for share in floor.tolist()],
        rhos=[max(price, 0.0) for price in rho.tolist()],
    )
    known = sum(rewards) + demand + sum(rows.limits) + sum(rows.floors) + sum(rows.rhos)
    known += sum(map(sum, rows.used)) + sum(map(sum, rows.earned))
    found = _solve(rows) if arms and isfinite(known) else None
    if found is None:
        return None
    weights, priced = found
    row = [0.0] * len(rewards)
    for arm, weight in zip(arms, weights, strict=True):
        row[arm] = weight
    return FluidSolution(
        weights=np.array([row]),
        objective=demand * _value(rows, weights, priced),
        packing_dual=np.array(priced.packing),
        covering_dual=np.array(priced.covering),
        slack=np.array([demand * share for share in priced.missing]),
    )


class _Rows(NamedTuple):
    """The programme per request, for the feasible arms alone."""

    gains: Row
    used: list[Row]
    limits: Row
    earned: list[Row]
    floors: Row
    rhos: Row


class _Priced(NamedTuple):
    """Prices of the rows, and what the covering rows miss per request."""

    packing: Row
    covering: Row
    missing: Row


def _solve(rows: _Rows) -> tuple[Row, _Priced] | None:
    """Return certified weights and what goes with them."""
    units = []
    for costs, limit in zip(rows.used, rows.limits, strict=True):
        dearest = max(costs)
        if dearest * AFFORDABLE_MIN > limit or min(costs) < 0.0:
            return None
        units.append(min(limit, dearest) or 1.0)
    worth = max(abs(min(rows.gains)), abs(max(rows.gains))) or 1.0
    tableau = _Tableau(
        _Rows(
            gains=[gain / worth for gain in rows.gains],
            used=[[c / unit for c in row] for row, unit in zip(rows.used, units, strict=True)],
            # Beyond what all requests could take it must not bind at all, not even at a tie.
            limits=[min(x / unit, 2.0) for x, unit in zip(rows.limits, units, strict=True)],
            earned=rows.earned,
            floors=rows.floors,
            rhos=[price / worth for price in rows.rhos],
        )
    )
    if not tableau.maximise():
        return None
    weights, prices = tableau.solution()
    weights = _within(weights, rows)
    priced = _Priced(
        packing=[max(worth * p / unit, 0.0) for p, unit in zip(prices, units, strict=False)],
        covering=[
            min(max(-worth * price, 0.0), rho)
            for price, rho in zip(prices[len(units) :], rows.rhos, strict=True)
        ],
        missing=[
            max(least - _dot(row, weights), 0.0)
            for least, row in zip(rows.floors, rows.earned, strict=True)
        ],
    )
    bound = _bound(rows, priced)
    if bound - _value(rows, weights, priced) > GAP_MAX * max(worth, abs(bound)):
        return None
    return weights, priced


def _within(weights: Row, rows: _Rows) -> Row:
    """Scale the weights that a row pays for down to its limit, which rounding may exceed."""
    for costs, limit in zip(rows.used, rows.limits, strict=True):
        spend = _dot(costs, weights)
        if spend > limit:
            factor = limit / spend
            weights = [
                w * factor if cost > 0.0 else w for w, cost in zip(weights, costs, strict=True)
            ]
    return weights


def _value(rows: _Rows, weights: Row, priced: _Priced) -> float:
    """What the weights are worth per request."""
    return _dot(rows.gains, weights) - _dot(rows.rhos, priced.missing)


def _bound(rows: _Rows, priced: _Priced) -> float:
    """What no weights can exceed: the value at the prices, per request."""
    gains = rows.gains
    for costs, price in zip(rows.used, priced.packing, strict=True):
        gains = [gain - price * cost for gain, cost in zip(gains, costs, strict=True)]
    for credit, price in zip(rows.earned, priced.covering, strict=True):
        gains = [gain + price * entry for gain, entry in zip(gains, credit, strict=True)]
    best = max(0.0, *gains)
    return best + _dot(priced.packing, rows.limits) - _dot(priced.covering, rows.floors)


def _taken(layer: FloatArray, arms: list[int]) -> Row:
    """The layer's values of the arms."""
    values = layer[0].tolist()
    return [values[arm] for arm in arms]


def _dot(left: Row, right: Row) -> float:
    return sum([a * b for a, b in zip(left, right, strict=True)])


class _Tableau:
    """The simplex tableau of one context.

    Rows: the weights' sum, the packing rows, the covering rows. Columns: the arms, the surplus of
    each covering row, a unit column per row (slack, or shortage at ``-rho``), the right side. The
    last row has the gain of each column.
    """

    def __init__(self, rows: _Rows) -> None:
        covering, count = len(rows.floors), 1 + len(rows.limits) + len(rows.floors)
        self._arms, self._unit = len(rows.gains), len(rows.gains) + covering
        self._rows: list[Row] = []
        nothing, units = [0.0] * covering, [0.0] * count
        rights = [1.0, *rows.limits, *rows.floors]
        for place, values in enumerate([[1.0] * self._arms, *rows.used, *rows.earned]):
            row = [*values, *nothing, *units, rights[place]]
            row[self._unit + place] = 1.0
            self._rows.append(row)
        last = [*rows.gains, *nothing, *units, 0.0]
        for index, rho in enumerate(rows.rhos):
            row = self._rows[count - covering + index]
            row[self._arms + index] = -1.0
            # The shortage is basic at first: its price is in every gain, its own gain is 0.
            last = [gain + rho * entry for gain, entry in zip(last, row, strict=True)]
            last[self._unit + count - covering + index] = 0.0
        self._gain = last
        self._largest = [max(map(abs, column)) for column in zip(*self._rows, strict=True)]
        self._rhos = rows.rhos
        self._basis = list(range(self._unit, self._unit + count))

    def maximise(self) -> bool:
        """Pivot until no column gains; False when that takes too long."""
        for _ in range(_PIVOTS_MAX):
            best = max(self._gain[:-1])
            if best <= _GAIN_MIN:
                return True
            if not self._pivot(self._gain.index(best)):
                return False
        return False

    def _pivot(self, entering: int) -> bool:
        """Exchange one basic column; among tied rows the one of largest pivot leaves."""
        leaving, step, size = -1, 0.0, 0.0
        least = _PIVOT_MIN * self._largest[entering]
        for place, row in enumerate(self._rows):
            entry = row[entering]
            scaled = entry * self._largest[self._basis[place]]
            if scaled > least:
                ratio = max(row[-1], 0.0) / entry
                if leaving < 0 or ratio < step or (ratio == step and scaled > size):
                    leaving, step, size = place, ratio, scaled
        if leaving < 0:
            return False
        entry = self._rows[leaving][entering]
        pivot = [value / entry for value in self._rows[leaving]]
        for place, row in enumerate(self._rows):
            factor = row[entering]
            if place != leaving and factor != 0.0:
                self._rows[place] = [a - factor * b for a, b in zip(row, pivot, strict=True)]
        self._rows[leaving] = pivot
        factor = self._gain[entering]
        self._gain = [a - factor * b for a, b in zip(self._gain, pivot, strict=True)]
        self._gain[entering] = 0.0
        self._basis[leaving] = entering
        return True

    def solution(self) -> tuple[Row, Row]:
        """The arms' weights, and the prices of the packing and covering rows."""
        weights = [0.0] * self._arms
        for row, column in zip(self._rows, self._basis, strict=True):
            if column < self._arms:
                weights[column] = min(max(row[-1], 0.0), 1.0)
        total = sum(weights)
        if total > 1.0:
            weights = [weight / total for weight in weights]
        prices = [-gain for gain in self._gain[self._unit + 1 : -1]]
        first = len(prices) - len(self._rhos)
        for index, rho in enumerate(self._rhos):
            prices[first + index] -= rho
        return weights, prices
