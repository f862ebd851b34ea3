"""Amounts, costs and worst cases (rules A_1, A_2)."""

from __future__ import annotations

from decimal import localcontext

import pytest

from shared.decision.money import (
    Price,
    WorstCase,
    dollars,
    nanos_from_dollars,
    worst_case_nanos,
)


def test_a_cost_is_rounded_up_once() -> None:
    """Input and output are added before rounding: two halves of a nano make one, not two."""
    price = Price(500_000, 500_000)
    assert 1 == price.cost_nanos(prompt_tokens=1, completion_tokens=1)
    assert 1 == price.cost_nanos(prompt_tokens=1, completion_tokens=0)
    assert 2 == price.cost_nanos(prompt_tokens=2, completion_tokens=1)


def test_a_cost_holds_the_price_of_the_request_itself() -> None:
    """A request without a token still costs what a request costs."""
    assert 7 == Price(10, 10, request_nanos=7).cost_nanos(prompt_tokens=0, completion_tokens=0)


def test_a_free_arm_costs_nothing() -> None:
    """A price of zero gives a cost of zero, however large the request."""
    assert 0 == Price(0, 0).cost_nanos(prompt_tokens=10**9, completion_tokens=10**9)


def test_the_prompt_is_bounded_by_the_bytes_of_the_body() -> None:
    """One token a byte, and the overheads of every message and of the request."""
    bound = WorstCase(message_overhead_tokens=5, request_overhead_tokens=7)
    assert 100 + 3 * 5 + 7 == bound.prompt_tokens_max(body_bytes=100, messages=3)


def test_a_fraction_of_a_token_counts_as_one() -> None:
    """A factor below one rounds up: three bytes at a third are one token, four are two."""
    bound = WorstCase(333_333, message_overhead_tokens=0, request_overhead_tokens=0)
    assert 1 == bound.prompt_tokens_max(body_bytes=3, messages=0)
    assert 2 == bound.prompt_tokens_max(body_bytes=4, messages=0)


def test_the_worst_case_pays_for_every_answer_in_full() -> None:
    """All `n` answers are counted at `max_tokens`."""
    found = worst_case_nanos(
        Price(1_000_000, 2_000_000),
        bound=WorstCase(message_overhead_tokens=0, request_overhead_tokens=0),
        body_bytes=10,
        messages=1,
        n=3,
        max_tokens=50,
    )
    assert 10 * 1 + 3 * 50 * 2 == found


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0", 0),
        ("5", 5_000_000_000),
        ("0.0025", 2_500_000),
        ("0.000000001", 1),
        ("1e-9", 1),
        ("1.00000000000000000000000000000000000", 1_000_000_000),
        ("0e99", 0),
        ("0e-99", 0),
        ("9999999999999999999.999999999", 10**28 - 1),
    ],
)
def test_dollars_are_parsed_exactly(text: str, nanos: int) -> None:
    """Nine decimals are exact, up to the largest amount; zeros may have any exponent."""
    assert nanos == nanos_from_dollars(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a decimal amount"),
        ("five", "not a decimal amount"),
        ("NaN", "not a finite amount"),
        ("Infinity", "not a finite amount"),
        ("1e19", "beyond the largest"),
        ("1e999999999", "beyond the largest"),
        ("1e-999999999", "finer than a nano-dollar"),
        ("0.0000000001", "finer than a nano-dollar"),
        ("1.00000000000000000000000000000000001", "finer than a nano-dollar"),
    ],
)
def test_what_is_no_exact_amount_is_refused(text: str, problem: str) -> None:
    """Neither words, nor infinities, nor what is finer than a nano-dollar or beyond counting."""
    with pytest.raises(ValueError, match=problem):
        nanos_from_dollars(text)


def test_amounts_stay_exact_whatever_precision_the_program_computes_with() -> None:
    """A library that lowers the precision of decimals does not change what money is."""
    with localcontext(prec=3):
        assert 1_234_567_891 == nanos_from_dollars("1.234567891")


def test_dollars_are_shown_exactly_and_short_forms_round_up() -> None:
    """Nine places lose nothing; fewer never show less than was spent."""
    assert "0.000000001" == dollars(1)
    assert "1.500000000" == dollars(1_500_000_000)
    assert "0.01" == dollars(1, places=2)
    assert "2" == dollars(1_000_000_001, places=0)


def test_an_amount_below_nothing_has_a_sign_and_nothing_has_none() -> None:
    """A correction may be one; rounding up takes it towards nothing."""
    assert "-0.000000001" == dollars(-1)
    assert "-1.50" == dollars(-1_509_999_999, places=2)
    assert "0.00" == dollars(-1, places=2)
    assert "0.000000000" == dollars(0)
