"""The provider: what it does with a paid call, and its own account of what it billed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum

from edge_agent.attempts import AttemptPlan
from shared.decision.types import SettleKind
from tests.simulation.counts import Counts, counts
from tests.simulation.dice import Dice


class Fate(StrEnum):
    """What becomes of a paid call."""

    ANSWERED = "answered"
    SLOW = "provider_slow"  # an answer long after its lease was recalled: usage comes late
    ABORTED = "provider_aborted"  # the stream broke: billed, and nobody will know how much
    SILENT = "provider_no_usage"  # a whole answer without its usage
    DEAD = "provider_dead"  # never connected: nothing is billed
    REFUSED = "provider_refused"  # a status that is not billed
    OVERRUN = "provider_overrun"  # more is billed than the worst case allows


PRICES = {"large": (2_500_000_000, 10_000_000_000), "small": (1_000_000_000, 4_000_000_000)}
"""Of input and output, in nano-dollars per million tokens, before any rise."""
WORST_NANOS = 1_700_000
"""What a request can cost at most before any rise."""
WORST_TOKENS = (280, 100)
"""Of input and output: what that is for."""
KNOWN_FREE = (Fate.DEAD, Fate.REFUSED)
OVERRUN = Fate.OVERRUN
SETTLES: dict[Fate, SettleKind] = {
    **dict.fromkeys(Fate, SettleKind.REPORTED),
    **dict.fromkeys(KNOWN_FREE, SettleKind.RELEASED),
    **dict.fromkeys((Fate.ABORTED, Fate.SILENT), SettleKind.UNKNOWN),
}
"""How a device must settle a call (rule S_2)."""


@dataclass
class Bill:
    """One line of the provider's account. Amounts in nano-dollars.

    Attributes
    ----------
    listed_nanos : int
        The same tokens at the price that the device was told: an upper bound.
    beyond_nanos : int
        What exceeds the true worst case: the provider's own fault (rule S_4).
    """

    device: str
    request_id: str
    arm: str
    reservation_id: str
    lease_number: int
    nanos: int
    beyond_nanos: int
    listed_nanos: int
    fate: Fate
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def settle(self) -> SettleKind:
        """How its device must settle it (rule S_2)."""
        return SETTLES[self.fate]


@dataclass
class Provider:
    """Sells tokens at its own price list.

    Attributes
    ----------
    prices : dict of arm to (input, output)
        Nano-dollars per million tokens, as really billed.
    beyond_on_lease, listed_beyond : Counts of (device, lease number)
        What was billed above the worst cases of a lease's calls, and what that is by the price
        list of its device, which knows of a rise before it is true.
    """

    prices: dict[str, tuple[int, int]]
    bills: dict[str, list[Bill]] = field(default_factory=lambda: defaultdict(list))
    on_lease: Counts[tuple[str, int]] = field(default_factory=counts)
    beyond_on_lease: Counts[tuple[str, int]] = field(default_factory=counts)
    listed_beyond: Counts[tuple[str, int]] = field(default_factory=counts)
    calls: int = 0

    @property
    def worst_nanos(self) -> int:
        """What a request can cost at most at the prices of now."""
        return self._price("large", *WORST_TOKENS)

    def execute(
        self,
        dice: Dice,
        *,
        fate: Fate,
        device: str,
        request_id: str,
        plan: AttemptPlan,
        tokens_max: tuple[int, int],
    ) -> Bill:
        """Do a call, and bill it now, whatever its device will come to know."""
        self.calls += 1
        overruns = fate is OVERRUN
        prompt = dice.between(1, tokens_max[0])
        completion = dice.between(0, tokens_max[1])
        if overruns:
            prompt, completion = tokens_max[0] + dice.between(1, 200), tokens_max[1]
        if dice.random() < 0.2:  # the worst case does happen
            prompt, completion = max(prompt, tokens_max[0]), tokens_max[1]
        key, free = (device, plan.lease_number), fate in KNOWN_FREE
        nanos = 0 if free else self._price(plan.arm.id, prompt, completion)
        listed = 0 if free else _listed(plan, prompt, completion)
        beyond = 0
        if overruns:  # all else is within its worst case
            beyond = max(0, nanos - self._price(plan.arm.id, *tokens_max))
            self.beyond_on_lease[key] += beyond
            self.listed_beyond[key] += max(0, listed - _listed(plan, *tokens_max))
        bill = Bill(
            device=device,
            request_id=request_id,
            arm=plan.arm.id,
            reservation_id=plan.reservation_id,
            lease_number=plan.lease_number,
            nanos=nanos,
            beyond_nanos=beyond,
            listed_nanos=listed,
            fate=fate,
            prompt_tokens=prompt,
            completion_tokens=completion,
        )
        self.bills[request_id].append(bill)
        self.on_lease[key] += nanos
        return bill

    def _price(self, arm: str, prompt: int, completion: int) -> int:
        return _rounded_up(self.prices[arm], prompt, completion)


def _listed(plan: AttemptPlan, prompt: int, completion: int) -> int:
    price = plan.price
    if price is None:
        return 0
    rates = (price.input_nanos_per_mtok, price.output_nanos_per_mtok)
    return _rounded_up(rates, prompt, completion)


def _rounded_up(rates: tuple[int, int], prompt: int, completion: int) -> int:
    return -(-(prompt * rates[0] + completion * rates[1]) // 1_000_000)
