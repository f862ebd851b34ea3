"""The fleet of a run: one coordinator and three agents of different device classes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.demo import loopback
from deploy.demo.admin import Admin, CoordinatorAwayError, run_text
from deploy.demo.configs import agent_toml, coordinator_toml, fleet_toml, write_all
from deploy.demo.processes import Child, Children, Command, free_ports, wait_until
from deploy.demo.settings import CLOUD_KEY_VARIABLE, DEVICES, ROOT, DemoSettings

READY_S_MAX: Final = 40.0


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Loopback ports of a run."""

    coordinator: int
    web: int
    agents: Mapping[str, int]


@dataclass(kw_only=True)
class Fleet:
    """The running fleet.

    Attributes
    ----------
    agent_urls : mapping of str to str
        Base URL of each device's agent, without `/v1`.
    window_start_s : float
        When the budget's window began, Unix seconds.
    """

    admin: Admin
    admin_token_file: Path
    coordinator: Child
    coordinator_config: Path
    agent_urls: Mapping[str, str]
    web_url: str
    window_start_s: float


def pick_ports() -> Ports:
    """Free ports for the coordinator, its metrics and the agents."""
    coordinator, web, *agents = free_ports(2 + len(DEVICES))
    return Ports(coordinator=coordinator, web=web, agents=dict(zip(DEVICES, agents, strict=True)))


def start_fleet(
    settings: DemoSettings, *, children: Children, cloud_url: str, api_key: str
) -> Fleet:
    """Start the coordinator, apply the fleet file, let the agents join, and wait for them.

    Raises
    ------
    DemoError
        When a process ends early or is not ready in time.
    """
    ports = pick_ports()
    config = settings.state / "config"
    text = coordinator_toml(
        port=ports.coordinator, web_port=ports.web, state=_made(settings.state / "coordinator")
    )
    path = write_all(config, {"coordinator": text})["coordinator"]
    token = run_text(
        "coordinator.app",
        *("token", "create", "--config", str(path)),
        environment={},
    ).strip()
    token_file = _secret(settings.state / "admin-token", token)
    admin = Admin(f"127.0.0.1:{ports.coordinator}", token=token)
    coordinator = start_coordinator(path, children=children, admin=admin)
    window_start_s = time.time() // settings.slot_s * settings.slot_s
    fleet_text = fleet_toml(settings, cloud_url=cloud_url, anchor_unix_s=int(window_start_s))
    fleet_path = write_all(config, {"fleet": fleet_text})["fleet"]
    admin.tidectl("apply", "--yes", "-f", str(fleet_path))
    agents = _start_agents(settings, ports, children=children, admin=admin, api_key=api_key)
    for name, child in agents.items():
        _wait_agent(name, f"http://127.0.0.1:{ports.agents[name]}", child)
    _wait_tables(admin, coordinator)
    return Fleet(
        admin=admin,
        admin_token_file=token_file,
        coordinator=coordinator,
        coordinator_config=path,
        agent_urls={name: f"http://127.0.0.1:{port}" for name, port in ports.agents.items()},
        web_url=f"http://127.0.0.1:{ports.web}",
        window_start_s=window_start_s,
    )


def start_coordinator(config: Path, *, children: Children, admin: Admin) -> Child:
    """Start the coordinator and wait until it answers an operator."""
    child = children.start(
        Command(
            name="coordinator",
            argv=[sys.executable, "-m", "coordinator.app", "serve", "--config", str(config)],
            cwd=ROOT,
        )
    )
    wait_until(lambda: _answers(admin), child=child, within_s=READY_S_MAX, what="the coordinator")
    return child


def _start_agents(
    settings: DemoSettings, ports: Ports, *, children: Children, admin: Admin, api_key: str
) -> dict[str, Child]:
    agents: dict[str, Child] = {}
    for name, port in ports.agents.items():
        state = _made(settings.state / name)
        reply = admin.tidectl("token", "create", "--kind", "join", "--class", name)
        join_token = _secret(state / "join-token", reply["token"])
        text = agent_toml(
            name,
            port=port,
            coordinator_port=ports.coordinator,
            state=state,
            join_token=join_token,
        )
        path = write_all(settings.state / "config", {f"agent-{name}": text})[f"agent-{name}"]
        agents[name] = children.start(
            Command(
                name=f"agent-{name}",
                argv=[sys.executable, "-m", "edge_agent.app", "run", "--config", str(path)],
                cwd=ROOT,
                environment={CLOUD_KEY_VARIABLE: api_key},
            )
        )
    return agents


def _wait_agent(name: str, url: str, child: Child) -> None:
    wait_until(
        lambda: loopback.answers(f"{url}/readyz"),
        child=child,
        within_s=READY_S_MAX,
        what=f"the agent of {name}",
    )


def _wait_tables(admin: Admin, coordinator: Child) -> None:
    """Wait until every device is connected and has its table."""

    def equipped() -> bool:
        devices = [device for device in admin.devices() if device.connected]
        return len(devices) == len(DEVICES) and all(device.table_version for device in devices)

    wait_until(
        equipped,
        child=coordinator,
        within_s=READY_S_MAX,
        what="a table on every device",
    )


def _answers(admin: Admin) -> bool:
    try:
        admin.status()
    except CoordinatorAwayError:
        return False
    return True


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _secret(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path
