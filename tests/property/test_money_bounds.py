"""Costs and their bounds, checked against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decision.money import (
    PPM,
    TOKENS_PER_MTOK,
    Price,
    WorstCase,
    dollars,
    nanos_from_dollars,
    worst_case_nanos,
)
from shared.limits import BODY_BYTES_MAX, MAX_TOKENS_MAX, N_MAX, PRICE_NANOS_PER_MTOK_MAX

per_mtok = st.integers(0, PRICE_NANOS_PER_MTOK_MAX)
tokens = st.integers(0, 10 * MAX_TOKENS_MAX)
prices = st.builds(Price, per_mtok, per_mtok, st.integers(0, 10**9))
bounds = st.builds(WorstCase, st.integers(0, 3 * PPM), st.integers(0, 100), st.integers(0, 500))
bodies = st.integers(0, BODY_BYTES_MAX)


@given(
    price=prices,
    bound=bounds,
    body_bytes=bodies,
    messages=st.integers(1, 50),
    n=st.integers(1, N_MAX),
    max_tokens=st.integers(0, MAX_TOKENS_MAX),
    data=st.data(),
)
def test_no_usage_within_the_bounds_costs_more_than_the_worst_case(
    price: Price,
    bound: WorstCase,
    body_bytes: int,
    messages: int,
    n: int,
    max_tokens: int,
    data: st.DataObject,
) -> None:
    """Whatever a provider reports within the bounds, the reservation covers it (rule A_2)."""
    worst = worst_case_nanos(
        price, bound=bound, body_bytes=body_bytes, messages=messages, n=n, max_tokens=max_tokens
    )
    prompt_max = bound.prompt_tokens_max(body_bytes=body_bytes, messages=messages)
    prompt = data.draw(st.integers(0, prompt_max))
    completion = data.draw(st.integers(0, n * max_tokens))
    cost = price.cost_nanos(prompt_tokens=prompt, completion_tokens=completion)
    assert 0 <= cost <= worst
    assert worst == price.cost_nanos(prompt_tokens=prompt_max, completion_tokens=n * max_tokens)


@given(price=prices, prompt=tokens, completion=tokens)
def test_a_cost_is_the_exact_one_rounded_up_once(
    price: Price, prompt: int, completion: int
) -> None:
    """A cost is the smallest integer that is not below the exact amount (rule A_1)."""
    exact = price.request_nanos + Fraction(
        prompt * price.input_nanos_per_mtok + completion * price.output_nanos_per_mtok,
        TOKENS_PER_MTOK,
    )
    cost = price.cost_nanos(prompt_tokens=prompt, completion_tokens=completion)
    assert type(cost) is int
    assert exact <= cost < exact + 1


def test_input_and_output_are_not_rounded_up_apart() -> None:
    """Half a nano-dollar of input and half of output cost one nano-dollar, not two."""
    price = Price(500_000, 500_000)
    assert price.cost_nanos(prompt_tokens=1, completion_tokens=1) == 1


@given(bound=bounds, body_bytes=bodies, messages=st.integers(0, 50))
def test_the_token_bound_is_rounded_up(bound: WorstCase, body_bytes: int, messages: int) -> None:
    """The bound of the prompt's tokens is an integer that is never below the exact bound."""
    exact = (
        Fraction(body_bytes * bound.bytes_factor_ppm, PPM)
        + messages * bound.message_overhead_tokens
        + bound.request_overhead_tokens
    )
    tokens_max = bound.prompt_tokens_max(body_bytes=body_bytes, messages=messages)
    assert type(tokens_max) is int
    assert exact <= tokens_max < exact + 1


@given(body_bytes=bodies, messages=st.integers(1, 50))
def test_by_default_no_body_has_more_tokens_than_bytes_and_overhead(
    body_bytes: int, messages: int
) -> None:
    """The default bound allows a token for each byte, and the template's overhead on top."""
    tokens_max = WorstCase().prompt_tokens_max(body_bytes=body_bytes, messages=messages)
    assert tokens_max == body_bytes + 16 * messages + 64


@given(nanos=st.integers(0, 10**17))
def test_an_amount_survives_being_written_as_dollars(nanos: int) -> None:
    """Written with nine decimals and parsed again, an amount is the same."""
    assert nanos_from_dollars(dollars(nanos)) == nanos


@given(nanos=st.integers(0, 10**17), places=st.integers(0, 8))
def test_a_shorter_form_never_shows_less_than_the_amount(nanos: int, places: int) -> None:
    """A cost that is shown with fewer decimals is rounded up, by less than one unit."""
    shown = nanos_from_dollars(dollars(nanos, places=places))
    assert nanos <= shown < nanos + 10 ** (9 - places)


@pytest.mark.parametrize("text", ["0.0000000001", "nan", "inf", "much", ""])
def test_what_is_no_exact_amount_is_refused(text: str) -> None:
    """An amount finer than a nano-dollar, or none at all, is an error and never rounded."""
    with pytest.raises(ValueError, match=r"nano-dollar|finite|decimal"):
        nanos_from_dollars(text)
