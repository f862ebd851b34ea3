"""The machine itself: processor, memory, disk, sensors, clock."""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

from edge_agent.adapters.doctor.finding import Finding, fail, ok, warn
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, memory_bytes
from edge_agent.adapters.model_library.library import FREE_BYTES_MIN, size_text
from edge_agent.adapters.sensors import files
from edge_agent.config import AgentConfig
from edge_agent.device_limits import KindLimits
from edge_agent.ports import LocalModel
from shared.decision.types import DeviceState

DISK_BYTES_GOOD: Final = 1024**3
_FAST_FEATURES: Final = {
    "x86_64": {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C"},
    "aarch64": {"asimd": "NEON", "asimddp": "dot product"},
}
_ALSO_USED: Final = ("avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "i8mm", "sve", "bf16")
_TIME_ERROR: Final = 5
"""What adjtimex(2) answers while nothing keeps the clock in step."""
_TIMEX_BYTES: Final = 512


def processor(root: Path) -> Finding:
    """What llama.cpp can make use of."""
    machine, cores = platform.machine(), psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    features = _features(files.text(root / "proc/cpuinfo"))
    used = [feature for feature in _ALSO_USED if feature in features]
    known = {name: "arm64" if name == "aarch64" else name for name in _FAST_FEATURES}
    wanted = _FAST_FEATURES.get(machine, {})
    says = f"{known.get(machine, machine)}, {cores} core{'s' if cores > 1 else ''}"
    if not features:
        return ok("processor", says)
    missing = [name for feature, name in wanted.items() if feature not in features]
    has = [name for feature, name in wanted.items() if feature in features]
    says += f", {', '.join([*has, *used])}" if has or used else ""
    if missing:
        return warn(
            "processor",
            f"{says}; without {', '.join(missing)}",
            "models run several times slower than on a newer processor: keep to small ones",
        )
    return ok("processor", says)


def _features(cpuinfo: str) -> frozenset[str]:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def memory(
    models: Sequence[LocalModel], *, memory_bytes_max: int, state: DeviceState
) -> Iterator[Finding]:
    """Whether the models fit, one by one and together."""
    total, available = state.memory_total_bytes, state.memory_available_bytes
    room = min(total, memory_bytes_max) if memory_bytes_max else total
    needs: dict[str, int] = {}
    for model in models:
        try:
            needs[model.arm] = memory_bytes(model)
        except ModelFileError:
            continue  # the check of the models says so
    has = f"{size_text(total)}, {size_text(available)} available"
    for arm, need in needs.items():
        if need > room:
            limit = " (worker.memory_bytes_max)" if room < total else ""
            yield fail(
                "memory",
                f"the model of {arm} needs {size_text(need)} of {size_text(room)}{limit}",
                "take a smaller model or quantisation, or lower context_tokens or batch_sequences",
            )
    together = sum(needs.values())
    if needs and together > available and not memory_bytes_max:
        yield warn(
            "memory",
            f"{has}; all models together need {size_text(together)}",
            "set worker.memory_bytes_max, so that models are unloaded in time",
        )
    else:
        uses = f"; all models together need {size_text(together)}" if needs else ""
        yield ok("memory", has + uses)


def disk(settings: AgentConfig) -> Finding:
    """Room for the books, and for models."""
    folder = settings.state_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    says = f"{size_text(free)} free for {settings.state_dir}"
    remedy = "free some: on a full disk paid arms close, and nothing can be spooled"
    if free < FREE_BYTES_MIN:
        return fail("disk", says, remedy)
    return warn("disk", says, remedy) if free < DISK_BYTES_GOOD else ok("disk", says)


def sensors(settings: AgentConfig, *, state: DeviceState) -> Iterator[Finding]:
    """What the board tells, and limits that would wait for what it does not tell."""
    told = []
    if state.temperature_celsius:
        told.append(f"{state.temperature_celsius:.0f} °C")
    if state.power_watts:
        told.append(f"{state.power_watts:.1f} W")
    if state.battery is not None:
        where = "on the mains" if state.battery.on_mains else "discharging"
        told.append(f"battery {state.battery.charge_ratio:.0%}, {where}")
    if state.throttled:
        yield warn(
            "sensors",
            f"the processor is held back: {', '.join(state.throttle_reasons)}",
            "see to its supply and its cooling",
        )
    limits = settings.limits.to_limits()
    for kind, each in (("local", limits.local), ("cloud", limits.cloud)):
        for key in _unheard(each, state):
            yield warn(
                "sensors",
                f"limits.{kind}.{key} is set, and this board does not tell it",
                "the limit has no effect; remove it, or see why the sensor cannot be read",
            )
    yield ok("sensors", ", ".join(told) or "the board tells neither heat, power nor a battery")


def _unheard(limits: KindLimits, state: DeviceState) -> Iterator[str]:
    if limits.temperature_celsius_max and not state.temperature_celsius:
        yield "temperature_celsius_max"
    if limits.battery_ratio_min and state.battery is None:
        yield "battery_percent_min"
    if limits.power_watts_max and not state.power_watts:
        yield "power_watts_max"


def clock_in_step() -> Finding:
    """Whether something keeps this machine's clock right, as the kernel knows it."""
    if sys.platform != "linux":
        return ok("clock", "kept by the system")
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        return warn(
            "clock",
            "nothing keeps it in step with a time server",
            "enable one: timedatectl set-ntp true (or install chrony)",
        )
    return ok("clock", "kept in step with a time server")
