"""Durations, sizes and addresses as people write them."""

from __future__ import annotations

import pytest

from shared.units import Address, duration_ms, duration_text, parse_address, size_bytes


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0s", 0), ("500ms", 500), ("10s", 10_000), ("1.5 h", 5_400_000), ("1d", 86_400_000)],
)
def test_durations_are_milliseconds(text: str, ms: int) -> None:
    """Exact, also with decimals."""
    assert duration_ms(text) == ms


@pytest.mark.parametrize(
    "value", ["", "10", 10, 1.5, None, "s", "-1s", "1x", "1S", "0.0001s", "١s"]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    """A number without a unit is ambiguous; a part of a millisecond is no duration here."""
    with pytest.raises(ValueError, match=r"duration|milliseconds"):
        duration_ms(value)


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0s"), (1, "1ms"), (90_000, "90s"), (86_400_000, "1d"), (3_600_001, "3600001ms")],
)
def test_durations_are_written_in_the_largest_unit_that_fits(ms: int, text: str) -> None:
    """Nothing is rounded."""
    assert duration_text(ms) == text


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), (512, 512), ("512", 512), ("1KiB", 1_024), ("1.5GiB", 3 * 2**29), ("2GB", 2 * 10**9)],
)
def test_sizes_are_bytes(value: object, size: int) -> None:
    """Powers of ten and of two are told apart; a plain number is bytes already."""
    assert size_bytes(value) == size


@pytest.mark.parametrize("value", [-1, True, 1.5, "", "lots", "1XB", "0.5B", None])
def test_what_is_no_size_is_refused(value: object) -> None:
    """Negative, fractional, or without a known unit."""
    with pytest.raises(ValueError, match=r"size|bytes"):
        size_bytes(value)


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80), True),
        ("127.9.9.9:0", Address("127.9.9.9", 0), True),
        ("[::1]:80", Address("::1", 80), True),
        ("localhost:80", Address("localhost", 80), True),
        ("0.0.0.0:80", Address("0.0.0.0", 80), False),
        ("[::]:80", Address("::", 80), False),
        ("example.com:80", Address("example.com", 80), False),
        ("localhost.example.com:80", Address("localhost.example.com", 80), False),
    ],
)
def test_addresses_know_whether_others_can_reach_them(
    text: str, address: Address, loopback: bool
) -> None:
    """Parsing and writing are inverse; a name counts as reachable unless it is localhost."""
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_loopback is loopback


@pytest.mark.parametrize("text", ["", "80", "h:", ":80", "h:x", "h:99999", "::1:80", "h:1:2", 80])
def test_what_is_no_address_is_refused(text: object) -> None:
    """The form is told."""
    with pytest.raises(ValueError, match="host and port"):
        parse_address(text)
