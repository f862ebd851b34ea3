"""The processes of a chaos run: a fleet, two providers, and links between them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import httpx2 as httpx

from deploy.demo.cloud import Cloud, start_cloud, wait_cloud
from deploy.demo.processes import Child, free_ports
from deploy.demo.settings import CLOUD_ARM, DemoSettings, cloud_python
from shared.pb.v1 import admin_pb2
from tests.chaos.meter import Bills, provider_command, read_bills
from tests.chaos.proxy import Link, Proxies
from tests.e2e.fleet import Agent, CloudArm, Fleet, model_toml, wait_for
from tests.e2e.provider import KEY

METERED: Final = "metered"
SMALL_DISK_BYTES: Final = 48 * 1024 * 1024
HEAL_S_MAX: Final = 120.0
STOP_ROUNDS: Final = 3
PAGE_ROWS: Final = 2_000
AWAY: Final = (grpc.RpcError, ValueError)
"""What a call of the coordinator raises while it is away, or is being started again."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Spell:
    """A time in which something was done to a process, on `time.monotonic`."""

    name: str
    from_s: float
    until_s: float


@dataclass
class Scene:
    """Everything that runs.

    Attributes
    ----------
    links : dict of str to Link
        By agent towards the coordinator, and by arm towards the providers.
    skipped : dict of str to str
        What this machine does not allow, and why.
    killed, cloned : list of Spell
        When processes were dead, from `kill -9` until they answered again; and when a copy of a
        device ran beside it, until the device was let back.
    stranded : set of str
        Requests whose outcomes stayed behind on the disk of a clone that was taken away.
    """

    folder: Path
    proxies: Proxies
    fleet: Fleet
    agents: tuple[str, ...]
    seed: int
    links: dict[str, Link] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    killed: list[Spell] = field(default_factory=list)
    cloned: list[Spell] = field(default_factory=list)
    stranded: set[str] = field(default_factory=set)
    cloud: Cloud | None = None
    small_disk: str = ""
    _named: dict[str, Child] = field(default_factory=dict)

    # Setting up.

    def start(self, *, budget_usd: str) -> None:
        """Start every process and wait until each agent may spend."""
        (port,) = free_ports(1)
        self.start_provider(port)
        self._start_cloud()
        self.links[METERED] = self.proxies.link(port)
        clouds = {METERED: CloudArm(self._url(METERED), reward=0.9)}
        if self.cloud is not None:
            clouds[CLOUD_ARM] = self._cloud_arm()
        self.fleet.start(
            clouds=clouds,
            classes={"edge": ["tiny", *clouds]},
            budget_usd=budget_usd,
            close_wait="3s",
        )
        for name in self.agents:
            self._prepare_agent(name)
        self._lessen_disk()
        for name in self.agents:
            agent = self.fleet.agents[name]
            wait_for(agent.may_spend, within_s=HEAL_S_MAX, what=f"the first lease of {name}")

    def start_provider(self, port: int) -> None:
        """Start the metered provider."""
        command = provider_command(port=port, bill=self.folder / "provider.jsonl")
        self._named["provider"] = self.fleet.children.start(command)

    def _start_cloud(self) -> None:
        python = cloud_python(None)
        if not python.exists():
            self.skipped["cloud"] = f"{python} does not exist: make install"
            return
        settings = DemoSettings(
            state=self.folder,
            report=self.folder / "unused.json",
            picture=self.folder / "unused.png",
            cloud_python=python,
            network_ms=20.0,
            network_jitter_ms=15.0,
            seed=self.seed,
        )
        children = self.fleet.children
        self.cloud = start_cloud(settings, children=children, api_key=KEY)
        wait_cloud(self.cloud, children=children, api_key=KEY)
        (self._named["cloud"],) = (
            child for child in children._children if child.command.name == "cloud-server"
        )

    def _cloud_arm(self) -> CloudArm:
        """The arm of the third-party server, behind a link of its own."""
        if self.cloud is None:
            raise RuntimeError("there is no third-party server")
        port = int(self.cloud.base_url.split(":")[2].split("/")[0])
        self.links[CLOUD_ARM] = self.proxies.link(port)
        prices = DemoSettings(
            state=self.folder, report=self.folder, picture=self.folder, cloud_python=self.folder
        ).prices
        listed = (prices.input_usd_per_mtok, prices.output_usd_per_mtok, prices.request_usd)
        return CloudArm(self._url(CLOUD_ARM), reward=0.8, model=CLOUD_ARM, prices=listed)

    def _url(self, arm: str) -> str:
        return f"http://127.0.0.1:{self.links[arm].port}/v1"

    def _prepare_agent(self, name: str) -> None:
        self.links[name] = self.proxies.link(int(self.fleet.address.rsplit(":", 1)[1]))
        state = self.folder / name
        state.mkdir()
        token = self.fleet.write(f"{name}.join-token", self.fleet.join_token("edge"))
        (port,) = free_ports(1)
        config = self.fleet.write(f"{name}.toml", self._agent_toml(name, port, state, str(token)))
        agent = self.fleet.run_agent(
            name, config=config, url=f"http://127.0.0.1:{port}", state=state, wait=True
        )
        self.fleet.agents[name] = agent

    def _agent_toml(self, name: str, port: int, state: Path, token: str) -> str:
        return (
            f'listen = "127.0.0.1:{port}"\nstate_dir = "{state}"\nname = "{name}"\ndrain = "2s"\n'
            f'[coordinator]\naddress = "127.0.0.1:{self.links[name].port}"\n'
            f'join_token = "file:{token}"\n' + model_toml("tiny")
        )

    def _lessen_disk(self) -> None:
        """Move the last agent's state to a small disk of its own, where that is allowed."""
        agent = self.fleet.agents[self.agents[-1]]
        disk = self.folder / "disk"
        disk.mkdir()
        mount = shutil.which("mount")
        if mount is None:
            self.skipped["full_disk"] = "there is no mount command"
            return
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES},mode=0700", "tmpfs", str(disk)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.skipped["full_disk"] = f"a tmpfs cannot be mounted: {done.stderr.strip()}"
            return
        self.small_disk = agent.name
        self.fleet.children.stop(agent.child)
        shutil.copytree(agent.state, disk / "state")
        config = agent.config.read_text().replace(str(agent.state), str(disk / "state"))
        agent.config.write_text(config)
        agent.state = disk / "state"
        self.fleet.restart_agent(agent)

    # Processes.

    def child(self, name: str) -> Child:
        """A process by name."""
        if name == "coordinator":
            if self.fleet.coordinator is None:
                raise RuntimeError("the coordinator is down")
            return self.fleet.coordinator
        if name in self.fleet.agents:
            return self.fleet.agents[name].child
        return self._named[name]

    def kill(self, name: str) -> None:
        """`kill -9` of a process by its id."""
        if name == "coordinator":
            self.fleet.kill_coordinator()
            return
        child = self.child(name)
        os.kill(child.pid, signal.SIGKILL)
        self.fleet.children.stop(child)

    def start_again(self, name: str) -> None:
        """Start a process after its end; returns when it answers."""
        if name == "coordinator":
            self.fleet.start_coordinator()
        elif name in self.fleet.agents:
            self.fleet.restart_agent(self.fleet.agents[name], wait=False)
        else:
            self._named[name] = self.fleet.children.start(self._named[name].command)

    @contextmanager
    def noted(self, spells: list[Spell], name: str) -> Iterator[None]:
        """Note when something is done to a process."""
        since = time.monotonic()
        try:
            yield
        finally:
            spells.append(Spell(name, since, time.monotonic()))

    def died(self) -> list[str]:
        """Processes that have ended without being told to, with the end of their logs."""
        return [
            f"{child.command.name} ended with status {child.exit_code}:\n{child.log_tail()}"
            for child in self.fleet.children._children
            if child.exit_code is not None
        ]

    # Looking.

    def call(self, method: str, request: Any) -> Any:
        """A call of the coordinator, repeated while it is away."""
        return self.until(lambda: self.fleet.call(method, request), what=method)

    def until(self, look: Callable[[], _T], *, what: str, within_s: float = HEAL_S_MAX) -> _T:
        """What `look` returns once it is true and the coordinator answers."""

        def attempt() -> list[_T]:
            with suppress(*AWAY):
                found = look()
                return [found] if found else []
            return []

        found: list[_T] = wait_for(attempt, within_s=within_s, what=what)
        return found[0]

    def bills(self) -> Bills:
        """What the providers have billed."""
        cloud = self.folder / "bill.jsonl" if self.cloud is not None else None
        return read_bills(provider=self.folder / "provider.jsonl", cloud=cloud)

    def decisions(self) -> list[Any]:
        """Every booked decision, oldest first."""
        found: list[Any] = []
        after = 0
        while True:
            request = admin_pb2.ListDecisionsRequest(limit=PAGE_ROWS, after_position=after)
            page = self.call("ListDecisions", request).decisions
            if not page:
                return found
            found += page
            after = page[-1].position

    # Healing.

    def readmit(self, name: str) -> None:
        """Let a device spend again if it is quarantined."""
        if self.until(partial(self.fleet.device, name), what=name).state == "quarantined":
            self.call("ReadmitDevice", admin_pb2.ReadmitDeviceRequest(device=name, actor="chaos"))

    def heal(self) -> None:
        """Make every link whole and wait until each agent has handed over all that it has."""
        self.proxies.heal()
        for name in self.agents:
            self.readmit(name)

        def quiet() -> bool:
            for name in self.agents:
                if not self.fleet.device(name).connected:
                    return False
                details = self.fleet.agents[name].details()
                if details["spool_waiting"] or details["requests_in_flight"]:
                    return False
            return True

        self.until(lambda: _quietly(quiet), what="empty spools after healing")

    def end_agents(self) -> int:
        """Stop the agents so that their leases close; the nano-dollars that are still lent.

        An agent gives its link only a moment to hand over the closes. What did not get through
        does after another start.
        """
        self._stop_agents()
        for _ in range(STOP_ROUNDS - 1):
            if not self._lent_at_last():
                break
            for name in self.agents:
                self.fleet.restart_agent(self.fleet.agents[name])
            self.heal()
            self._stop_agents()
        return self._lent_at_last()

    def _stop_agents(self) -> None:
        for name in self.agents:
            self.fleet.children.stop(self.fleet.agents[name].child)

    def _lent_at_last(self) -> int:
        with suppress(AssertionError):
            self.until(
                lambda: self.fleet.budget().outstanding_nanos == 0,
                what="the close of every lease",
                within_s=5.0,
            )
        budget = self.call("GetBudget", admin_pb2.GetBudgetRequest())
        return int(budget.outstanding_nanos)

    def close(self) -> None:
        """End every process and give the small disk back; what it held is kept in the folder."""
        for child in self.fleet.children._children:
            if child.exit_code is None:
                os.kill(child.pid, signal.SIGCONT)
        self.fleet.close()
        if self.small_disk:
            disk = self.folder / "disk"
            try:
                shutil.copytree(disk / "state", self.folder / "disk-state")
            finally:
                subprocess.run(["umount", str(disk)], check=True)

    def agent(self, name: str) -> Agent:
        """A running agent."""
        return self.fleet.agents[name]


def _quietly(look: Callable[[], bool]) -> bool:
    """Whether it holds; an agent that does not answer yet counts as no."""
    try:
        return look()
    except httpx.TransportError:
        return False
