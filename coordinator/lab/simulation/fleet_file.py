"""The fleet file of a scenario: the text that an operator would have applied."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from coordinator.lab.simulation.schema import Scenario, WorldArm

ENDPOINT = "http://127.0.0.1:9/v1"
"""No call leaves the simulation; the address only has to be valid."""


def fleet_toml(
    scenario: Scenario, *, absent: Collection[str] = (), price_factor: Mapping[str, float]
) -> str:
    """The configuration as TOML.

    Parameters
    ----------
    absent : collection of str
        Arms that the fleet does not have yet.
    price_factor : mapping of str to float
        What the prices of an arm are multiplied by; 1 for arms that are not named.
    """
    tables: dict[str, Any] = {
        "fleet": {"name": scenario.scenario.name},
        "window": {**_written(scenario.window), "anchor": 0},
        "budget": _written(scenario.budget),
        "sla": _written(scenario.sla),
        "policy": dict(scenario.policy),
        "link": _written(scenario.link),
        "arms": {
            name: _arm(name, arm, factor=price_factor.get(name, 1.0))
            for name, arm in scenario.arms.items()
            if name not in absent
        },
        "device_classes": {
            name: {
                "arms": [arm for arm in device_class.arms if arm not in absent],
                "parallel": device_class.parallel,
                "utilisation": device_class.utilisation,
                "memory_gb": device_class.memory_gb,
            }
            for name, device_class in scenario.device_classes.items()
        },
        "task_classes": {
            name: {
                "deadline": f"{task.deadline}ms",
                "privacy": task.privacy,
                "demand_prior": task.prior_factor
                * sum(task.requests.values())
                / len(scenario.device_classes),
            }
            for name, task in scenario.task_classes.items()
        },
    }
    return "\n".join(_lines(tables, prefix=""))


def _arm(name: str, arm: WorldArm, *, factor: float) -> dict[str, Any]:
    table: dict[str, Any] = {
        "kind": arm.kind,
        "max_tokens_default": arm.max_tokens,
        "context_tokens_max": 1_000_000,
        "model": name,
        "prior": _written(arm.prior),
    }
    if arm.price is None:
        table["memory_gb"] = arm.memory_gb
        table["load_time"] = f"{arm.load_time}ms"
    else:
        written = _written(arm.price)
        table["base_url"] = ENDPOINT
        table["price"] = {
            key: _scaled(value, factor=factor) if key.startswith(("input", "output")) else value
            for key, value in written.items()
            if value != ""
        }
    return table


def _scaled(dollars: str, *, factor: float) -> str:
    return f"{float(dollars) * factor:.9f}" if factor != 1.0 else dollars


def _written(table: Any) -> dict[str, Any]:
    """A table as it would be written: durations and amounts with their units."""
    written: dict[str, Any] = table.model_dump()
    return {name: value for name, value in written.items() if value is not None}


def _lines(table: Mapping[str, Any], *, prefix: str) -> list[str]:
    """TOML of plain tables; strings, numbers and lists are written as in JSON."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"[{prefix}]"] if prefix else []
    lines += [f"{_key(key)} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, prefix=f"{prefix}.{_key(key)}" if prefix else _key(key))
    return lines


def _key(name: str) -> str:
    return json.dumps(name)
