"""The machine's condition: read beside the requests, and what its limits do to them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from prometheus_client import CollectorRegistry

from edge_agent.adapters.device_metrics import DeviceCollector
from edge_agent.device_limits import DeviceLimits, KindLimits
from edge_agent.device_watch import DeviceWatch
from edge_agent.ports import DeviceSensors
from edge_agent.requests import RequestRefused
from shared.decision.types import ArmKind, Battery, DeviceState, Fallout
from tests.unit.edge_agent.test_running_requests import Agent, an_agent, ask, read

HOT = DeviceState(temperature_celsius=95.0)
COOL = DeviceState(temperature_celsius=40.0)
LIMITS = DeviceLimits(local=KindLimits(temperature_celsius_max=90.0))


class Readings(DeviceSensors):
    """Sensors that say what a test has put in."""

    def __init__(self, state: DeviceState) -> None:
        self.state = state

    def read(self) -> DeviceState:
        return self.state


async def agent_with(state: DeviceState, limits: DeviceLimits) -> tuple[Agent, Readings]:
    """An agent with a lease whose machine is in that state."""
    agent, readings = await an_agent(), Readings(state)
    agent.service.watch = DeviceWatch(readings, limits=limits)
    await agent.service.watch.look()
    return agent, readings


async def test_a_hot_device_leaves_the_work_to_the_cloud() -> None:
    """The local arm falls out with its reason; it is back when the device has cooled down."""
    agent, readings = await agent_with(HOT, LIMITS)
    answer = await agent.chat(ask())
    await read(answer)
    assert ("cloud", "table;without:tiny=hot") == (answer.head.arm, answer.head.reason)
    outcome = await agent.outcomes.get()
    assert ((Fallout("tiny", "hot"),), True) == (outcome.fallouts, outcome.forced)
    assert {"tiny": False, "cloud": True} == {m.id: m.available for m in agent.service.models()}
    readings.state = COOL
    await agent.service.watch.look()
    again = await agent.chat(ask("r2"))
    await read(again)
    assert "table" == again.head.reason


async def test_a_hot_device_without_a_way_out_says_why_it_does_not_answer() -> None:
    """Its operator wants it so; the error and `/health` name the limit."""
    agent, _ = await agent_with(HOT, LIMITS)
    with pytest.raises(RequestRefused, match="tiny: hot") as caught:
        await agent.chat(ask(model="tiny"))
    assert 503 == caught.value.status
    assert "local arms are closed by a limit of this device: hot" in (
        agent.service.readiness().problems
    )


async def test_money_is_named_before_the_device_s_limits() -> None:
    """The order of the design: what a lease would refuse is not put down to the battery."""
    limits = DeviceLimits(cloud=KindLimits(battery_ratio_min=0.5))
    agent, _ = await agent_with(DeviceState(battery=Battery(0.1, on_mains=False)), limits)
    await agent.service._bookkeeper.commit(agent.engine.gate.pause(True))
    answer = await agent.chat(ask())
    await read(answer)
    assert "table;without:cloud=spend_paused" == answer.head.reason
    await agent.service._bookkeeper.commit(agent.engine.gate.pause(False))
    answer = await agent.chat(ask("r2"))
    await read(answer)
    assert "table;without:cloud=battery" == answer.head.reason


async def test_new_limits_hold_at_once() -> None:
    """They are judged by the last reading."""
    agent, _ = await agent_with(HOT, DeviceLimits())
    watch = agent.service.watch
    assert "" == watch.closed(ArmKind.LOCAL)
    watch.set_limits(LIMITS)
    assert "hot" == watch.closed(ArmKind.LOCAL)
    watch.set_limits(DeviceLimits())
    assert "" == watch.closed(ArmKind.LOCAL)


async def test_a_heartbeat_tells_the_reading_and_what_is_closed() -> None:
    """With what the agent itself knows."""
    agent, _ = await agent_with(HOT, LIMITS)
    state = agent.service.device_state()
    assert (95.0, (Fallout("local", "hot"),)) == (state.temperature_celsius, state.limited)
    assert (("tiny",), "ok") == (state.loaded_arms, state.books_state)


def test_metrics_tell_what_the_machine_tells() -> None:
    """In base units; what it does not tell has no sample."""
    state = DeviceState(
        cpu_percent=50.0,
        temperature_celsius=61.5,
        throttled=True,
        battery=Battery(0.25, on_mains=True),
        limited=(Fallout("local", "hot"),),
    )
    registry = CollectorRegistry()
    registry.register(DeviceCollector(lambda: state))
    value = registry.get_sample_value
    assert 0.5 == value("tidegate_device_cpu_ratio")
    assert 61.5 == value("tidegate_device_temperature_celsius")
    assert 1.0 == value("tidegate_device_throttled")
    assert (0.25, 1.0) == (
        value("tidegate_device_battery_ratio"),
        value("tidegate_device_battery_on_mains"),
    )
    assert value("tidegate_device_power_watts") is None
    assert (1.0, 0.0) == (
        value("tidegate_device_arms_closed", {"kind": "local"}),
        value("tidegate_device_arms_closed", {"kind": "cloud"}),
    )


async def test_all_readings_come_from_one_thread() -> None:
    """What psutil says of the processor's work is since the last call of the same thread."""
    threads: list[str] = []

    class Noting(DeviceSensors):
        def read(self) -> DeviceState:
            threads.append(threading.current_thread().name)
            return DeviceState()

    watch = DeviceWatch(Noting(), limits=DeviceLimits())
    await asyncio.gather(*(watch.look() for _ in range(5)))
    assert (5, 1) == (len(threads), len(set(threads)))
