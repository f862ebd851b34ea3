"""Who may join, who may command, who can listen, and what never shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from deploy.demo.processes import free_ports
from tests.e2e.fleet import Agent, CloudArm, Fleet, model_toml, run, wait_for
from tests.e2e.provider import KEY, Provider

pytestmark = pytest.mark.e2e


def refused_join(fleet: Fleet, name: str, *, join_token: str, says: str) -> None:
    """An agent with a bad token says why, keeps running, and answers locally."""
    agent = fleet.start_agent(name, device_class="edge", join_token=join_token, wait=False)
    wait_for(lambda: says in agent.log(), what=f"{says!r} in the log of {name}")
    assert 200 == agent.chat("alone", max_tokens=4).status
    assert 0 == agent.details()["table_version"]
    fleet.children.stop(agent.child)


def test_a_bad_join_token_is_refused_with_a_reason(fleet: Fleet, edge: Agent) -> None:
    """Wrong, used and expired tokens each get their own message; nobody joins by them."""
    known = len(fleet.json("device", "list")["devices"])
    used = (fleet.folder / f"{edge.name}.join-token").read_text()
    expiring = fleet.join_token("edge", valid_for_s=1)  # long over when its agent is up
    refused_join(fleet, "stranger", join_token="tdj-wrong", says="this join token is not known")
    refused_join(fleet, "second", join_token=used, says="this join token was used already")
    refused_join(fleet, "late", join_token=expiring, says="this join token has expired")
    assert known == len(fleet.json("device", "list")["devices"])


@pytest.mark.parametrize(
    ("token", "command"),
    [
        ("", ["status"]),
        ("", ["pause-spend"]),
        ("tda-wrong", ["budget", "set", "1000"]),
        ("tda-wrong", ["ledger", "list"]),
    ],
)
def test_an_admin_call_needs_an_admin_token(fleet: Fleet, token: str, command: list[str]) -> None:
    """Without one, or with a wrong one, `tidectl` ends with 5 and says how to give it."""
    done = fleet.tidectl(*command, token=token, expect=5)
    assert "admin token" in done.stderr
    assert "TIDEGATE_ADMIN_TOKEN" in done.stderr


def test_a_revoked_device_is_shut_out(fleet: Fleet) -> None:
    """A revoked device loses its session and its money, and cannot come back; it still answers."""
    agent = fleet.start_agent("thief", device_class="edge")
    wait_for(agent.may_spend, what="a lease")
    fleet.tidectl("device", "revoke", "thief", "--yes")
    wait_for(lambda: "was revoked" in agent.log(), what="the refusal")
    assert not fleet.device("thief").connected
    assert "revoked" == fleet.json("device", "show", "thief")["state"]
    assert 200 != agent.chat("one more", model="cloud").status
    assert "tiny" == agent.chat("alone", max_tokens=4).arm
    fleet.children.stop(agent.child)
    again = fleet.restart_agent(agent, wait=False)
    wait_for(lambda: again.log().count("was revoked") >= 2, what="the second refusal")
    fleet.children.stop(again.child)


def test_a_device_credential_is_no_admin_token(fleet: Fleet, edge: Agent) -> None:
    """What a device holds opens nothing of the admin service."""
    with sqlite3.connect(f"file:{edge.state / 'books.db'}?mode=ro", uri=True) as books:
        (credential,) = books.execute("SELECT value FROM meta WHERE key = 'credential'").fetchone()
    fleet.secrets.append(credential)
    fleet.tidectl("status", token=credential, expect=5)


@pytest.mark.parametrize(
    ("module", "command", "key"),
    [("coordinator.app", "serve", "listen"), ("edge_agent.app", "run", "listen")],
)
def test_listening_off_loopback_without_tls_is_refused(
    tmp_path: Path, module: str, command: str, key: str
) -> None:
    """Neither daemon starts where others could listen in; the message names the keys to set."""
    config = tmp_path / "daemon.toml"
    config.write_text(f'listen = "0.0.0.0:{free_ports(1)[0]}"\nstate_dir = "{tmp_path}"\n')
    done = run(module, command, "--config", str(config), expect=1)
    assert f"{key}: " in done.stderr
    assert "tls.cert_file" in done.stderr


@pytest.mark.slow
def test_tls_protects_every_connection(
    new_fleet: Callable[[], Fleet], provider: Provider, certificates: Path
) -> None:
    """With certificate files devices, operators and clients talk TLS, and nothing else works."""
    tls = (
        f'[tls]\ncert_file = "{certificates / "server.pem"}"\n'
        f'key_file = "{certificates / "server.key"}"\n'
    )
    ca_file = certificates / "ca.pem"
    fleet = new_fleet()
    fleet.use_tls(tls, ca_file=ca_file)
    fleet.start(
        clouds={"cloud": CloudArm(provider.base_url, reward=0.9)},
        classes={"edge": ["tiny", "cloud"]},
    )
    fleet.secrets.append("e2e-client-key")
    key_file = fleet.write("api-key", "e2e-client-key")
    agent = fleet.start_agent(
        "edge-tls",
        device_class="edge",
        link=f'ca_file = "{ca_file}"\n',
        models=model_toml("tiny") + f'[[keys]]\nkey = "file:{key_file}"\ntag = "trusted"\n' + tls,
    )
    wait_for(lambda: f'"listen": "{agent.url}/v1"' in agent.log(), what="the address in the log")
    wait_for(agent.may_spend, what="a lease over TLS")
    reply = agent.chat("over tls", headers={"authorization": "Bearer e2e-client-key"})
    assert (200, "cloud") == (reply.status, reply.arm)
    assert (401, "invalid_api_key") == (agent.chat("no key").status, agent.chat("no key").code)
    with pytest.raises(httpx.TransportError):
        httpx.get(agent.url.replace("https", "http") + "/livez", trust_env=False)
    with pytest.raises(httpx.ConnectError):
        httpx.get(agent.url + "/livez", trust_env=False)
    unprotected = run(
        "coordinator.cli",
        "status",
        environment={"TIDEGATE_ADDRESS": fleet.address, "TIDEGATE_ADMIN_TOKEN": fleet.token},
        expect=4,
    )
    assert "--ca-file" in unprotected.stderr
    assert fleet.json("status")["devices_connected"] == 1


def test_no_secret_shows_in_logs_tables_or_output(
    fleet: Fleet, edge: Agent, provider: Provider
) -> None:
    """Tokens, the provider's key and credentials are in no log, no coordinator table, no output."""
    assert 200 == edge.chat("pay with a secret", model="cloud").status
    with sqlite3.connect(f"file:{edge.state / 'books.db'}?mode=ro", uri=True) as books:
        meta = dict(books.execute("SELECT key, value FROM meta"))
    secrets = [s for s in {*fleet.secrets, meta["credential"], meta["resume_token"]} if s]
    assert {KEY, fleet.token, meta["credential"]} <= set(secrets)
    texts = {path.name: path.read_bytes() for path in (fleet.folder / "logs").iterdir()}
    for path in (fleet.folder / "coordinator").iterdir():
        texts[path.name] = path.read_bytes()
    with sqlite3.connect(f"file:{fleet.folder}/coordinator/coordinator.db?mode=ro", uri=True) as db:
        texts["dump"] = "\n".join(db.iterdump()).encode()
    for command in (
        ["status"],
        ["device", "show", edge.name],
        ["arm", "list"],
        ["decision", "list"],
        ["table", "show", edge.name],
    ):
        texts[" ".join(command)] = fleet.tidectl("--format", "json", *command).stdout.encode()
    with edge.http() as client:
        texts["metrics"] = client.get("/metrics").content
        texts["health"] = client.get("/health").content
    shown = [name for name, text in texts.items() for s in secrets if s.encode() in text]
    assert [] == shown
    prompts = [name for name, text in texts.items() if b"pay with a secret" in text]
    assert [] == prompts, "prompts stay on the device"
