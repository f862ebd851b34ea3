"""Known prices per token, from any of the forms in which people keep them."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from shared.decision.money import NANOS_PER_DOLLAR
from shared.errors import ConfigError

_NAME_KEYS: Final = ("arm", "model_id", "model", "name", "id")
_PRICE_KEYS: Final = ("usd_per_mtok", "price", "input_cost_per_m", "output_cost_per_m")


def read_prices(path: Path, *, arms: Sequence[str]) -> tuple[int, ...]:
    """Read what each arm bills per million tokens.

    Parameters
    ----------
    path : Path
        JSON or TOML: a mapping of arm to dollars per million tokens, or ``models``, a list of
        entries with a ``model_id`` and ``input_cost_per_m``, ``output_cost_per_m``. CSV: the
        columns ``arm`` and ``usd_per_mtok``. Of an input and an output price the higher one
        counts, so that a price times tokens bounds any mixture of both.
    arms : sequence of str, length A
        Those of the reward file; each needs a price. Further entries are ignored.

    Returns
    -------
    tuple of int, length A
        Nano-dollars per million tokens.

    Raises
    ------
    ConfigError
        Naming the file, and the arm or the value at fault.
    """
    found = _read(path)
    missing = [arm for arm in arms if arm not in found]
    if missing:
        raise ConfigError(str(path), f"has no price for arm {missing[0]}")
    return tuple(max(_nanos(price, path=path, arm=arm) for price in found[arm]) for arm in arms)


def _read(path: Path) -> dict[str, list[object]]:
    """Arm to its stated prices."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            return _of_entries(list(csv.DictReader(text.splitlines())), path=path)
        if path.suffix == ".toml":
            parsed: object = tomllib.loads(text, parse_float=Decimal)
        else:
            parsed = json.loads(text, parse_float=Decimal)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(str(path), f"cannot be parsed: {error}") from error
    if isinstance(parsed, Mapping):
        for key in ("models", "prices"):
            if isinstance(parsed.get(key), list | Mapping):
                parsed = parsed[key]
                break
    if isinstance(parsed, list):
        return _of_entries(parsed, path=path)
    if not isinstance(parsed, Mapping):
        raise ConfigError(str(path), "holds neither a mapping of arm to price nor a list of models")
    return {
        str(arm): _prices_of(value, path=path, arm=str(arm))
        if isinstance(value, Mapping)
        else [value]
        for arm, value in parsed.items()
    }


def _of_entries(entries: Sequence[Any], *, path: Path) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for entry in entries:
        name = next((entry[key] for key in _NAME_KEYS if key in entry), None)
        if name is None:
            raise ConfigError(str(path), f"has an entry without any of {', '.join(_NAME_KEYS)}")
        if str(name) in found:
            raise ConfigError(str(path), f"has two prices for {name}")
        found[str(name)] = _prices_of(entry, path=path, arm=str(name))
    return found


def _prices_of(entry: Mapping[str, object], *, path: Path, arm: str) -> list[object]:
    prices = [entry[key] for key in _PRICE_KEYS if key in entry]
    if not prices:
        raise ConfigError(str(path), f"{arm} has none of {', '.join(_PRICE_KEYS)}")
    return prices


def _nanos(value: object, *, path: Path, arm: str) -> int:
    """Dollars per million tokens in nano-dollars, rounded up."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise ConfigError(str(path), f"the price of {arm} is {value!r}, expected dollars, >= 0")
    return int((amount * NANOS_PER_DOLLAR).to_integral_value(rounding=ROUND_CEILING))
