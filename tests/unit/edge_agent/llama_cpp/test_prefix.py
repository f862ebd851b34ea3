"""Which slot a prompt gets, and what it need not process again."""

from __future__ import annotations

import pytest

from edge_agent.adapters.llama_cpp.prefix import COPY_TOKENS_MIN, SlotPool, common_prefix
from shared.errors import InvariantError
from tests.unit.edge_agent.llama_cpp.fake_model import FakeModel


def _used(pool: SlotPool, model: FakeModel, tokens: list[int]) -> tuple[int, int]:
    """Take a slot, process the rest of the prompt and keep the slot busy."""
    slot, kept = pool.take(tokens)
    assert tokens[:kept] == model.memory.get(slot, [])
    model.memory[slot] = list(tokens)
    pool.extend(slot, tokens[kept:])
    return slot, kept


def test_a_prompt_goes_to_the_slot_whose_beginning_it_shares() -> None:
    """The next turn of a conversation continues where the last one ended."""
    model = FakeModel()
    pool = SlotPool(model, slots=2)
    first, _ = _used(pool, model, [1, 2, 3, 4])
    second, _ = _used(pool, model, [9, 8, 7])
    pool.give_back(first)
    pool.give_back(second)
    assert (first, 4) == _used(pool, model, [1, 2, 3, 4, 5])
    assert (second, 2) == _used(pool, model, [9, 8, 1])


def test_the_last_token_is_always_left_to_process() -> None:
    """The same prompt again needs logits, which only processing gives."""
    model = FakeModel()
    pool = SlotPool(model, slots=1)
    slot, _ = _used(pool, model, [1, 2, 3])
    pool.give_back(slot)
    assert (slot, 2) == _used(pool, model, [1, 2, 3])


def test_the_beginning_is_copied_from_a_busy_slot() -> None:
    """Requests with the same system prompt share it also while they run."""
    model = FakeModel()
    pool = SlotPool(model, slots=2)
    system = list(range(COPY_TOKENS_MIN))
    _used(pool, model, [*system, 3, 4])
    assert (1, COPY_TOKENS_MIN) == _used(pool, model, [*system, 9, 9])
    assert 1 == model.copies


def test_a_few_tokens_are_not_worth_a_copy() -> None:
    """It would move the whole buffer."""
    model = FakeModel()
    pool = SlotPool(model, slots=2)
    system = list(range(COPY_TOKENS_MIN - 1))
    _used(pool, model, [*system, 97, 98])
    assert (1, 0) == _used(pool, model, [*system, 99, 99])
    assert 0 == model.copies


def test_a_memory_that_cannot_forget_in_part_starts_over() -> None:
    """Recurrent models answer right, only without the savings."""
    model = FakeModel(recurrent=True)
    pool = SlotPool(model, slots=2)
    system = list(range(COPY_TOKENS_MIN))
    slot, _ = _used(pool, model, [*system, 3, 4])
    assert (1, 0) == _used(pool, model, [*system, 9, 9])
    pool.give_back(slot)
    assert (slot, 0) == _used(pool, model, [*system, 3, 9])


def test_the_stalest_slot_is_taken_for_something_new() -> None:
    """What was used lately is likelier to be continued."""
    model = FakeModel()
    pool = SlotPool(model, slots=3)
    for first in (1, 2, 3):
        _used(pool, model, [first, 0])
    for slot in (1, 0, 2):
        pool.give_back(slot)
    assert (1, 0) == _used(pool, model, [7, 7])


def test_a_slot_is_given_back_once() -> None:
    """Twice would let two answers write into one slot."""
    pool = SlotPool(FakeModel(), slots=1)
    slot, _ = pool.take([1])
    assert not pool.any_free
    pool.give_back(slot)
    with pytest.raises(InvariantError):
        pool.give_back(slot)


@pytest.mark.parametrize(
    ("left", "right", "shared"), [([], [1], 0), ([1, 2], [1, 3], 1), ([1, 2], [1, 2, 3], 2)]
)
def test_common_prefix(left: list[int], right: list[int], shared: int) -> None:
    """Its length, from the beginning to the first difference."""
    assert shared == common_prefix(left, right)
