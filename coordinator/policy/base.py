"""What every policy reads and returns: arrays in, arrays out.

Shapes: ``X`` contexts (device class, task class), ``A`` arms, ``P`` packing rows, ``C`` covering
rows. Packing row 0 is money in nano-dollars (as float), covering row 0 is the share of requests
answered within their deadline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MONEY_ROW = 0
SLA_ROW = 0


def _require_shape(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Bounds:
    """An estimate and the ends of its confidence interval.

    Parameters
    ----------
    mean, lower, upper : ndarray, shape (X, A)
        ``lower <= mean <= upper``, per request.
    """

    mean: FloatArray
    lower: FloatArray
    upper: FloatArray

    def __post_init__(self) -> None:
        _require_shape("lower", self.lower, self.mean.shape)
        _require_shape("upper", self.upper, self.mean.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimates:
    """What is known of every arm in every context.

    Parameters
    ----------
    feasible : ndarray of bool, shape (X, A)
        The arm may serve the context.
    reward : Bounds
        Utility per request, in [0, 1].
    packing : tuple of Bounds, length P
        Cost per request; row 0 is money in nano-dollars.
    covering : tuple of Bounds, length C
        Credit per request in [0, 1]; row 0 is the share of requests within the deadline.
    sent : ndarray of int, shape (X, A)
        Requests sent so far, those in flight included.
    graded : ndarray of int, shape (X, A)
        Requests whose reward is known.
    booked : ndarray of int, shape (X, A), optional
        Requests whose outcome is known; without it ``sent`` stands in.

    Raises
    ------
    ValueError
        When the shapes disagree, or a row that must exist is missing.
    """

    feasible: BoolArray
    reward: Bounds
    packing: tuple[Bounds, ...]
    covering: tuple[Bounds, ...]
    sent: IntArray
    graded: IntArray
    booked: IntArray | None = None

    def __post_init__(self) -> None:
        if self.feasible.ndim != 2:
            raise ValueError(f"feasible has {self.feasible.ndim} axes, expected (X, A)")
        if not self.packing:
            raise ValueError("packing is empty, row 0 (money) is required")
        shape = self.feasible.shape
        _require_shape("reward", self.reward.mean, shape)
        for name, rows in (("packing", self.packing), ("covering", self.covering)):
            for index, row in enumerate(rows):
                _require_shape(f"{name}[{index}]", row.mean, shape)
        _require_shape("sent", self.sent, shape)
        _require_shape("graded", self.graded, shape)
        _require_shape("booked", self.outcomes, shape)

    @property
    def outcomes(self) -> IntArray:
        """Requests whose outcome is known, shape (X, A)."""
        return self.sent if self.booked is None else self.booked

    @property
    def free(self) -> BoolArray:
        """Feasible arms that surely cost no money, shape (X, A)."""
        return self.feasible & (self.packing[MONEY_ROW].upper <= 0.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Capacity:
    """How much local work the device classes can do, and which local models fit together.

    Device classes are numbered ``0..D-1``.

    Parameters
    ----------
    device_class : ndarray of int, shape (X,)
        The device class of each context.
    local : ndarray of bool, shape (A,)
        Arms that run on the device.
    service_s : ndarray, shape (X, A)
        Mean worker-seconds of one request; only local arms count.
    per_slot_s : ndarray, shape (D,)
        Worker-seconds that a class can give in one slot: utilisation x slot length x parallel
        requests x devices that are up. Infinity: no limit.
    resident_choices : tuple of ndarray of bool, shape (R_d, A), length D
        The sets of local arms that fit into a device's memory together, one row for each. Empty
        (or with no rows for a class): every local arm is resident.
    load_s : ndarray, shape (A,)
        Worker-seconds that loading an arm's model takes on one device.
    devices : ndarray, shape (D,)
        Devices that are up: each of them loads when the class's resident set changes.

    Raises
    ------
    ValueError
        When shapes disagree or a device class is out of range.
    """

    device_class: IntArray
    local: BoolArray
    service_s: FloatArray
    per_slot_s: FloatArray
    resident_choices: tuple[BoolArray, ...] = ()
    load_s: FloatArray | None = None
    devices: FloatArray | None = None

    def __post_init__(self) -> None:
        contexts, arms = self.service_s.shape
        classes = self.per_slot_s.shape[0]
        _require_shape("capacity.device_class", self.device_class, (contexts,))
        _require_shape("capacity.local", self.local, (arms,))
        if contexts and not 0 <= self.device_class.min() <= self.device_class.max() < classes:
            raise ValueError(f"capacity.device_class is out of range, there are {classes} classes")
        if len(self.resident_choices) not in (0, classes):
            raise ValueError(
                f"capacity.resident_choices has {len(self.resident_choices)} entries, "
                f"expected {classes} or none"
            )
        for index, choices in enumerate(self.resident_choices):
            _require_shape(f"capacity.resident_choices[{index}]", choices, (len(choices), arms))
        if self.load_s is not None:
            _require_shape("capacity.load_s", self.load_s, (arms,))
        if self.devices is not None:
            _require_shape("capacity.devices", self.devices, (classes,))


@dataclass(frozen=True, eq=False, kw_only=True)
class Constraints:
    """What the operator asked for.

    Parameters
    ----------
    budget : ndarray, shape (P,)
        Total of each packing row for the whole window; row 0 in nano-dollars.
    floor : ndarray, shape (C,)
        Share of all requests that each covering row should reach, in [0, 1].
    rho : ndarray, shape (C,)
        Reward given up per request that a covering row misses.
    slack_max : ndarray, shape (C,)
        Largest share of the demand still to come that may be spent on making good past misses;
        what lies beyond is dropped and reported.
    explore_share : float
        Share of the remaining money that one slot may spend on exploration.
    epsilon_ppm : int
        Probability mass (parts per million) of each row that is spread over all its candidates.
    capacity : Capacity or None
        What the devices can do; None where their work is not limited.
    """

    budget: FloatArray
    floor: FloatArray
    rho: FloatArray
    slack_max: FloatArray
    explore_share: float = 0.02
    epsilon_ppm: int = 5_000
    capacity: Capacity | None = None

    def __post_init__(self) -> None:
        for name in ("rho", "slack_max"):
            _require_shape(name, getattr(self, name), self.floor.shape)
        if not 0 <= self.epsilon_ppm <= 1_000_000:
            raise ValueError(f"epsilon_ppm is {self.epsilon_ppm}, expected 0 to 1000000")
        if not 0.0 <= self.explore_share <= 1.0:
            raise ValueError(f"explore_share is {self.explore_share}, expected 0 to 1")


@dataclass(frozen=True, eq=False, kw_only=True)
class Forecast:
    """Demand to come, in requests.

    Parameters
    ----------
    mean, lower, upper : ndarray, shape (X,)
        Demand until the window ends, the slot about to start included, and its quantiles. With
        ``forced`` it is the demand that the policy may place.
    next_slot : ndarray, shape (X,)
        Mean demand of the slot about to start.
    total_window : ndarray, shape (X,)
        Past and predicted demand of the whole window (the paper's ``Qhat`` before summing).
    forced : ndarray, shape (X, A), optional
        Demand until the window ends that is not the policy's to place (pinned, private, a single
        candidate), by the arm that will serve it. It uses the shared rows first.
    """

    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
    next_slot: FloatArray
    total_window: FloatArray
    forced: FloatArray | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """One slot's decision.

    Parameters
    ----------
    weights : ndarray, shape (X, A)
        Probability of each arm in each context; rows sum to at most 1, infeasible arms have 0.
    packing_dual : ndarray, shape (P,)
        Reward per unit of each packing row, >= 0.
    covering_dual : ndarray, shape (C,)
        Reward per credited request of each covering row, >= 0.
    slack : ndarray, shape (C,)
        Requests by which each covering floor is expected to be missed at the window's end.
    objective : float
        Reward that the policy expects from the demand still to come, at the bounds it used.
    resident : ndarray of int, shape (D,), optional
        Row of ``Capacity.resident_choices`` that each device class is to keep loaded; -1 for a
        class without choices. None where residency is not planned.
    capacity_dual : ndarray, shape (D,), optional
        Reward per worker-second of each device class, >= 0.
    state : mapping of str to ndarray
        The policy's own memory, given back through ``Remaining.last``.
    """

    weights: FloatArray
    packing_dual: FloatArray
    covering_dual: FloatArray
    slack: FloatArray
    objective: float
    resident: IntArray | None = None
    capacity_dual: FloatArray | None = None
    state: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Remaining:
    """Where the window stands.

    Parameters
    ----------
    packing : ndarray, shape (P,)
        What is left of each budget (money: budget - settled - unconfirmed).
    covering_hits : ndarray, shape (C,)
        Credits earned so far.
    demand_so_far : ndarray, shape (X,)
        Requests admitted so far in this window.
    slot : int
        Index of the slot about to start, from 0.
    slots_left, slots_total : int
        Slots to come, that one included, and slots in the window.
    last : Plan or None
        The previous slot's plan.
    last_demand : ndarray, shape (X,)
        Requests of the previous slot (zeros before the first).
    """

    packing: FloatArray
    covering_hits: FloatArray
    demand_so_far: FloatArray
    slot: int
    slots_left: int
    slots_total: int
    last: Plan | None
    last_demand: FloatArray


class Policy(Protocol):
    """Plans one slot. Pure: equal inputs give equal plans."""

    @property
    def name(self) -> str:
        """The name under which ``make_policy`` knows the policy."""
        ...

    def plan(
        self,
        estimates: Estimates,
        *,
        constraints: Constraints,
        forecast: Forecast,
        remaining: Remaining,
        rng: np.random.Generator,
    ) -> Plan:
        """Return the plan of the slot about to start.

        Parameters
        ----------
        estimates, constraints, forecast, remaining
            See the dataclasses; all for the same ``X``, ``A``, ``P`` and ``C``.
        rng : numpy.random.Generator
            The only source of chance; a policy that does not need it leaves it untouched.

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            When the shapes of the inputs disagree.
        """
        ...


def check_inputs(
    estimates: Estimates, *, constraints: Constraints, forecast: Forecast, remaining: Remaining
) -> None:
    """Refuse inputs whose shapes disagree.

    Raises
    ------
    ValueError
        Naming the array, its shape and the expected shape.
    """
    contexts = estimates.feasible.shape[0]
    packing, covering = (len(estimates.packing),), (len(estimates.covering),)
    _require_shape("constraints.budget", constraints.budget, packing)
    _require_shape("constraints.floor", constraints.floor, covering)
    _require_shape("remaining.packing", remaining.packing, packing)
    _require_shape("remaining.covering_hits", remaining.covering_hits, covering)
    _require_shape("remaining.demand_so_far", remaining.demand_so_far, (contexts,))
    _require_shape("remaining.last_demand", remaining.last_demand, (contexts,))
    for name in ("mean", "lower", "upper", "next_slot", "total_window"):
        _require_shape(f"forecast.{name}", getattr(forecast, name), (contexts,))
    if forecast.forced is not None:
        _require_shape("forecast.forced", forecast.forced, estimates.feasible.shape)
    if constraints.capacity is not None:
        service = constraints.capacity.service_s
        _require_shape("capacity.service_s", service, estimates.feasible.shape)


def idle_plan(estimates: Estimates, *, weights: FloatArray, objective: float = 0.0) -> Plan:
    """Return a plan with the given weights, no prices and no memory."""
    covering = len(estimates.covering)
    return Plan(
        weights=weights,
        packing_dual=np.zeros(len(estimates.packing)),
        covering_dual=np.zeros(covering),
        slack=np.zeros(covering),
        objective=objective,
    )


def pick_best(score: FloatArray, *, allowed: BoolArray) -> FloatArray:
    """Put each row's whole weight on its allowed arm of highest score.

    Parameters
    ----------
    score : ndarray, shape (X, A)
    allowed : ndarray of bool, shape (X, A)

    Returns
    -------
    ndarray, shape (X, A)
        One-hot rows; a row without an allowed arm is zero. Ties go to the first arm.
    """
    weights = np.zeros(score.shape)
    if score.size == 0:
        return weights
    best = np.argmax(np.where(allowed, score, -np.inf), axis=1)
    rows = np.flatnonzero(allowed.any(axis=1))
    weights[rows, best[rows]] = 1.0
    return weights
