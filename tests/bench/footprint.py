"""What an agent takes before it has loaded a language model: memory, and time to be ready.

A device of a fleet that pays for every answer, with the shipped task model. Its first start brings
configuration and table, the second compiles the modules as an installer would; those that are
measured are the starts of every day, from its own books.
"""

from __future__ import annotations

import http.client
import os
import statistics
import time
from dataclasses import dataclass, replace
from typing import Final

import psutil

from tests.bench.figures import ROUNDS, Figure
from tests.bench.paying import paying_fleet
from tests.e2e.fleet import Agent, Fleet, wait_for

MEMORY_MIB_MAX: Final = 125
READY_S_MAX: Final = 2.0
GIVE_UP_S: Final = 60.0
POLL_S: Final = 0.005
ASKED: Final = 20
CLASSES: Final = ("code", "math", "multiple_choice", "qa", "summarisation", "translation")


@dataclass(frozen=True)
class Start:
    """One start of an agent.

    Attributes
    ----------
    ready_s : float
        From the process's start to the first `/readyz` that says yes.
    memory_mib : float
        Resident, of the process and its children, after a few classified requests; MiB.
    cpu_s : float
        What the process had computed when it was ready.
    """

    ready_s: float
    memory_mib: float
    cpu_s: float


def footprint() -> list[Figure]:
    """Resident memory, and time from the start to `/readyz`; medians."""
    with paying_fleet(task_classes=CLASSES) as fleet:
        # It gets its configuration, and is started again from its books.
        agent = fleet.start_agent("small", device_class="edge", models="")
        wait_for(agent.may_spend, what="the first lease")
        fleet.children.stop(agent.child)
        _, *starts = [_start(fleet, agent) for _ in range(1 + ROUNDS)]
    memory_mib = statistics.median(each.memory_mib for each in starts)
    ready_s = statistics.median(each.ready_s for each in starts)
    cpu_s = statistics.median(each.cpu_s for each in starts)
    return [
        Figure.at_most(
            "footprint, memory",
            memory_mib,
            MEMORY_MIB_MAX,
            unit="MiB resident",
            against=f"classifier loaded, {ASKED} requests answered",
            digits=1,
        ),
        Figure.at_most(
            "footprint, start",
            ready_s,
            READY_S_MAX,
            unit="s to ready",
            against=f"{cpu_s:.2f} s of them computing; load {os.getloadavg()[0]:.1f}",
        ),
    ]


def _start(fleet: Fleet, agent: Agent) -> Start:
    """Start the agent, wait until it is ready, let it answer, and stop it."""
    begun = time.perf_counter()
    command = fleet.agent_command(agent.name, config=agent.config)
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(fleet.folder / "compiled"),
    }
    child = fleet.children.start(replace(command, environment={**command.environment, **compiled}))
    while not _ready(agent):
        child.check()
        if time.perf_counter() - begun > GIVE_UP_S:
            raise TimeoutError(f"{agent.url}/readyz says no:\n{child.log_tail()}")
        time.sleep(POLL_S)
    ready_s = time.perf_counter() - begun
    process = psutil.Process(child.pid)
    cpu = process.cpu_times()
    wait_for(agent.may_spend, what="a lease")
    for number in range(ASKED):
        reply = agent.chat(f"Translate to French: the cat is {number} years old.")
        told = reply.headers["x-tidegate-task"]
        if reply.status != 200 or not told.startswith("translation;source=classifier"):
            raise RuntimeError(f"status {reply.status}, task {told}: the classifier does not work")
    family = [process, *process.children(recursive=True)]
    memory_mib = sum(each.memory_info().rss for each in family) / 2**20
    fleet.children.stop(child)
    return Start(ready_s, memory_mib, cpu.user + cpu.system)


def _ready(agent: Agent) -> bool:
    host, port = agent.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
