"""What is left of every shared row for the demand that the policy may still place."""

from dataclasses import dataclass

import numpy as np

from coordinator.policy.base import (
    Capacity,
    Constraints,
    Estimates,
    FloatArray,
    Forecast,
    Remaining,
)
from coordinator.policy.fluid import CapacityRows


@dataclass(frozen=True, eq=False, kw_only=True)
class RowsLeft:
    """The rows of one slot's programme.

    Parameters
    ----------
    demand : ndarray, shape (X,)
        Requests to place until the window ends, >= 0.
    packing : ndarray, shape (P,)
        Left of each packing row.
    share : ndarray, shape (C,)
        Credited share that the demand to place must reach; above 1 it cannot.
    dropped : ndarray, shape (C,)
        Past misses that are given up, in requests.
    capacity : CapacityRows or None
    """

    demand: FloatArray
    packing: FloatArray
    share: FloatArray
    dropped: FloatArray
    capacity: CapacityRows | None


def rows_left(
    estimates: Estimates, *, constraints: Constraints, forecast: Forecast, remaining: Remaining
) -> RowsLeft:
    """Take past debts and forced demand off every row.

    Forced demand enters at mean estimates: nothing is gained from being optimistic about what
    cannot be chosen.
    """
    demand = np.maximum(forecast.mean, 0.0)
    forced = None
    if forecast.forced is not None and forecast.forced.any():
        forced = np.maximum(forecast.forced, 0.0)
    packing = remaining.packing
    if forced is not None:
        packing = packing - np.array([(forced * row.mean).sum() for row in estimates.packing])
    share, dropped = _covering_share(
        estimates, constraints=constraints, demand=demand, forced=forced, remaining=remaining
    )
    capacity = None
    if constraints.capacity is not None:
        capacity = _capacity_rows(
            constraints.capacity,
            demand=demand,
            forced=forced,
            next_slot=forecast.next_slot,
            slots_left=max(remaining.slots_left, 1),
        )
    return RowsLeft(demand=demand, packing=packing, share=share, dropped=dropped, capacity=capacity)


def _covering_share(
    estimates: Estimates,
    *,
    constraints: Constraints,
    demand: FloatArray,
    forced: FloatArray | None,
    remaining: Remaining,
) -> tuple[FloatArray, FloatArray]:
    """Return the share that the demand to place must reach, and the debt that is given up.

    The floor on the whole window is the floor on what comes plus the debt (or minus the credit)
    of what was; debt beyond ``slack_max`` of what comes is dropped.
    """
    placed = float(demand.sum())
    coming = placed if forced is None else placed + float(forced.sum())
    debt = constraints.floor * remaining.demand_so_far.sum() - remaining.covering_hits
    kept = np.minimum(debt, constraints.slack_max * coming)
    wanted = constraints.floor * coming + kept
    if forced is not None:
        wanted = wanted - np.array([(forced * row.mean).sum() for row in estimates.covering])
    share = wanted / placed if placed > 0.0 else constraints.floor
    return share, np.maximum(debt - kept, 0.0)


def _capacity_rows(
    capacity: Capacity,
    *,
    demand: FloatArray,
    forced: FloatArray | None,
    next_slot: FloatArray,
    slots_left: int,
) -> CapacityRows:
    """Worker-seconds until the window ends, less those of forced demand.

    A class whose next slot is busier than its average is held to what that slot can do: the
    weights are used in it first, and a queue that it leaves would miss deadlines later.
    """
    classes = capacity.per_slot_s.size
    block = capacity.device_class
    cost = np.where(capacity.local, np.maximum(capacity.service_s, 0.0), 0.0)
    coming = demand if forced is None else demand + forced.sum(axis=1)
    average = np.bincount(block, coming, minlength=classes) / slots_left
    nearest = np.bincount(block, np.maximum(next_slot, 0.0), minlength=classes)
    calm = np.where(nearest > average, average / np.maximum(nearest, 1e-12), 1.0)
    limit = np.maximum(capacity.per_slot_s, 0.0) * slots_left * calm
    if forced is not None:
        limit = limit - np.bincount(block, (forced * cost).sum(axis=1), minlength=classes)
    # No class can use more than all its requests on its slowest arm: an infinite limit is that.
    most = np.bincount(block, demand * cost.max(axis=1, initial=0.0), minlength=classes) + 1.0
    return CapacityRows(block=block, cost=cost, limit=np.clip(limit, 0.0, most))
