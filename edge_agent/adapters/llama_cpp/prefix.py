"""Which slot takes the next prompt, and how much of it need not be processed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from shared.errors import invariant

COPY_TOKENS_MIN: Final = 16
"""A copy moves a whole buffer; fewer tokens are as quickly processed again."""


class SlotMemory(Protocol):
    """The part of a model that remembers tokens per slot; see `LlamaModel`."""

    def trim(self, slot: int, length: int) -> bool: ...
    def copy(self, source: int, target: int, length: int) -> bool: ...


@dataclass
class _Slot:
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0


class SlotPool:
    """The slots of one model's context and the tokens that each holds.

    A slot keeps its tokens after its answer has ended. The next prompt goes to the free slot
    whose beginning it shares; if a busy slot shares much more, the beginning is copied from there.

    Parameters
    ----------
    memory : SlotMemory
        Holds keys and values of the tokens; kept in step with the pool.
    """

    def __init__(self, memory: SlotMemory, *, slots: int) -> None:
        self._memory = memory
        self._slots = [_Slot() for _ in range(slots)]
        self._free = slots
        self._uses = 0

    @property
    def any_free(self) -> bool:
        """Whether `take` would find a slot."""
        return self._free > 0

    def take(self, prompt: Sequence[int]) -> tuple[int, int]:
        """A slot for a prompt, and how many of the prompt's tokens it holds already.

        At least the last token is left to process: its logits are needed.
        """
        shared = [common_prefix(slot.tokens, prompt[:-1]) for slot in self._slots]
        free = [index for index, slot in enumerate(self._slots) if not slot.busy]
        invariant(bool(free), "a slot is taken only while one is free")
        source = max(range(len(shared)), key=shared.__getitem__)
        target = max(free, key=lambda index: (shared[index], -self._slots[index].used_at))
        if shared[source] - shared[target] >= COPY_TOKENS_MIN:
            # The copy may destroy what a third prompt could reuse: take the stalest slot.
            target = min(free, key=lambda index: self._slots[index].used_at)
            kept = self._copied(source, target, shared[source])
        else:
            kept = self._trimmed(target, shared[target])
        slot = self._slots[target]
        slot.tokens, slot.busy = list(prompt[:kept]), True
        self._free -= 1
        self._touch(slot)
        return target, kept

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Note tokens that a slot has taken in."""
        self._slots[slot].tokens.extend(tokens)

    def give_back(self, slot: int) -> None:
        """Free a slot; what it holds may serve a later prompt."""
        invariant(self._slots[slot].busy, f"slot {slot} is given back once")
        self._slots[slot].busy = False
        self._free += 1
        self._touch(self._slots[slot])

    def reset(self) -> None:
        """Note that the memory was cleared."""
        for slot in self._slots:
            slot.tokens = []

    def _touch(self, slot: _Slot) -> None:
        self._uses += 1
        slot.used_at = self._uses

    def _copied(self, source: int, target: int, length: int) -> int:
        if self._memory.copy(source, target, length):
            return length
        return self._trimmed(target, 0)

    def _trimmed(self, slot: int, length: int) -> int:
        # Recurrent memories cannot forget in part; forgetting all never fails.
        if length > 0 and self._memory.trim(slot, length):
            return length
        self._memory.trim(slot, 0)
        return 0


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
