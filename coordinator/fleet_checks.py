"""What is wrong with a fleet file beyond single keys: relations between them. Pure."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from coordinator.fleet_schema import ArmTable, CloudArmTable, FleetFile
from coordinator.fleet_values import NAME, is_loopback_host, name_problem
from coordinator.forecast import PathModel, make_forecaster
from coordinator.policy import make_policy
from shared.decision.types import COORDINATOR_KEY, REQUEST_FIELDS
from shared.limits import ARMS_MAX, DEVICE_CLASSES_MAX, SLOTS_PER_WINDOW_MAX, TASK_CLASSES_MAX
from shared.settings import Problem, did_you_mean, dotted_key
from shared.units import duration_text

_NAMED_MAX: Final = {
    "arms": ARMS_MAX,
    "device_classes": DEVICE_CLASSES_MAX,
    "task_classes": TASK_CLASSES_MAX,
}
# A device class that no arm serves, and an arm that no file describes, are mistakes.
_NAMED_MIN: Final = {"arms": 1, "device_classes": 1, "task_classes": 0}


def name_problems(data: Mapping[str, Any]) -> list[Problem]:
    """Names that nobody can type into a metric's label, and tables of too many entries."""
    problems = []
    for section, most in _NAMED_MAX.items():
        table = data.get(section)
        if not isinstance(table, dict):
            continue
        if not _NAMED_MIN[section] <= len(table) <= most:
            wanted = f"{_NAMED_MIN[section]} to {most}"
            problems.append(Problem(section, f"has {len(table)} entries; {wanted} are possible"))
        problems += [
            Problem(dotted_key([section, name]), name_problem(name))
            for name in table
            if not NAME.fullmatch(name)
        ]
    return problems


def window_problems(file: FleetFile, *, now_unix_ms: int) -> list[Problem]:
    """Slots that do not fill their window, windows that have not begun, hasty leases."""
    problems = []
    length, slot = file.window.length, file.window.slot
    if length % slot:
        problem = (
            f"{duration_text(slot)} does not divide the window's length {duration_text(length)}"
        )
        problems.append(Problem("window.slot", problem))
    elif length // slot > SLOTS_PER_WINDOW_MAX:
        problem = f"makes {length // slot} slots a window; at most {SLOTS_PER_WINDOW_MAX} work"
        problems.append(Problem("window.slot", problem))
    if file.window.anchor * 1_000 > now_unix_ms:
        problems.append(Problem("window.anchor", "lies in the future; windows would not begin"))
    if file.link.lease_duration <= file.link.heartbeat:
        problem = f"should be longer than link.heartbeat, {duration_text(file.link.heartbeat)}"
        problems.append(Problem("link.lease_duration", problem))
    return problems


def policy_problems(file: FleetFile, *, demand_model: PathModel | None) -> list[Problem]:
    """Policies, forecasters and options that nobody knows."""
    policy = file.policy
    forecaster = partial(make_forecaster, policy.forecaster, prior=np.zeros(1), model=demand_model)
    tries = (
        ("policy.kind", lambda: make_policy(policy.kind), True),
        ("policy.options", lambda: make_policy(policy.kind, **policy.options), policy.options),
        ("policy.forecaster", forecaster, True),
        (
            "policy.forecaster_options",
            lambda: forecaster(**policy.forecaster_options),
            policy.forecaster_options,
        ),
    )
    problems: list[Problem] = []
    for key, make, given in tries:
        if not given or any(key.startswith(found.key) for found in problems):
            continue
        try:
            made = make()
            if key.endswith("options"):
                problems += _option_problems(key, made=made, options=getattr(policy, key[7:]))
        except (TypeError, ValueError) as error:
            problems.append(Problem(key, str(error)))
    return problems


def _option_problems(key: str, *, made: object, options: Mapping[str, Any]) -> list[Problem]:
    """Options whose type is not that of their default."""
    problems = []
    for name, parameter in inspect.signature(type(made)).parameters.items():
        if name not in options or not isinstance(parameter.default, bool | int | float | str):
            continue
        wanted, value = type(parameter.default), options[name]
        if type(value) is int and wanted is float:
            continue
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            problem = f"should be of the type of its default, {parameter.default!r}"
            problems.append(Problem(dotted_key([name], prefix=key), problem))
    return problems


def arm_problems(name: str, *, arm: ArmTable, now_unix_ms: int) -> list[Problem]:
    """An answer longer than the context, an outdated price, a key sent in the clear."""
    prefix = dotted_key(["arms", name])
    problems = []
    context = getattr(arm, "context_tokens_max", arm.max_tokens_default + 1)
    if arm.max_tokens_default >= context:
        problem = f"leaves no room for a prompt: context_tokens_max is {context}"
        problems.append(Problem(f"{prefix}.max_tokens_default", problem))
    if not isinstance(arm, CloudArmTable):
        return problems
    if arm.price.valid_until and arm.price.valid_until <= now_unix_ms:
        problem = "lies in the past; enter the price that holds now"
        problems.append(Problem(f"{prefix}.price.valid_until", problem))
    url = urlsplit(arm.base_url)
    if url.scheme == "http" and not arm.insecure and not is_loopback_host(url.hostname or ""):
        problem = (
            "sends prompts and the key in the clear; use https, or set insecure = true if the "
            "network is your own"
        )
        problems.append(Problem(f"{prefix}.base_url", problem))
    return problems


def key_problems(arms: Mapping[str, ArmTable], *, known: Collection[str]) -> list[Problem]:
    """Keys that the coordinator is to deliver and does not have."""
    problems = []
    for name, arm in arms.items():
        kind, _, key = getattr(arm, "api_key", "").partition(":")
        if kind == COORDINATOR_KEY and key not in known:
            there = f"known are {', '.join(sorted(known))}" if known else "it has none"
            problem = (
                f"the coordinator has no provider key {key!r}; {there}: name it in "
                "[provider_keys] of the coordinator's own configuration"
            )
            problems.append(Problem(dotted_key(["arms", name, "api_key"]), problem))
    return problems


def field_problems(arms: Mapping[str, ArmTable]) -> list[Problem]:
    """Request fields that could be listed for ever and would never come: agents refuse them."""
    return [
        Problem(
            dotted_key(["arms", name, "fields"]),
            f"{field[:64]!r} is no request field that an agent passes on"
            + did_you_mean(field, REQUEST_FIELDS),
        )
        for name, arm in arms.items()
        if isinstance(arm, CloudArmTable)
        for field in arm.fields
        if field not in REQUEST_FIELDS
    ]


def class_problems(file: FleetFile) -> list[Problem]:
    """Device classes that name unknown arms, or have none for a task class."""
    problems = []

    def chats(arm: str) -> bool:
        can = file.arms[arm].get("capabilities", ())
        return "embeddings" not in can or "chat" in can

    private = sorted(name for name, task in file.task_classes.items() if task.privacy == "local")
    for name, device_class in file.device_classes.items():
        key = f"{dotted_key(['device_classes', name])}.arms"
        if not device_class.arms:
            problems.append(Problem(key, "is empty; a device needs at least one arm"))
            continue
        unknown = [arm for arm in device_class.arms if arm not in file.arms]
        problems += [
            Problem(key, f"{arm!r} is no arm of this file{did_you_mean(arm, file.arms)}")
            for arm in unknown
        ]
        if device_class.arms and not unknown and not any(map(chats, device_class.arms)):
            problems.append(
                Problem(key, "has arms for embeddings only; add one that answers chats")
            )
        paid = [arm for arm in device_class.arms if file.arms.get(arm, {}).get("kind") == "cloud"]
        if private and paid == device_class.arms:
            problem = (
                f'has no local arm, but the task class {private[0]!r} has privacy = "local"; '
                "add a local arm"
            )
            problems.append(Problem(key, problem))
    return problems
