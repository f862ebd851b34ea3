"""The configuration files of a run: the fleet's, the coordinator's, and one for each agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.demo.models.tasks import TASK_CLASSES
from deploy.demo.settings import (
    CLOUD_ARM,
    CLOUD_KEY_VARIABLE,
    DEVICES,
    LOCAL_ARMS,
    MAX_TOKENS,
    MODELS,
    DemoSettings,
)

PRIOR_REWARDS = {"tiny": 0.4, "small": 0.6, CLOUD_ARM: 0.9}
PRIOR_LATENCIES_MS = {"tiny": 150, "small": 250, CLOUD_ARM: 250}
PRIOR_PROMPT_TOKENS = 24
PRIOR_COMPLETION_TOKENS = 7
CONTEXT_TOKENS = 256
CLOUD_FIELDS = ("max_tokens", "temperature")


def fleet_toml(settings: DemoSettings, *, cloud_url: str, anchor_unix_s: int) -> str:
    """The fleet file: budget, constraints, policy, arms, device classes and task classes.

    Parameters
    ----------
    cloud_url : str
        Base URL of the paid endpoint.
    anchor_unix_s : int
        When the window begins.
    """
    parts = [
        f"""\
[fleet]
name = "demo"

[window]
length = "{settings.window_s}s"
slot = "{settings.slot_s}s"
anchor = {anchor_unix_s}

[budget]
name = "cloud"
amount_usd = "{settings.budget_usd}"

[sla]
floor = {settings.sla_floor}
rho = {settings.sla_rho}
slack_max = {settings.sla_slack_max}

[policy]
kind = "lp_ucb"
forecaster = "chooser"
prompt_tokens_prior = {PRIOR_PROMPT_TOKENS}
completion_tokens_prior = {PRIOR_COMPLETION_TOKENS}

[link]
heartbeat = "1s"
lease_duration = "40s"
# Enough for the outage: a device alone goes on paying as planned.
lease_slots = 12
close_wait = "5s"
"""
    ]
    parts += [_local_arm(arm) for arm in LOCAL_ARMS]
    parts.append(_cloud_arm(settings, cloud_url))
    for name, device in DEVICES.items():
        parts.append(f"[device_classes.{name}]\narms = {_texts(device.arms)}\n")
    contexts = len(DEVICES) * len(TASK_CLASSES)
    demand = settings.requests_per_s * settings.slot_s / contexts
    for task_class in TASK_CLASSES:
        parts.append(
            f"[task_classes.{task_class}]\n"
            f'deadline = "{settings.deadlines_ms[task_class]}ms"\n'
            f"demand_prior = {demand:.3f}\n"
        )
    return "\n".join(parts)


def _local_arm(arm: str) -> str:
    return f"""\
[arms.{arm}]
kind = "local"
model = "{arm}.gguf"
context_tokens_max = {CONTEXT_TOKENS}
max_tokens_default = {MAX_TOKENS}
bytes_per_token = 1.0

{_prior(arm)}"""


def _cloud_arm(settings: DemoSettings, cloud_url: str) -> str:
    prices = settings.prices
    return f"""\
[arms.{CLOUD_ARM}]
kind = "cloud"
model = "{CLOUD_ARM}"
context_tokens_max = {CONTEXT_TOKENS}
max_tokens_default = {MAX_TOKENS}
bytes_per_token = 1.0
base_url = "{cloud_url}"
api_key = "env:{CLOUD_KEY_VARIABLE}"
fields = {_texts(CLOUD_FIELDS)}
connect_timeout = "2s"
first_byte_timeout = "10s"
drain_timeout = "10s"

[arms.{CLOUD_ARM}.price]
input_usd_per_mtok = "{prices.input_usd_per_mtok}"
output_usd_per_mtok = "{prices.output_usd_per_mtok}"
request_usd = "{prices.request_usd}"

# The model's tokens are bytes, and its chat template adds one token a message and two more.
[arms.{CLOUD_ARM}.worst_case]
bytes_factor = 1.0
message_overhead_tokens = 4
request_overhead_tokens = 8

{_prior(CLOUD_ARM)}"""


def _prior(arm: str) -> str:
    return f"""\
[arms.{arm}.prior]
reward = {PRIOR_REWARDS[arm]}
latency = "{PRIOR_LATENCIES_MS[arm]}ms"
prompt_tokens = {PRIOR_PROMPT_TOKENS}
completion_tokens = {PRIOR_COMPLETION_TOKENS}
"""


def coordinator_toml(*, port: int, web_port: int, state: Path) -> str:
    """The coordinator's file; its books are a SQLite database in its state folder."""
    return f"""\
listen = "127.0.0.1:{port}"
web_listen = "127.0.0.1:{web_port}"
database_url = "sqlite:///{state / "coordinator.db"}"
state_dir = "{state}"
drain = "3s"

[log]
format = "console"
"""


def agent_toml(
    name: str, *, port: int, coordinator_port: int, state: Path, join_token: Path
) -> str:
    """The file of one agent; the pace of its models stands in for its hardware.

    Parameters
    ----------
    name : str
        The device class, which is also the device's name.
    join_token : pathlib.Path
        The file that holds the join token.
    """
    parts = [
        f"""\
listen = "127.0.0.1:{port}"
state_dir = "{state}"
name = "{name}"
drain = "3s"

[coordinator]
address = "127.0.0.1:{coordinator_port}"
join_token = "file:{join_token}"

[log]
format = "console"
"""
    ]
    for arm, pace in DEVICES[name].tokens_per_second.items():
        parts.append(
            f"""\
[[models]]
arm = "{arm}"
path = "{MODELS / f"{arm}.gguf"}"
context_tokens = {CONTEXT_TOKENS}
threads = 1
batch_sequences = 4
tokens_per_second_max = {pace}
"""
        )
    return "\n".join(parts)


def write_all(folder: Path, texts: Mapping[str, str]) -> dict[str, Path]:
    """Write configuration files; their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.toml" for name in texts}
    for name, text in texts.items():
        paths[name].write_text(text)
    return paths


def _texts(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
