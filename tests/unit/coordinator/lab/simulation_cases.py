"""A fleet small enough to play in a moment."""

from __future__ import annotations

from pathlib import Path

from coordinator.lab.simulation.schema import Scenario, load_scenario

SMALL = """
[scenario]
name = "small"
local_share_min = 0.1
arms_min = 2

[window]
length = "10m"
slot = "30s"

[budget]
amount_usd = "0.30"

[sla]
floor = 0.5

[link]
lease_duration = "2m"
close_wait = "20s"

[grading]
delay = "5s"

[network]
delay = "20ms"

[device_classes.edge]
devices = 3
arms = ["tiny", "cloud"]

[task_classes.easy]
deadline = "10s"
prompt_tokens = 100
completion_tokens = 50
requests = { edge = 8.0 }

[task_classes.hard]
deadline = "10s"
prompt_tokens = 200
completion_tokens = 100
requests = { edge = 6.0 }

[arms.tiny]
kind = "local"
first_ms = 200.0
tokens_per_second = 50.0
max_tokens = 200
reward = { easy = 0.8, hard = 0.3 }
prior = { latency = "2s" }

[arms.cloud]
kind = "cloud"
first_ms = 300.0
tokens_per_second = 100.0
max_tokens = 200
price = { input_usd_per_mtok = "5.00", output_usd_per_mtok = "20.00", request_usd = "0" }
reward = { easy = 0.9, hard = 0.9 }
prior = { latency = "2s" }
"""


def write_small(folder: Path, *, more: str = "", **changes: str) -> Path:
    """Write the small scenario with some of its text replaced, and more tables after it."""
    text = SMALL
    for old, new in changes.items():
        key = old.replace("__", "\n")
        if key not in text:
            raise AssertionError(f"{key!r} is not in the small scenario")
        text = text.replace(key, new)
    path = folder / "small.toml"
    path.write_text(text + more, encoding="utf-8")
    return path


def small(folder: Path, *, more: str = "") -> Scenario:
    """The small scenario, with more tables after it."""
    return load_scenario(write_small(folder, more=more))


def event(kind: str, **keys: object) -> str:
    """One `[[events]]` table."""
    lines = [f"{key} = {_value(value)}" for key, value in keys.items()]
    return "\n".join(["", "[[events]]", f'kind = "{kind}"', *lines, ""])


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
