"""The hard budget of a replay: what may be spent on a prompt whose cost nobody knows yet.

Whole nano-dollars. Two rules, and no knowledge but prices and what has been paid so far:

1. A call has a limit, and the limit is money that is there. It never pays more.
2. Money for the cheapest arm on all prompts to come is held back from every other arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from shared.errors import invariant

PRIOR_WORTH: Final = 8
"""Payments that the price times the token prior is worth."""

HOLD_DEVIATIONS: Final = 3.0
"""Standard deviations of what the held prompts may cost beyond their mean."""

WORST_PER_PRIOR: Final = 64
"""An arm's worst case before it is known, in multiples of its price times the token prior."""

KNOWN_AFTER: Final = 30
WORST_PER_LARGEST: Final = 2
"""An arm paid ``KNOWN_AFTER`` times is taken to cost at most twice its largest payment."""


class Purse:
    """Money left, what is held of it, and which arms it can pay.

    Parameters
    ----------
    budget_nanos : int
        For the whole stream.
    prior_nanos : sequence of int, length A
        Price times token prior of each arm.
    """

    def __init__(self, budget_nanos: int, *, prior_nanos: Sequence[int]) -> None:
        self.left_nanos = budget_nanos
        self.cheapest = min(range(len(prior_nanos)), key=lambda arm: prior_nanos[arm])
        self._prior = tuple(prior_nanos)
        self._count = [0] * len(prior_nanos)
        self._sum = [0] * len(prior_nanos)
        self._squares = [0] * len(prior_nanos)
        self._largest = [0] * len(prior_nanos)

    def hold_nanos(self, prompts: int) -> int:
        """Money that ``prompts`` further prompts on the cheapest arm will hardly exceed.

        The mean of what was paid (and of the prior) times the prompts, and three standard
        deviations of the error of that prediction: the spread of the prompts to come, and that of
        the mean which they are predicted by.
        """
        arm, prior = self.cheapest, self._prior[self.cheapest]
        count = self._count[arm] + PRIOR_WORTH
        mean = (self._sum[arm] + PRIOR_WORTH * prior) / count
        # The prior's payments are taken to lie a prior's worth around it.
        squares = (self._squares[arm] + PRIOR_WORTH * 2 * prior * prior) / count
        deviation = math.sqrt(max(squares - mean * mean, 0.0))
        error = deviation * math.sqrt(prompts * (1.0 + prompts / count))
        return math.ceil(prompts * mean + HOLD_DEVIATIONS * error)

    def worst_case_nanos(self, arm: int) -> int:
        """What a call of an arm is taken to cost at most."""
        if self._count[arm] < KNOWN_AFTER:
            return max(WORST_PER_PRIOR * self._prior[arm], WORST_PER_LARGEST * self._largest[arm])
        return WORST_PER_LARGEST * self._largest[arm]

    def limit_nanos(self, arm: int, *, prompts_after: int) -> int:
        """The most that a call may pay now; 0 if the arm is refused.

        The cheapest arm may use all that is left: the hold is there for it. Another arm is
        refused unless its worst case fits beside the hold, and may then use what is not held.

        Parameters
        ----------
        prompts_after : int
            Prompts still to be answered after this one.
        """
        if arm == self.cheapest:
            return self.left_nanos
        limit = self.left_nanos - self.hold_nanos(prompts_after)
        return limit if limit >= self.worst_case_nanos(arm) else 0

    def pay(self, arm: int, *, cost_nanos: int, limit_nanos: int) -> int:
        """Pay a call that was allowed ``limit_nanos``.

        Returns
        -------
        int
            What was paid: the cost, or the limit if the cost is above it (the call was cut off
            there, as a call with ``max_tokens`` is).
        """
        invariant(limit_nanos <= self.left_nanos, "a call's limit is money that is there")
        paid = min(cost_nanos, limit_nanos)
        self.left_nanos -= paid
        self._count[arm] += 1
        self._sum[arm] += paid
        self._squares[arm] += paid * paid
        self._largest[arm] = max(self._largest[arm], paid)
        return paid
