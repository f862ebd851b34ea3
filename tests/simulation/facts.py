"""What every checker keeps account of, and how it says that something does not hold."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from shared.decision.types import SettleKind
from tests.simulation.counts import Counts, counts
from tests.simulation.provider import Provider


class Violated(Exception):
    """An invariant does not hold.

    Attributes
    ----------
    rule : str
        Its name in the contract.
    """

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(rule, what)  # as they are, so that it can go from process to process
        self.rule, self.what = rule, what

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


@dataclass
class GrantSeen:
    """A lease as it went over the wire."""

    window_id: int
    amount_nanos: int
    duration_ms: int
    price_version: int
    incarnation: str
    granted_ms: int
    delivered: bool = False


@dataclass
class Facts:
    """The account of all that was seen from the outside.

    Attributes
    ----------
    checked : Counts of str
        How often each invariant was looked at.
    budget_max : dict of int to int
        The highest target that a window ever had, in nano-dollars.
    billed : Counts of int
        By window, without what exceeds the true worst cases.
    closes_sent : set of (device, lease number)
        What devices have told of.
    lossy : set of str
        Devices whose disk was restored or copied.
    known : dict
        How each call ended, by request and reservation, as far as its device has come to know it.
    """

    provider: Provider
    checked: Counts[str] = field(default_factory=counts)
    now_ms: int = 0
    budget_max: dict[int, int] = field(default_factory=dict)
    billed: Counts[int] = field(default_factory=counts)
    granted: dict[tuple[str, int], GrantSeen] = field(default_factory=dict)
    closes_sent: set[tuple[str, int]] = field(default_factory=set)
    lossy: set[str] = field(default_factory=set)
    known: dict[tuple[str, str], SettleKind] = field(default_factory=dict)
    sums: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))

    def holds(self, holds: bool, rule: str, what: str, values: tuple[object, ...] = ()) -> None:
        """Count a look at an invariant.

        Parameters
        ----------
        what, values : str, tuple
            What is wrong if it does not hold, with a `{}` for each value.

        Raises
        ------
        Violated
            If it does not hold.
        """
        self.checked[rule] += 1
        if not holds:
            raise Violated(rule, what.format(*values))

    def whole(self, amount: int) -> None:
        """Money is a whole number of nano-dollars."""
        self.checked["A_1"] += 1
        if type(amount) is not int:
            raise Violated("A_1", f"{amount!r} is no whole number of nanos")
