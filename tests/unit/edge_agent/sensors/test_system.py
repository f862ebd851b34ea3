"""What each board tells, read from recordings of its kernel's files."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent.adapters.sensors import SystemSensors
from edge_agent.adapters.sensors.battery import from_psutil
from edge_agent.adapters.sensors.firmware import vcgencmd
from edge_agent.adapters.sensors.power import Rapl
from shared.decision.types import Battery, DeviceState
from tests.unit.edge_agent.sensors.board import Board, recorded

Sensors = Callable[..., tuple[SystemSensors, Board]]


def silent(_: str) -> str:
    """No firmware to ask."""
    return ""


@pytest.fixture
def board(tmp_path: Path) -> Sensors:
    """Makes the sensors of a recorded board."""

    def make(name: str, **options: object) -> tuple[SystemSensors, Board]:
        made = Board(tmp_path / "root", name)
        given = {"ask": silent, **options}
        return SystemSensors(state_dir=tmp_path, root=made.root, **given), made  # type: ignore[arg-type]

    return make


def test_a_jetson_tells_heat_power_and_the_pressure_on_its_memory(board: Sensors) -> None:
    """The hottest zone, the input rail alone, and no sensor that is switched off."""
    sensors, _ = board("jetson_orin_nano")
    state = sensors.read()
    assert 63.812 == state.temperature_celsius
    assert 4.984 * 1.856 == pytest.approx(state.power_watts)
    assert 0.015 == pytest.approx(state.memory_pressure_ratio)
    assert (False, None) == (state.throttled, state.battery)


def test_a_jetson_without_an_input_rail_adds_its_rails_up(board: Sensors) -> None:
    """All chips, without channels that are not connected; a zone that lies is passed over."""
    state = board("jetson_agx_orin")[0].read()
    assert 3.8 + 1.9 + 3.0 + 0.5 == pytest.approx(state.power_watts)
    assert 48.5 == state.temperature_celsius


def test_over_current_on_a_jetson_is_throttling_once(board: Sensors) -> None:
    """What happened before the agent started does not count; a new event does, until read."""
    sensors, files = board("jetson_orin_nano")
    assert () == sensors.read().throttle_reasons
    files.write("sys/class/hwmon/hwmon3/oc3_event_cnt", "5")
    assert ("over_current",) == sensors.read().throttle_reasons
    assert () == sensors.read().throttle_reasons


def test_a_cooling_device_that_slows_the_processor_is_throttling(board: Sensors) -> None:
    """A fan is not."""
    sensors, files = board("jetson_orin_nano")
    files.write("sys/class/thermal/cooling_device4/cur_state", "2")
    assert (True, ("cooling",)) == (sensors.read().throttled, sensors.read().throttle_reasons)


def test_a_raspberry_pi_tells_why_it_is_held_back(board: Sensors) -> None:
    """The bits of now, not those of the past."""
    sensors, files = board("raspberry_pi_4")
    state = sensors.read()
    assert 71.094 == state.temperature_celsius
    assert ("under_voltage", "throttled") == state.throttle_reasons
    files.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50000")
    assert not sensors.read().throttled


def test_a_raspberry_pi_5_is_asked_through_its_firmware(board: Sensors) -> None:
    """Throttling and the sum of the PMIC's rails; one answer holds for ten seconds."""
    clock, asked = SimpleNamespace(now=0.0), []

    def ask(command: str) -> str:
        asked.append(command)
        answers = {
            "get_throttled": "throttled=0x8\n",
            "pmic_read_adc": recorded("pi_5_pmic_read_adc"),
        }
        return answers[command]

    sensors, _ = board("raspberry_pi_5", ask=ask, now_s=lambda: clock.now)
    state = sensors.read()
    assert ("soft_temperature_limit",) == state.throttle_reasons
    assert 0.1 * 3.7 + 0.2 * 3.3 + 2.0 * 0.8 == pytest.approx(state.power_watts)
    clock.now = 9.0
    assert state.power_watts == sensors.read().power_watts
    assert ["get_throttled", "pmic_read_adc"] == asked
    clock.now = 10.0
    sensors.read()
    assert 4 == len(asked)


def test_a_laptop_on_its_battery(board: Sensors) -> None:
    """Its own battery, not the mouse's; what it draws; the package, not the wireless card."""
    sensors, files = board("laptop")
    state = sensors.read()
    assert Battery(charge_ratio=0.34, on_mains=False) == state.battery
    assert 1.2 * 11.5 == pytest.approx(state.power_watts)
    assert (66.0, False) == (state.temperature_celsius, state.throttled)
    files.write("sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", "2")
    assert ("hot_core",) == sensors.read().throttle_reasons


@pytest.mark.parametrize(
    ("online", "status", "on_mains"),
    [
        ("1", "Charging", True),
        ("1", "Discharging", True),
        ("0", "Not charging", True),
        ("0", "Unknown", False),
    ],
)
def test_a_plugged_in_laptop_is_on_the_mains(
    board: Sensors, online: str, status: str, on_mains: bool
) -> None:
    """By its mains adapter, else by what the battery does."""
    sensors, files = board("laptop")
    files.write("sys/class/power_supply/AC/online", online)
    files.write("sys/class/power_supply/BAT0/status", status)
    battery = sensors.read().battery
    assert battery is not None
    assert on_mains is battery.on_mains


def test_a_plugged_in_laptops_power_comes_from_its_energy_counters(board: Sensors) -> None:
    """The mean between two readings; sub-zones are part of their package."""
    clock = SimpleNamespace(now=0.0)
    sensors, files = board("laptop", now_s=lambda: clock.now)
    files.write("sys/class/power_supply/BAT0/status", "Full")
    files.write("sys/class/powercap/intel-rapl:0/energy_uj", "31000000")
    clock.now = 2.0
    assert 15.0 == pytest.approx(sensors.read().power_watts)


def test_an_energy_counter_that_starts_again_is_understood(tmp_path: Path) -> None:
    """It wraps at its stated maximum."""
    files, clock = Board(tmp_path, "laptop"), SimpleNamespace(now=0.0)
    meter = Rapl(tmp_path, now_s=lambda: clock.now)
    files.write("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "10000000")
    files.write("sys/class/powercap/intel-rapl:0/energy_uj", "9000000")
    assert meter.watts() is None
    files.write("sys/class/powercap/intel-rapl:0/energy_uj", "1000000")
    clock.now = 1.0
    assert 2.0 == pytest.approx(meter.watts())


def test_a_processor_without_a_thermal_zone_tells_through_its_chip(board: Sensors) -> None:
    """AMD's k10temp, for one."""
    sensors, files = board("laptop")
    for zone in ("0", "6", "7"):
        files.write(f"sys/class/thermal/thermal_zone{zone}/temp", "")
    files.write("sys/class/hwmon/hwmon2/name", "k10temp")
    files.write("sys/class/hwmon/hwmon2/temp1_input", "58125")
    assert 58.125 == sensors.read().temperature_celsius


def test_a_machine_that_tells_nothing_has_the_defaults(tmp_path: Path) -> None:
    """A container, say: what psutil knows remains."""
    (tmp_path / "sys/class").mkdir(parents=True)
    state = SystemSensors(state_dir=tmp_path, root=tmp_path, ask=silent).read()
    nothing = DeviceState()
    assert nothing.temperature_celsius == state.temperature_celsius
    assert (0.0, None, False) == (state.power_watts, state.battery, state.throttled)
    assert 0 < state.memory_available_bytes <= state.memory_total_bytes
    assert state.disk_available_bytes > 0


def test_psutil_tells_the_battery_where_there_is_no_sysfs() -> None:
    """On macOS; a machine without one tells none."""
    told = SimpleNamespace(percent=81.0, secsleft=3_600, power_plugged=False)
    assert Battery(charge_ratio=0.81, on_mains=False) == from_psutil(lambda: told)
    assert from_psutil(lambda: None) is None
    assert from_psutil(None) is None


def test_the_firmware_is_asked_by_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it prints counts only if it succeeds; without it there is no answer."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "" == vcgencmd("get_throttled")
    program = tmp_path / "vcgencmd"
    program.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50005\n')
    program.chmod(0o755)
    assert "throttled=0x50005\n" == vcgencmd("get_throttled")
    assert "" == vcgencmd("no_such_command")


def test_a_firmware_that_hangs_does_not_hold_the_agent_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is bounded; the reading goes on without it."""

    def hang(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("vcgencmd", timeout)

    (tmp_path / "vcgencmd").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", hang)
    assert "" == vcgencmd("get_throttled")
