"""Money: integer nano-dollars, prices per million tokens, costs rounded up once.

Rules A_1 to A_3 of the money protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Final

NANOS_PER_DOLLAR: Final = 1_000_000_000
TOKENS_PER_MTOK: Final = 1_000_000
PPM: Final = 1_000_000
_NANO: Final = Decimal("1e-9")
# Nine decimals of less than 1e19 dollars; what does not fit is an error, not rounded.
_EXACT: Final = Context(prec=28, traps=[Inexact, InvalidOperation])


@dataclass(frozen=True)
class Price:
    """What a provider bills at most (rule A_1).

    Attributes
    ----------
    input_nanos_per_mtok, output_nanos_per_mtok : int
        Nano-dollars per million prompt and completion tokens.
    request_nanos : int
        Nano-dollars per request, whatever its size.
    version : int
        Rises with every change; leases name the version they were granted under.
    valid_until_unix_ms : int
        No lease outlives it (rule A_3); 0 means until further notice.
    """

    input_nanos_per_mtok: int
    output_nanos_per_mtok: int
    request_nanos: int = 0
    version: int = 1
    valid_until_unix_ms: int = 0

    def cost_nanos(self, *, prompt_tokens: int, completion_tokens: int) -> int:
        """The cost of one request in nano-dollars, rounded up once."""
        micro = (
            prompt_tokens * self.input_nanos_per_mtok
            + completion_tokens * self.output_nanos_per_mtok
        )
        return -(-micro // TOKENS_PER_MTOK) + self.request_nanos


@dataclass(frozen=True)
class WorstCase:
    """How many prompt tokens a body can be counted as at most (rule A_2).

    Attributes
    ----------
    bytes_factor_ppm : int
        Input tokens per million bytes of the serialised body. A byte-level fallback makes a
        token no smaller than a byte, so the default of one token a byte is safe.
    message_overhead_tokens, request_overhead_tokens : int
        What a provider's chat template may add per message and per request.
    """

    bytes_factor_ppm: int = PPM
    message_overhead_tokens: int = 16
    request_overhead_tokens: int = 64

    def prompt_tokens_max(self, *, body_bytes: int, messages: int) -> int:
        """An upper bound of the prompt tokens that the provider can bill."""
        return (
            -(-body_bytes * self.bytes_factor_ppm // PPM)
            + messages * self.message_overhead_tokens
            + self.request_overhead_tokens
        )


def worst_case_nanos(
    price: Price, *, bound: WorstCase, body_bytes: int, messages: int, n: int, max_tokens: int
) -> int:
    """The most that one request can cost, in nano-dollars (rule A_2)."""
    return price.cost_nanos(
        prompt_tokens=bound.prompt_tokens_max(body_bytes=body_bytes, messages=messages),
        completion_tokens=n * max_tokens,
    )


def nanos_from_dollars(text: str | int | Decimal) -> int:
    """Parse an exact dollar amount such as `"0.0025"` into nano-dollars.

    Raises
    ------
    ValueError
        If the text is no finite decimal number, or finer than a nano-dollar.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a decimal amount of dollars") from None
    if not amount.is_finite():
        raise ValueError(f"{text!r} is not a finite amount of dollars")
    try:
        return int(amount.quantize(_NANO, context=_EXACT).scaleb(9, context=_EXACT))
    except Inexact:
        raise ValueError(f"{text!r} is finer than a nano-dollar (nine decimals)") from None
    except InvalidOperation:
        raise ValueError(
            f"{text!r} is beyond the largest amount of dollars that can be counted"
        ) from None


def dollars(nanos: int, *, places: int = 9) -> str:
    """Nano-dollars as an exact decimal string; shorter forms round up, away from nothing."""
    units = -(-nanos // 10 ** (9 - places))
    whole, part = divmod(abs(units), 10**places)
    sign = "-" if units < 0 else ""
    return f"{sign}{whole}.{part:0{places}d}" if places else f"{sign}{whole}"
