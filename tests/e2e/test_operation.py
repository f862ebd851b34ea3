"""What an operator meets: bad files, taken ports, health, reflection and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import httpx2 as httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from shared.pb.v1 import admin_pb2
from tests.e2e.fleet import Agent, CloudArm, Fleet, fleet_toml, run
from tests.e2e.provider import Provider

pytestmark = pytest.mark.e2e

DAEMONS = [("coordinator.app", "serve"), ("edge_agent.app", "run")]
GOOD = fleet_toml(
    {"cloud": CloudArm("https://api.example.com/v1")}, classes={"edge": ["tiny", "cloud"]}
)


def config_version(fleet: Fleet) -> int:
    """The configuration that the coordinator goes by."""
    return int(fleet.call("GetStatus", admin_pb2.GetStatusRequest()).config_version)


@pytest.mark.parametrize("command", ["apply", "diff"])
@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[budget]\n", "[budget]\nsurprise = 1\n", "budget.surprise"),
        ('request_usd = "0.000001"\n', "", "arms.cloud.price.request_usd"),
        ('slot = "1s"', 'slot = "7s"', "window"),
        ('arms = ["tiny", "cloud"]', 'arms = ["nobody"]', "device_classes.edge.arms"),
    ],
    ids=["unknown-key", "missing-price", "uneven-slots", "unknown-arm"],
)
def test_a_bad_fleet_file_is_refused_by_key(
    fleet: Fleet, tmp_path: Path, command: str, old: str, new: str, key: str
) -> None:
    """`apply` and `diff` end with 1 and name the key; nothing is changed."""
    path = tmp_path / "fleet.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    before = config_version(fleet)
    more = ["--yes"] if command == "apply" else []
    done = fleet.tidectl(command, *more, "-f", str(path), expect=1)
    assert key in done.stderr
    assert before == config_version(fleet)


def test_diff_tells_by_its_exit_code(fleet: Fleet, tmp_path: Path) -> None:
    """0: the same; 3: different; 2: no such file; 4: no coordinator."""
    fleet.tidectl("diff", "-f", str(fleet.folder / "fleet.toml"))
    path = tmp_path / "fleet.toml"
    path.write_text(GOOD)
    changed = fleet.tidectl("diff", "-f", str(path), expect=3)
    assert "arms.dead" in changed.stdout
    fleet.tidectl("diff", "-f", str(tmp_path / "nothing.toml"), expect=2)
    away = {"TIDEGATE_ADDRESS": "127.0.0.1:1", "TIDEGATE_ADMIN_TOKEN": "tda-x"}
    run("coordinator.cli", "status", environment=away, expect=4)


@pytest.mark.parametrize(("module", "command"), DAEMONS)
def test_a_daemon_names_what_is_wrong_with_its_file(
    tmp_path: Path, module: str, command: str
) -> None:
    """An unknown key and a file that cannot be read each end with 1 and one clear message."""
    path = tmp_path / "daemon.toml"
    path.write_text("surprise = 1\n")
    assert "surprise" in run(module, command, "-c", str(path), expect=1).stderr
    missing = tmp_path / "missing.toml"
    done = run(module, command, "-c", str(missing), expect=1)
    assert str(missing) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("module", "command"), DAEMONS)
def test_a_taken_port_is_named(
    fleet: Fleet, edge: Agent, tmp_path: Path, module: str, command: str
) -> None:
    """A daemon whose port is in use ends with 1 and names the address."""
    taken = fleet.address if command == "serve" else edge.url.removeprefix("http://")
    path = tmp_path / "daemon.toml"
    more = ""
    if command == "serve":
        more = f'web_listen = "127.0.0.1:0"\ndatabase_url = "sqlite:///{tmp_path / "c.db"}"\n'
    path.write_text(f'listen = "{taken}"\nstate_dir = "{tmp_path}"\n{more}')
    done = run(module, command, "-c", str(path), expect=1)
    assert taken in done.stderr
    assert "Traceback" not in done.stderr


def test_health_and_reflection_answer(fleet: Fleet) -> None:
    """The coordinator serves gRPC's health and reflection services."""
    with grpc.insecure_channel(fleet.address, [("grpc.enable_http_proxy", 0)]) as channel:
        # The generated stubs of these packages carry no types.
        health: Any = health_pb2_grpc.HealthStub(channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        for service in ("", "tidegate.v1.Fleet", "tidegate.v1.Admin"):
            reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert health_pb2.HealthCheckResponse.SERVING == reply.status
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        listing = reflection.ServerReflectionInfo(iter([request]), timeout=5)
        names = {each.name for each in next(listing).list_services_response.service}
    assert {"tidegate.v1.Fleet", "tidegate.v1.Admin", "grpc.health.v1.Health"} <= names


def test_metrics_of_both_tiers_parse(fleet: Fleet, edge: Agent, provider: Provider) -> None:
    """Prometheus can read both pages; every name has the prefix, every metric a text."""
    assert 200 == edge.chat("for the metrics", model="cloud").status
    for url, expected in (
        (f"{edge.url}/metrics", {"tidegate_requests", "tidegate_spend_dollars"}),
        (f"{fleet.web_url}/metrics", {"tidegate_budget_dollars", "tidegate_devices_known"}),
    ):
        page = httpx.get(url, trust_env=False)
        assert 200 == page.status_code
        families = list(text_string_to_metric_families(page.text))
        assert expected <= {family.name for family in families}
        ours = [family for family in families if family.name.startswith("tidegate_")]
        assert all(family.documentation for family in ours)
        assert families == ours
