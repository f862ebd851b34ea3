"""A fleet of real processes on loopback, for tests: a coordinator, agents, and `tidectl`."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx2 as httpx

from deploy.demo.processes import Child, Children, Command, free_ports
from shared.pb.v1 import admin_pb2, admin_pb2_grpc
from tests.e2e.provider import KEY

ROOT: Final = Path(__file__).resolve().parents[2]
TINY: Final = ROOT / "deploy" / "demo" / "models" / "tiny.gguf"
KEY_VARIABLE: Final = "E2E_PROVIDER_KEY"
READY_S: Final = 60.0
WAIT_S: Final = 40.0
POLL_S: Final = 0.05
CONTEXT_TOKENS: Final = 256


def wait_for(condition: Callable[[], Any], *, within_s: float = WAIT_S, what: str = "it") -> Any:
    """Wait, bounded, until something that another process does has happened; what it gave."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        time.sleep(POLL_S)
    return result


@dataclass(frozen=True)
class CloudArm:
    """A paid arm of the fleet file.

    Attributes
    ----------
    prices : tuple of str
        Dollars per million prompt and completion tokens and per request; by default those of
        `provider.PRICE`.
    """

    base_url: str
    reward: float = 0.5
    on_abort: str = "drain"
    model: str = "paid-model"
    prices: tuple[str, str, str] = ("2", "8", "0.000001")
    fields: tuple[str, ...] = ("max_tokens", "temperature")
    capabilities: tuple[str, ...] = ()
    api_key: str = f"env:{KEY_VARIABLE}"


@dataclass(frozen=True)
class Reply:
    """What an agent answered over HTTP."""

    status: int
    headers: Mapping[str, str]
    json: Any

    @property
    def code(self) -> str:
        """The code of an error."""
        return str(self.json["error"]["code"])

    @property
    def message(self) -> str:
        """The message of an error."""
        return str(self.json["error"]["message"])

    @property
    def arm(self) -> str:
        """Who answered."""
        return self.headers.get("x-tidegate-arm", "")

    @property
    def reason(self) -> str:
        """Why that arm."""
        return self.headers.get("x-tidegate-reason", "")

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.headers["x-tidegate-request-id"]


def chat_body(prompt: str, *, model: str, **more: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


@dataclass
class Agent:
    """A running agent."""

    name: str
    url: str
    child: Child
    config: Path
    state: Path
    ca_file: Path | None = None

    def http(self) -> httpx.Client:
        """A client that no proxy of the environment comes between."""
        tls = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else False
        return httpx.Client(base_url=self.url, timeout=60.0, trust_env=False, verify=tls)

    def chat(
        self,
        prompt: str,
        *,
        model: str = "auto",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Reply:
        """One chat request."""
        return self.post("/v1/chat/completions", chat_body(prompt, model=model, **more), headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """A request with a JSON body."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.http() as client:
            reply = client.post(
                path,
                content=content,
                headers={"content-type": "application/json", **(headers or {})},
            )
        return Reply(reply.status_code, reply.headers, reply.json())

    def get(self, path: str) -> Any:
        """A JSON page."""
        with self.http() as client:
            return client.get(path).json()

    def details(self) -> Mapping[str, Any]:
        """What `/health` tells."""
        return dict(self.get("/health")["details"])

    def log(self) -> str:
        """Everything that it has logged."""
        return self.child.log.read_text(errors="replace")

    def may_spend(self) -> bool:
        """Whether it holds a lease with money left."""
        return bool(self.details()["lease_available_nanos"] > 0)

    def workers(self) -> list[int]:
        """The ids of its model processes."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


class Fleet:
    """A coordinator with its agents, all in one folder; `close` ends every process.

    Parameters
    ----------
    folder : pathlib.Path
        For the state, the configuration files and the logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children = Children(logs=folder / "logs")
        self.token = ""
        self.secrets: list[str] = [KEY]
        self.agents: dict[str, Agent] = {}
        port, web_port = free_ports(2)
        state = folder / "coordinator"
        state.mkdir()
        config = folder / "coordinator.toml"
        config.write_text(
            f'listen = "127.0.0.1:{port}"\n'
            f'web_listen = "127.0.0.1:{web_port}"\n'
            f'database_url = "sqlite:///{state / "coordinator.db"}"\n'
            f'state_dir = "{state}"\n'
            'drain = "1s"\n'
        )
        self._config, self._state = config, state
        self.address = f"127.0.0.1:{port}"
        self.web_url = f"http://127.0.0.1:{web_port}"
        self.ca_file: Path | None = None
        self._channel: grpc.Channel | None = None
        self.coordinator: Child | None = None

    def use_tls(self, toml: str, *, ca_file: Path) -> None:
        """Give the coordinator a `[tls]` table, and what else; to be called before `start`."""
        self._config.write_text(self._config.read_text() + toml)
        self.ca_file = ca_file

    # Processes.

    def start(self, *, clouds: Mapping[str, CloudArm], **options: Any) -> None:
        """Create the admin token, start the coordinator, apply the fleet file."""
        self.token = run("coordinator.app", "token", "create", "-c", str(self._config)).stdout
        self.token = self.token.strip()
        self.secrets.append(self.token)
        self.start_coordinator()
        path = self.write("fleet.toml", fleet_toml(clouds, **options))
        self.tidectl("apply", "--yes", "-f", str(path))

    def start_coordinator(self) -> None:
        """Start the coordinator and wait until it answers."""
        self.coordinator = self.children.start(
            Command(
                name="coordinator",
                argv=[
                    *(sys.executable, "-m", "coordinator.app"),
                    *("serve", "--config", str(self._config)),
                ],
                cwd=ROOT,
            )
        )
        child = self.coordinator
        if self._channel is not None:
            self._channel.close()
        self._channel = self._open_channel()

        def ready() -> bool:
            child.check()
            try:
                self.call("GetVersion", admin_pb2.GetVersionRequest())
            except grpc.RpcError:
                return False
            return True

        wait_for(ready, within_s=READY_S, what="the coordinator's start")

    def _open_channel(self) -> grpc.Channel:
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self.ca_file is None:
            return grpc.insecure_channel(self.address, options=options)
        credentials = grpc.ssl_channel_credentials(self.ca_file.read_bytes())
        return grpc.secure_channel(self.address, credentials, options=options)

    def kill_coordinator(self) -> None:
        """`kill -9`."""
        assert self.coordinator is not None
        os.kill(self.coordinator.pid, signal.SIGKILL)
        self.children.stop(self.coordinator)
        self.coordinator = None

    def stop_coordinator(self) -> None:
        """SIGTERM."""
        assert self.coordinator is not None
        self.children.stop(self.coordinator)
        self.coordinator = None

    def start_agent(
        self,
        name: str,
        *,
        device_class: str,
        models: str | None = None,
        join_token: str | None = None,
        wait: bool = True,
        head: str = "",
        link: str = "",
    ) -> Agent:
        """Start an agent with a fresh join token and wait until it has its table.

        `head`, `link` and `models` are TOML for the top level, the coordinator's table, and the
        end of its file.
        """
        state = self.folder / name
        state.mkdir()
        token = self.join_token(device_class) if join_token is None else join_token
        (port,) = free_ports(1)
        token_file = self.write(f"{name}.join-token", token)
        text = (
            f'listen = "127.0.0.1:{port}"\nstate_dir = "{state}"\nname = "{name}"\ndrain = "2s"\n'
            f"{head}"
            f'[coordinator]\naddress = "{self.address}"\njoin_token = "file:{token_file}"\n{link}'
            + (model_toml("tiny") if models is None else models)
        )
        config = self.write(f"{name}.toml", text)
        url = f"http{'s' if '[tls]' in text else ''}://127.0.0.1:{port}"
        agent = self.run_agent(name, config=config, url=url, state=state, wait=wait)
        self.agents[name] = agent
        return agent

    def run_agent(self, name: str, *, config: Path, url: str, state: Path, wait: bool) -> Agent:
        """Start an agent's process."""
        child = self.children.start(self.agent_command(name, config=config))
        agent = Agent(name, url, child, config, state, ca_file=self.ca_file)
        wait_for(lambda: _alive(agent), within_s=READY_S, what=f"the start of {name}")
        if wait:
            wait_for(lambda: agent.details()["table_version"], what=f"the table of {name}")
        return agent

    def agent_command(self, name: str, *, config: Path) -> Command:
        """What an agent's process runs."""
        return Command(
            name=f"agent-{name}",
            argv=[*(sys.executable, "-m", "edge_agent.app"), *("run", "--config", str(config))],
            cwd=ROOT,
            environment={KEY_VARIABLE: KEY},
        )

    def kill_agent(self, agent: Agent) -> None:
        """`kill -9` of the agent's process alone."""
        os.kill(agent.child.pid, signal.SIGKILL)
        self.children.stop(agent.child)

    def restart_agent(self, agent: Agent, *, wait: bool = True) -> Agent:
        """Start an agent again after its process has ended."""
        again = self.run_agent(
            agent.name, config=agent.config, url=agent.url, state=agent.state, wait=wait
        )
        self.agents[agent.name] = again
        return again

    def close(self) -> None:
        """End every process."""
        if self._channel is not None:
            self._channel.close()
        self.children.stop_all()

    # The operator.

    def join_token(self, device_class: str, *, valid_for_s: int = 600) -> str:
        """A fresh join token."""
        reply = self.call(
            "CreateToken",
            admin_pb2.CreateTokenRequest(
                kind=admin_pb2.TOKEN_KIND_JOIN,
                device_class=device_class,
                valid_for_s=valid_for_s,
                actor="e2e",
            ),
        )
        self.secrets.append(reply.token)
        return str(reply.token)

    def tidectl(
        self, *arguments: str, token: str | None = None, expect: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run `tidectl` and check its exit code."""
        environment = {
            "TIDEGATE_ADDRESS": self.address,
            "TIDEGATE_ADMIN_TOKEN": self.token if token is None else token,
            **({"TIDEGATE_CA_FILE": str(self.ca_file)} if self.ca_file else {}),
        }
        return run("coordinator.cli", *arguments, environment=environment, expect=expect)

    def json(self, *arguments: str) -> Any:
        """What `tidectl --format json ...` prints."""
        return json.loads(self.tidectl("--format", "json", *arguments).stdout)

    def call(self, method: str, request: Any) -> Any:
        """One call of the admin service, without the cost of a process."""
        metadata = (("authorization", f"Bearer {self.token}"),)
        stub = admin_pb2_grpc.AdminStub(self._channel)
        return getattr(stub, method)(request, timeout=5.0, metadata=metadata)

    def budget(self) -> Any:
        """The present window's balances."""
        return self.call("GetBudget", admin_pb2.GetBudgetRequest())

    def device(self, name: str) -> Any:
        """A device as the coordinator sees it."""
        return self.call("GetDevice", admin_pb2.GetDeviceRequest(device=name))

    def decisions(self, *, request_id: str = "", device: str = "") -> list[Any]:
        """Booked decisions, newest first."""
        request = admin_pb2.ListDecisionsRequest(limit=5_000, device=device, request_id=request_id)
        return list(self.call("ListDecisions", request).decisions)

    def ledger(self) -> list[Any]:
        """Every ledger row, oldest first."""
        rows: list[Any] = []
        while True:
            request = admin_pb2.ListLedgerRequest(
                after_id=rows[-1].id if rows else 0, limit=500, device=""
            )
            page = self.call("ListLedger", request).rows
            if not page:
                return rows
            rows.extend(page)

    def wait_booked(self, request_id: str) -> Any:
        """The one decision of a request, once it is booked."""
        found = wait_for(
            lambda: self.decisions(request_id=request_id), what=f"the booking of {request_id}"
        )
        assert len(found) == 1
        return found[0]

    def booked_nanos(self, request_id: str) -> int:
        """What the ledger says that a request cost, once it is booked."""
        self.wait_booked(request_id)
        return sum(row.amount_nanos for row in self.ledger() if row.request_id == request_id)

    def write(self, name: str, text: str) -> Path:
        """A file that only its owner can read."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path


def run(
    module: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    expect: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Run one of the project's commands to its end and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40.0,
        check=False,
    )
    assert expect == done.returncode, f"{module} {' '.join(arguments)}: {done.stderr}{done.stdout}"
    return done


def model_toml(arm: str, *, path: Path = TINY, pace: float = 0.0) -> str:
    """A `[[models]]` table of an agent's file."""
    return (
        f'[[models]]\narm = "{arm}"\npath = "{path}"\ncontext_tokens = {CONTEXT_TOKENS}\n'
        f"threads = 1\nbatch_sequences = 4\ntokens_per_second_max = {pace}\n"
    )


def fleet_toml(
    clouds: Mapping[str, CloudArm],
    *,
    classes: Mapping[str, Sequence[str]],
    budget_usd: str = "1",
    local_arms: Sequence[str] = ("tiny",),
    policy: str = "always_cloud",
    heartbeat: str = "500ms",
    close_wait: str = "5s",
    task_classes: Sequence[str] = (),
    more: str = "",
) -> str:
    """A fleet file whose window is the present hour, so that none ends within a test.

    `more` is TOML for the end of the file.
    """
    anchor = int(time.time()) - 60
    head = (
        f'[fleet]\nname = "e2e"\n[window]\nlength = "1h"\nslot = "1s"\nanchor = {anchor}\n'
        f'[budget]\nname = "purse"\namount_usd = "{budget_usd}"\n'
        f'[policy]\nkind = "{policy}"\nforecaster = "mean_so_far"\nepsilon_ppm = 0\n'
        f'[link]\nheartbeat = "{heartbeat}"\nlease_duration = "10m"\nclose_wait = "{close_wait}"\n'
        '[task_classes.other]\ndeadline = "30s"\n'
        '[task_classes.notes]\ndeadline = "30s"\nprivacy = "local"\n'
    )
    parts = [head]
    parts += [f'[task_classes.{name}]\ndeadline = "30s"\n' for name in task_classes]
    parts += [
        f'[arms.{arm}]\nkind = "local"\ncontext_tokens_max = {CONTEXT_TOKENS}\n'
        "max_tokens_default = 16\nbytes_per_token = 1.0\n"
        f"[arms.{arm}.prior]\nreward = 0.2\nreward_weight = 1e6\n"
        for arm in local_arms
    ]
    parts += [
        f'[arms.{name}]\nkind = "cloud"\nmodel = "{arm.model}"\nbase_url = "{arm.base_url}"\n'
        f'api_key = "{arm.api_key}"\ncontext_tokens_max = 1024\nmax_tokens_default = 24\n'
        f"bytes_per_token = 1.0\nfields = {json.dumps(arm.fields)}\n"
        f"capabilities = {json.dumps(arm.capabilities)}\n"
        f'on_abort = "{arm.on_abort}"\nconnect_timeout = "1s"\nfirst_byte_timeout = "20s"\n'
        'drain_timeout = "10s"\n'
        f"[arms.{name}.prior]\nreward = {arm.reward}\nreward_weight = 1e6\n"
        f'[arms.{name}.price]\ninput_usd_per_mtok = "{arm.prices[0]}"\n'
        f'output_usd_per_mtok = "{arm.prices[1]}"\nrequest_usd = "{arm.prices[2]}"\n'
        f"[arms.{name}.worst_case]\nmessage_overhead_tokens = 4\nrequest_overhead_tokens = 8\n"
        for name, arm in clouds.items()
    ]
    for name, arms in classes.items():
        listed = ", ".join(f'"{arm}"' for arm in arms)
        parts.append(f"[device_classes.{name}]\narms = [{listed}]\n")
    return "".join([*parts, more])


def _alive(agent: Agent) -> bool:
    agent.child.check()
    try:
        with agent.http() as client:
            return bool(client.get("/readyz").status_code in (200, 503))
    except httpx.TransportError:
        return False
