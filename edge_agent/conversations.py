"""Conversations keep their arm: the draw that each of them goes on with.

The next turn of a chat repeats all earlier messages, and whoever answered those has them at hand:
llama.cpp in its cache, a provider in its prompt cache. So a turn that goes on from a remembered one
repeats that one's draw instead of making its own.

Propensities stay right because of what is logged. An arm is kept if it is among those that would be
kept now, and that set does not depend on what was drawn. Given that it is, the probability that
this turn has this arm is that of the first draw, renormalised over the set; and so it is logged,
with the set and the first draw's weights as the candidates.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from shared.decision.money import PPM
from shared.decision.types import Candidate
from shared.limits import CONVERSATION_IDLE_MS_MAX, CONVERSATIONS_MAX
from shared.rows import quick_dataclass

KEEP_SHARE_PPM_MIN: Final = 50_000
"""An arm is worth keeping while the table plays it at least this often: a draw of exploration
(0.5 % by default) is not repeated, nor one of a plan that has moved away."""


@quick_dataclass(frozen=True)
class Kept:
    """A draw that a conversation goes on with.

    Attributes
    ----------
    between : tuple of Candidate
        The arms that it was made between, with their weights then.
    """

    arm: str
    between: tuple[Candidate, ...]

    @property
    def propensity_ppm(self) -> int:
        """The probability with which `arm` was drawn from `between`."""
        weights = {each.arm: each.weight_ppm for each in self.between}
        return weights[self.arm] * PPM // sum(weights.values())

    def among(self, arms: Collection[str]) -> Kept | None:
        """The same draw among fewer arms; None if its own is not one of them."""
        if self.arm not in arms:
            return None
        return Kept(self.arm, tuple(each for each in self.between if each.arm in arms))


class Conversations:
    """The draws of recent turns, by the turns' ids: the latest so many, for a limited time.

    An id is a hash of a turn's messages; the text itself is not kept.
    """

    def __init__(
        self, *, size_max: int = CONVERSATIONS_MAX, idle_ms_max: float = CONVERSATION_IDLE_MS_MAX
    ) -> None:
        self._size_max = size_max
        self._idle_ms_max = idle_ms_max
        self._turns: OrderedDict[str, tuple[Kept, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    def find(self, turn: str, *, now_ms: float) -> Kept | None:
        """The draw that answered a turn, unless that is too long ago."""
        found = self._turns.get(turn)
        if found is None or now_ms - found[1] > self._idle_ms_max:
            return None
        return found[0]

    def remember(self, turn: str, kept: Kept, *, now_ms: float) -> None:
        """Note which draw answered a turn; the oldest are forgotten."""
        if not any(each.arm == kept.arm and each.weight_ppm > 0 for each in kept.between):
            return  # it had no weight: the arm was certain, and will be again
        self._turns[turn] = (kept, now_ms)
        self._turns.move_to_end(turn)
        while len(self._turns) > self._size_max:
            self._turns.popitem(last=False)
