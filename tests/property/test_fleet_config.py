"""Whatever text comes in, a fleet file is read completely or refused by named keys."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from coordinator.fleet_config import FleetConfigError, WindowConfig, diff_fleet, parse_fleet
from shared.decision.money import dollars
from shared.limits import AMOUNT_NANOS_MAX, PRICE_NANOS_PER_MTOK_MAX
from shared.units import duration_ms, duration_text

NOW = 1_795_000_000_000
TEMPLATE = """
[fleet]
name = "f"
[window]
length = "{length}"
slot = "{slot}"
[budget]
amount_usd = "{amount}"
[arms.a]
kind = "cloud"
model = "m"
base_url = "https://example.com/v1"
price = {{ input_usd_per_mtok = "{price}", output_usd_per_mtok = "0", request_usd = "0" }}
[device_classes.d]
arms = ["a"]
"""
RIGHT: dict[str, Any] = {
    "fleet": {"name": "f"},
    "window": {"length": "10s", "slot": "1s", "anchor": 0},
    "budget": {"name": "b", "amount_usd": "1"},
    "sla": {"floor": 0.5, "rho": 1.0, "slack_max": 0.5},
    "policy": {
        "kind": "lp_ucb",
        "options": {"explore_requests": 8},
        "forecaster": "chooser",
        "forecaster_options": {},
        "epsilon_ppm": 1,
    },
    "link": {"heartbeat": "1s", "lease_slots": 5},
    "arms": {
        "here": {"kind": "local", "prior": {"reward": 0.5, "latency": "1s"}},
        "there": {
            "kind": "cloud",
            "model": "m",
            "base_url": "https://example.com/v1",
            "api_key": "env:KEY",
            "fields": ["seed"],
            "unbilled_statuses": [429],
            "worst_case": {"bytes_factor": 1.0},
            "price": {"input_usd_per_mtok": "1", "output_usd_per_mtok": "1", "request_usd": "0"},
        },
    },
    "device_classes": {"d": {"arms": ["here", "there"]}},
    "task_classes": {
        "t": {"deadline": "1s", "privacy": "local", "demand_prior": 1.0},
        "j": {"judge": True, "judge_share": 0.5, "grader": {"kind": "regex", "pattern": "a"}},
    },
    "judge": {"arm": "there", "max_tokens": 16},
    "signals": {"retry": {"within": "1s"}, "abandon": {"reward": 0.5, "weight": 0.5}},
}
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["1s", "0.5", "env:X", "local", "cloud", "https://[", "http://x:y", "uniform"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def paths_of(table: dict[str, Any]) -> list[tuple[str, ...]]:
    """Every key of a table and of the tables in it."""
    found: list[tuple[str, ...]] = []
    for key, value in table.items():
        found.append((key,))
        if isinstance(value, dict):
            found += [(key, *rest) for rest in paths_of(value)]
    return found


def replaced(table: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    """A copy of a table with one key changed."""
    key, *rest = path
    old = table.get(key)
    inner = replaced(old if isinstance(old, dict) else {}, tuple(rest), value) if rest else value
    return {**table, key: inner}


def as_toml(value: object) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{as_toml(key)} = {as_toml(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = "".join(
            f"\\U{ord(char):08x}" if not char.isalnum() else char
            for char in value
            if not 0xD800 <= ord(char) <= 0xDFFF
        )
        return f'"{escaped}"'
    return repr(value)


def as_lines(table: dict[str, Any]) -> str:
    """A table as a TOML file."""
    return "\n".join(f"{as_toml(key)} = {as_toml(value)}" for key, value in table.items())


def filled(*, price: str = "1", amount: str = "1") -> str:
    """A small file that is right."""
    return TEMPLATE.format(length="10s", slot="1s", price=price, amount=amount)


def problems(text: str) -> list[str]:
    """The keys at fault; none if the file is right."""
    try:
        parse_fleet(text, now_unix_ms=NOW)
    except FleetConfigError as error:
        return [key or problem for key, problem in error.problems]
    return []


@given(st.text())
@example("a" + ".a" * 5_000 + " = 1")
@example("a = " + "[" * 5_000)
@example("[policy.options]\na" + ".a" * 2_000 + " = 1")
def test_text_that_is_no_fleet_file_is_refused(text: str) -> None:
    """No other exception ever leaves the reader."""
    assert problems(text)


def test_the_file_that_is_changed_below_is_right() -> None:
    """Otherwise the next test would show nothing."""
    assert problems(as_lines(RIGHT)) == []


@settings(max_examples=60)
@given(
    changes=st.lists(st.tuples(st.sampled_from(paths_of(RIGHT)), VALUES), min_size=1, max_size=3)
)
def test_any_value_under_any_key_is_read_or_refused(
    changes: list[tuple[tuple[str, ...], object]],
) -> None:
    """A right file with some values replaced: accepted, or refused by keys, never a crash."""
    data = RIGHT
    for path, value in changes:
        data = replaced(data, path, value)
    assert all(problems(as_lines(data)))


@given(price=st.integers(0, PRICE_NANOS_PER_MTOK_MAX), amount=st.integers(0, AMOUNT_NANOS_MAX))
def test_every_price_and_budget_is_kept_to_the_nano_dollar(price: int, amount: int) -> None:
    """Exact decimals in, the same integer out."""
    config = parse_fleet(filled(price=dollars(price), amount=dollars(amount)), now_unix_ms=NOW)
    assert config.prices["a"].input_nanos_per_mtok == price
    assert config.budget.amount_nanos == amount


@given(before=st.integers(0, 10**13), after=st.integers(0, 10**13))
def test_a_changed_amount_is_the_only_difference(before: int, after: int) -> None:
    """Two files differ exactly where their values do."""
    old, new = (
        parse_fleet(filled(amount=dollars(nanos)), now_unix_ms=NOW) for nanos in (before, after)
    )
    found = [change.key for change in diff_fleet(old, new)]
    assert found == (["budget.amount_usd"] if before != after else [])


@given(
    slot_ms=st.integers(1, 10**6),
    slots=st.integers(1, 1_000),
    anchor=st.integers(0, 10**10),
    time=st.integers(0, 10**14),
)
def test_every_time_falls_into_one_window_and_slot(
    slot_ms: int, slots: int, anchor: int, time: int
) -> None:
    """The window holds the time, its neighbours touch it, and the slot holds the time as well."""
    window = WindowConfig(length_ms=slot_ms * slots, slot_ms=slot_ms, anchor_unix_ms=anchor * 1_000)
    _, start, end = window.window_of(time)
    slot = window.slot_of(time)
    assert start <= time < end == start + window.length_ms
    assert (start - window.anchor_unix_ms) % window.length_ms == 0
    assert 0 <= slot < window.slots_per_window
    assert start + slot * slot_ms <= time < start + (slot + 1) * slot_ms
    assert window.window_of(end)[1] == end


@given(st.integers(0, 10**12))
def test_durations_survive_the_way_to_text_and_back(ms: int) -> None:
    """No millisecond is lost."""
    assert duration_ms(duration_text(ms)) == ms
