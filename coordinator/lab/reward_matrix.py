"""A recorded matrix of rewards and costs, one row per prompt and arm, and what was best in it.

The file is in long format. Money is read as exact decimals and kept in whole nano-dollars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from coordinator.lab.csv_rows import read_columns
from coordinator.policy.base import BoolArray, FloatArray, IntArray
from coordinator.policy.fluid import solve_fluid_lp
from shared.decision.money import NANOS_PER_DOLLAR
from shared.errors import ConfigError

OTHER_CLASS: Final = "other"
_ROLES: Final = ("prompt_id", "task_class", "arm", "reward", "cost_usd", "latency_ms")
_COST_USD_MAX: Final = 1_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class RewardMatrix:
    """What every arm earned and cost on every prompt.

    Parameters
    ----------
    prompts : tuple of str, length N
    classes : tuple of str, length X
    arms : tuple of str, length A
    class_of : ndarray of int, shape (N,)
        Index of each prompt's task class.
    reward : ndarray, shape (N, A)
        In [0, 1].
    cost_nanos : ndarray of int, shape (N, A)
        Nano-dollars.
    hit : ndarray of bool, shape (N, A), optional
        Whether the answer came within the deadline; None when the file has no latencies.
    """

    prompts: tuple[str, ...]
    classes: tuple[str, ...]
    arms: tuple[str, ...]
    class_of: IntArray
    reward: FloatArray
    cost_nanos: IntArray
    hit: BoolArray | None = None


@dataclass(frozen=True, kw_only=True)
class Hindsight:
    """Mean reward per prompt of the best choices that the budget pays for.

    Each is the optimum of the fluid programme with every cost and reward known: no rule that
    decides by as much context can expect more.

    Parameters
    ----------
    mixture : float
        One mixture of arms for all prompts.
    per_class : float
        One mixture for each task class.
    per_prompt : float
        A choice of its own for every prompt.
    """

    mixture: float
    per_class: float
    per_prompt: float


class _Row(NamedTuple):
    task_class: str
    reward: float
    cost_nanos: int
    latency_ms: float | None


def read_matrix(
    path: Path,
    *,
    columns: Sequence[str],
    class_size_min: int = 1,
    deadline_ms: float | None = None,
) -> RewardMatrix:
    """Read a CSV file, gzipped or not, with one row per prompt and arm.

    Parameters
    ----------
    columns : sequence of str, length 5 or 6
        The file's own names for prompt_id, task_class, arm, reward, cost_usd and, if it has
        one, latency_ms.
    class_size_min : int
        Classes with fewer prompts are merged into ``other``.
    deadline_ms : float, optional
        Latest answer that counts as in time; needs the latency column.

    Raises
    ------
    ConfigError
        Naming the file and the row, column or value at fault.
    """
    if len(columns) not in (len(_ROLES) - 1, len(_ROLES)):
        raise ConfigError("--columns", f"{','.join(columns)} names {len(columns)}, expected 5 or 6")
    if len(set(columns)) < len(columns):
        raise ConfigError("--columns", f"{','.join(columns)} names a column twice")
    if deadline_ms is not None and len(columns) < len(_ROLES):
        raise ConfigError("--deadline-ms", "needs a sixth name in --columns: the latency in ms")
    cells = _read_cells(path, columns=columns)
    prompts = tuple(dict.fromkeys(prompt for prompt, _ in cells))
    arms = tuple(sorted({arm for _, arm in cells}))
    shape = (len(prompts), len(arms))
    reward, cost = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    hit = np.zeros(shape, dtype=np.bool_)
    names = []
    for row, prompt in enumerate(prompts):
        found = {cells[prompt, arm].task_class for arm in arms if (prompt, arm) in cells}
        if len(found) > 1:
            raise ConfigError(str(path), f"prompt {prompt} has several classes: {sorted(found)}")
        names.append(found.pop())
        for column, arm in enumerate(arms):
            cell = cells.get((prompt, arm))
            if cell is None:
                raise ConfigError(str(path), f"prompt {prompt} has no row for arm {arm}")
            reward[row, column], cost[row, column] = cell.reward, cell.cost_nanos
            if deadline_ms is not None and cell.latency_ms is not None:
                hit[row, column] = cell.latency_ms <= deadline_ms
    sizes = Counter(names)
    names = [name if sizes[name] >= class_size_min else OTHER_CLASS for name in names]
    classes = tuple(sorted(set(names)))
    at = {name: index for index, name in enumerate(classes)}
    return RewardMatrix(
        prompts=prompts,
        classes=classes,
        arms=arms,
        class_of=np.array([at[name] for name in names], dtype=np.int64),
        reward=reward,
        cost_nanos=cost,
        hit=None if deadline_ms is None else hit,
    )


def best_in_hindsight(
    matrix: RewardMatrix, *, budget_nanos: int, sla_floor: float = 0.0, sla_rho: float = 1.0
) -> Hindsight:
    """Solve the fluid programme with everything known, at three levels of detail.

    Parameters
    ----------
    matrix : RewardMatrix
    budget_nanos : int
        For all prompts together.
    sla_floor, sla_rho : float
        Share of the prompts to be answered in time, and the reward given up per prompt below it.
    """
    count = len(matrix.prompts)

    def optimum(group_of: IntArray) -> float:
        """Mean reward when prompts of one group must be treated alike."""
        size = np.bincount(group_of).astype(np.float64)

        def mean(values: FloatArray) -> FloatArray:
            sums = np.zeros((size.size, len(matrix.arms)))
            np.add.at(sums, group_of, values)
            return sums / size[:, None]

        hits = () if matrix.hit is None else (mean(matrix.hit.astype(np.float64)),)
        reward = mean(matrix.reward)
        solution = solve_fluid_lp(
            size,
            reward=reward,
            packing=(mean(matrix.cost_nanos.astype(np.float64)),),
            budget=np.array([float(budget_nanos)]),
            hits=hits,
            floor=np.full(len(hits), sla_floor),
            rho=np.full(len(hits), sla_rho),
            feasible=np.ones_like(reward, dtype=np.bool_),
        )
        return float(size @ (solution.weights * reward).sum(axis=1)) / count

    return Hindsight(
        mixture=optimum(np.zeros(count, dtype=np.int64)),
        per_class=optimum(matrix.class_of),
        per_prompt=optimum(np.arange(count)),
    )


def _read_cells(path: Path, *, columns: Sequence[str]) -> dict[tuple[str, str], _Row]:
    cells: dict[tuple[str, str], _Row] = {}
    for place, values in read_columns(path, columns=columns):
        prompt, task_class, arm, reward_text, cost_text = values[:5]
        if (prompt, arm) in cells:
            raise ConfigError(place, f"prompt {prompt} has a second row for arm {arm}")
        reward = _number(reward_text, place=place, column=columns[3])
        if not 0.0 <= reward <= 1.0:
            raise ConfigError(place, f"{columns[3]} is {reward_text!r}, expected 0 to 1")
        cells[prompt, arm] = _Row(
            task_class=task_class,
            reward=reward,
            cost_nanos=_nanos(cost_text, place=place, column=columns[4]),
            latency_ms=(
                _number(values[5], place=place, column=columns[5]) if len(values) > 5 else None
            ),
        )
    if not cells:
        raise ConfigError(str(path), "has no rows")
    return cells


def _number(text: str, *, place: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(place, f"{column} is {text!r}, not a number")
    return value


def _nanos(text: str, *, place: str, column: str) -> int:
    """Dollars in nano-dollars; what is finer rounds up, so that a cost is never understated."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= _COST_USD_MAX:
        raise ConfigError(place, f"{column} is {text!r}, expected dollars, 0 or more")
    return int((amount * NANOS_PER_DOLLAR).to_integral_value(rounding=ROUND_CEILING))
