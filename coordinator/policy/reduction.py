"""The fluid programme made small and well scaled, whatever solves it then."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from coordinator.policy.base import BoolArray, FloatArray
from coordinator.policy.decomposition import Indices, Scaled
from coordinator.policy.programme import AFFORDABLE_MIN, Optimum, Programme, net_score

Core = Callable[[Scaled], tuple[FloatArray, FloatArray] | None]

# Kinds of contexts below this share of the demand are priced instead of planned.
_SHARE_MIN = 1e-15


def solve_reduced(programme: Programme, *, core: Core) -> Optimum | None:
    """Reduce the programme, solve what is left, and return to the programme's units.

    Arms that no row can pay for are left out, contexts that are alike are merged, and rows are
    scaled. It does not judge the result: the caller compares what the weights earn with the value
    at the prices.

    Parameters
    ----------
    core : callable
        ``decompose``, or another solver with its arguments and result.

    Returns
    -------
    Optimum, or None when the core gives up.
    """
    total = float(programme.demand.sum())
    allowed = _affordable(programme, total)
    optimum = _solve_allowed(programme, share=programme.demand / total, allowed=allowed, core=core)
    if optimum is None or allowed is programme.feasible:
        return optimum
    return _price_out(programme, optimum, allowed=allowed)


def _solve_allowed(
    programme: Programme, *, share: FloatArray, allowed: BoolArray, core: Core
) -> Optimum | None:
    """Merge, scale, solve, and return to the programme's contexts and units."""
    able = np.flatnonzero(allowed.any(axis=1))
    if able.size == 0:
        return _nothing(programme)
    values, block = _values(programme, allowed=allowed, contexts=able)
    first, kind = _distinct(values, block)
    size = np.bincount(kind, share[able], minlength=first.size).astype(np.float64)
    wanted = size > _SHARE_MIN
    if not wanted.any():
        return _nothing(programme)
    if wanted.sum() < able.size:
        values, block, size = values[:, first[wanted]], block[first[wanted]], size[wanted]
        able, kind = able[wanted[kind]], (np.cumsum(wanted) - 1)[kind[wanted[kind]]]
    worth = float(np.abs(values[0], where=values[0] > -np.inf, out=np.zeros_like(values[0])).max())
    rows = _limiting_rows(programme, share=size, values=values, block=block)
    packing, covering = len(programme.packing), len(programme.hits)
    coupling = values[1 : 1 + packing + covering].transpose(0, 2, 1).copy()
    coupling[:packing] /= rows.unit[:packing, None, None]
    scaled = Scaled(
        share=size,
        reward=np.ascontiguousarray(values[0].T) / (worth or 1.0),
        coupling=coupling,
        limits=rows.limits,
        floor=programme.floor,
        rho=programme.rho / (worth or 1.0),
        local=rows.local,
        row=rows.row,
    )
    found = core(scaled)
    if found is None:
        return None
    weights, prices = found
    return _expand(programme, weights.T[kind], (worth or 1.0) * prices, planned=able, rows=rows)


def _affordable(programme: Programme, total: float) -> BoolArray:
    """Feasible arms that each row could pay for to a share that matters, shape (X, A)."""
    allowed = programme.feasible
    for cost, budget in zip(programme.packing, programme.budget, strict=True):
        if cost.max(initial=0.0) * AFFORDABLE_MIN * total > budget:
            allowed = allowed & (cost * (AFFORDABLE_MIN * total) <= budget)
    if programme.capacity is not None:
        limit = np.append(np.maximum(programme.capacity.limit, 0.0), np.inf)
        cap = limit[programme.capacity.block][:, None]
        allowed = allowed & (programme.capacity.cost * (AFFORDABLE_MIN * total) <= cap)
    return allowed


def _has_demand(programme: Programme) -> BoolArray:
    """Contexts that count, shape (X,): where such a one has no arm, it is not served."""
    return np.greater(programme.demand, _SHARE_MIN * float(programme.demand.sum()))


def _nothing(programme: Programme) -> Optimum:
    """Nothing can be served: the covering rows fall short and cost what they may."""
    blocks = 0 if programme.capacity is None else programme.capacity.limit.size
    return Optimum(
        weights=np.zeros(programme.reward.shape),
        packing_dual=np.zeros(len(programme.packing)),
        covering_dual=np.where(programme.floor > 0.0, programme.rho, 0.0),
        capacity_dual=np.zeros(blocks),
        planned=_has_demand(programme),
    )


def _values(
    programme: Programme, *, allowed: BoolArray, contexts: Indices
) -> tuple[FloatArray, Indices]:
    """Reward, rows and capacity of the contexts, shape (k, n, A), and their blocks (n,).

    An arm that is not allowed has reward -inf and takes nothing.
    """
    layers = [programme.reward, *programme.packing, *programme.hits]
    block = np.full(contexts.size, -1)
    if programme.capacity is not None:
        layers.append(programme.capacity.cost)
        block = programme.capacity.block[contexts].astype(np.intp)
    values = np.stack(layers)[:, contexts]
    usable = allowed[contexts]
    values = np.where(usable, values, 0.0)
    values[0][~usable] = -np.inf
    if programme.capacity is not None:
        values[-1][block < 0] = 0.0
    return values, block


def _distinct(values: FloatArray, block: Indices) -> tuple[Indices, Indices]:
    """Index of the first of each kind of context, and the kind of every context."""
    count = block.size
    if count == 1:
        return np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.intp)
    # Adding 0 turns -0 into 0, which compares equal but has other bytes.
    rows = np.concatenate([values.transpose(1, 0, 2).reshape(count, -1) + 0.0, block[:, None]], 1)
    data, width = rows.tobytes(), rows.shape[1] * rows.itemsize
    kinds: dict[bytes, int] = {}
    of = [
        kinds.setdefault(data[start : start + width], len(kinds))
        for start in range(0, count * width, width)
    ]
    merged = np.array(of, dtype=np.intp)
    first = np.empty(len(kinds), dtype=np.intp)
    first[merged[::-1]] = np.arange(count - 1, -1, -1)
    return first, merged


@dataclass(frozen=True, eq=False, kw_only=True)
class _LimitingRows:
    """The packing rows and the L rows of blocks that can bind, each in units of its limit.

    ``kept`` (L,) has the latter's indices among the programme's rows; ``unit`` and ``limits``
    have shape (P + L,).
    """

    kept: Indices
    unit: FloatArray
    limits: FloatArray
    local: FloatArray | None
    row: Indices


def _limiting_rows(
    programme: Programme, *, share: FloatArray, values: FloatArray, block: Indices
) -> _LimitingRows:
    """Scale the rows not to exceed, and leave out those of blocks that cannot bind."""
    packing, total = len(programme.packing), float(programme.demand.sum())
    dearest = values[1 : 1 + packing].reshape(packing, -1).max(axis=1, initial=0.0)
    unit = np.minimum(programme.budget / total, dearest)
    unit[unit <= 0.0] = 1.0
    # A limit beyond what all of the demand could take must not bind at all, not even at a tie.
    limits = np.minimum(programme.budget / total / unit, 2.0)
    kept, row, local = np.zeros(0, dtype=np.intp), np.zeros(share.size, dtype=np.intp), None
    if programme.capacity is not None:
        limit = np.maximum(programme.capacity.limit, 0.0) / total
        inside, most = block >= 0, share * values[-1].max(axis=1)
        kept = np.flatnonzero(
            np.bincount(block[inside], most[inside], minlength=limit.size) > limit
        )
        place = np.full(limit.size + 1, kept.size)
        place[kept] = np.arange(kept.size)
        row = place[block]
        if kept.size:
            local = values[-1].T / np.append(limit[kept], np.inf)[row]
        unit = np.concatenate([unit, limit[kept]])
        limits = np.concatenate([limits, np.ones(kept.size)])
    return _LimitingRows(kept=kept, unit=unit, limits=limits, local=local, row=row)


def _expand(
    programme: Programme,
    weights: FloatArray,
    prices: FloatArray,
    *,
    planned: Indices,
    rows: _LimitingRows,
) -> Optimum:
    """Return to the programme's contexts and units; ``weights`` is for the planned contexts."""
    packing = len(programme.packing)
    every = np.zeros(programme.reward.shape)
    every[planned] = weights
    known = _has_demand(programme)
    known[planned] = True
    limit_dual = np.maximum(prices[: rows.unit.size], 0.0) / rows.unit
    capacity_dual = np.zeros(0 if programme.capacity is None else programme.capacity.limit.size)
    capacity_dual[rows.kept] = limit_dual[packing:]
    return Optimum(
        weights=every,
        packing_dual=limit_dual[:packing],
        covering_dual=np.clip(-prices[rows.unit.size :], 0.0, programme.rho),
        capacity_dual=capacity_dual,
        planned=known,
    )


def _price_out(programme: Programme, optimum: Optimum, *, allowed: BoolArray) -> Optimum:
    """Raise prices until no arm that was left out would be chosen.

    The bound rises by less than the share of the demand that such an arm could serve.
    """
    left_out = programme.feasible & ~allowed
    total = float(programme.demand.sum())
    packing_dual, capacity_dual = optimum.packing_dual.copy(), optimum.capacity_dual.copy()
    score = net_score(programme, optimum)
    best = np.where(allowed, score, 0.0).max(axis=1, initial=0.0)
    excess = np.where(left_out, score - best[:, None], 0.0)
    for index, (cost, budget) in enumerate(zip(programme.packing, programme.budget, strict=True)):
        rise = np.where(cost * (AFFORDABLE_MIN * total) > budget, excess, 0.0)
        arms = rise > 0.0
        step = float((rise[arms] / cost[arms]).max(initial=0.0))
        packing_dual[index] += step
        excess = excess - step * cost
    capacity = programme.capacity
    if capacity is not None:
        contexts, arms_ = np.nonzero(
            (excess > 0.0) & (capacity.cost > 0.0) & (capacity.block >= 0)[:, None]
        )
        step_of = excess[contexts, arms_] / capacity.cost[contexts, arms_]
        raised = np.zeros(capacity_dual.size)
        np.maximum.at(raised, capacity.block[contexts], step_of)
        capacity_dual += raised
    return replace(optimum, packing_dual=packing_dual, capacity_dual=capacity_dual)
