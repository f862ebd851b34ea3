"""status, apply, diff, forecast: what is asked, what is shown, which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

from shared.pb.v1 import admin_pb2
from tests.unit.coordinator.cli.conftest import FakeCoordinator, Tidectl, lines

CHANGE = admin_pb2.ConfigChange(key="sla.floor", before="0.9", after="0.95")
PLANNED = admin_pb2.ApplyConfigReply(version=3, changes=[CHANGE])
NOTHING = admin_pb2.ApplyConfigReply(version=3)


@pytest.fixture
def fleet_file(tmp_path: Path) -> str:
    """A file that only the coordinator judges."""
    file = tmp_path / "fleet.toml"
    file.write_text('[fleet]\nname = "demo"\n')
    return str(file)


def _status() -> admin_pb2.FleetStatus:
    return admin_pb2.FleetStatus(
        config_version=3,
        policy="lp_ucb",
        budget=admin_pb2.Budget(
            name="cloud",
            enforced_nanos=50_000_000,
            settled_nanos=12_345_678,
            window_end_unix_ms=1_795_000_000_000,
            spend_paused=True,
        ),
        requests_window=100,
        answered_window=100,
        devices_known=3,
        devices_connected=2,
        sla_share_window=0.912,
        sla_floor=0.9,
        arm_shares=[
            admin_pb2.ArmShare(arm="tiny", requests=75, reward_mean=0.5),
            admin_pb2.ArmShare(arm="large", requests=25, reward_mean=0.9, cost_nanos=12_345_678),
        ],
        alarms=["[red]overrun[/red] on large"],
    )


def test_status_shows_budget_sla_arms_and_alarms(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """One page with everything that an operator looks for first."""
    coordinator.replies["GetStatus"] = _status()
    result = tidectl("status")
    assert result.exit_code == 0
    text = result.stdout
    assert "2 of 3 connected" in text
    assert "$0.012345678 settled" in text
    assert "PAUSED" in text
    assert "91.2%, floor 90.0%" in text
    assert "2026-11-18T11:06:40Z" in text
    assert any(line.split() == ["tiny", "75", "75.0%", "0.500", "$0.00"] for line in lines(result))
    assert "ALARM  [red]overrun[/red] on large" in text


def test_a_share_of_nothing_is_not_zero(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Before the first request and the first grade there is no share and no mean to show."""
    coordinator.replies["GetStatus"] = admin_pb2.FleetStatus(sla_floor=0.9)
    cells = [line.split() for line in lines(tidectl("status"))]
    assert ["within", "deadline", "-,", "floor", "90.0%"] in cells
    assert ["reward", "-,", "0", "graded"] in cells
    data = json.loads(tidectl.json("status").stdout)
    assert (None, None) == (data["sla_share_window"], data["reward_mean_window"])


def test_an_arm_without_grades_has_no_reward_and_one_with_bad_grades_has_zero(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """A mean of nothing is a dash and null; 0.000 is said only of answers that were graded so."""
    coordinator.replies["GetStatus"] = admin_pb2.FleetStatus(
        arm_shares=[
            admin_pb2.ArmShare(arm="bad", requests=1, reward_mean=0.0),
            admin_pb2.ArmShare(arm="new", requests=1),
        ]
    )
    cells = [line.split() for line in lines(tidectl("status"))]
    assert ["bad", "1", "50.0%", "0.000", "$0.00"] in cells
    assert ["new", "1", "50.0%", "-", "$0.00"] in cells
    shares = json.loads(tidectl.json("status").stdout)["arm_shares"]
    assert [0.0, None] == [arm["reward_mean"] for arm in shares]


def test_a_fleet_that_is_not_configured_says_what_to_do(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Else all that is shown are zeros."""
    coordinator.replies["GetStatus"] = admin_pb2.FleetStatus()
    assert "configuration    none yet: tidectl apply -f fleet.toml" in tidectl("status").stdout


def test_tables_fit_a_hundred_columns(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """No line of the status needs more than 100 columns."""
    coordinator.replies["GetStatus"] = _status()
    assert max(map(len, lines(tidectl("status")))) <= 100


def test_json_has_every_field_with_integers_as_integers(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Names are those of admin.proto, money is integer nano-dollars, absent messages are null."""
    coordinator.replies["GetStatus"] = admin_pb2.FleetStatus(config_version=2**40)
    data = json.loads(tidectl.json("status").stdout)
    assert data["config_version"] == 2**40
    assert data["budget"] is None
    assert data["arm_shares"] == []
    assert set(data) == {field.name for field in admin_pb2.FleetStatus.DESCRIPTOR.fields}


def test_diff_exits_with_three_when_something_differs(
    tidectl: Tidectl, coordinator: FakeCoordinator, fleet_file: str
) -> None:
    """Each difference is shown by its key, and nothing is applied."""
    coordinator.replies["ApplyConfig"] = PLANNED
    result = tidectl("diff", "-f", fleet_file)
    assert result.exit_code == 3
    assert ["sla.floor", "0.9", "0.95"] in [line.split() for line in lines(result)]
    asked = coordinator.asked("ApplyConfig")
    assert asked.dry_run
    assert asked.toml == Path(fleet_file).read_text()


def test_diff_exits_with_zero_when_nothing_differs(
    tidectl: Tidectl, coordinator: FakeCoordinator, fleet_file: str
) -> None:
    """A file that says what holds already is no difference."""
    coordinator.replies["ApplyConfig"] = NOTHING
    result = tidectl("diff", "-f", fleet_file)
    assert (result.exit_code, lines(result)) == (0, ["no differences"])


def test_apply_with_yes_shows_the_difference_first(
    tidectl: Tidectl, coordinator: FakeCoordinator, fleet_file: str
) -> None:
    """A dry run comes first, then the same text is applied."""
    coordinator.replies["ApplyConfig"] = [PLANNED, admin_pb2.ApplyConfigReply(version=4)]
    result = tidectl("apply", "-f", fleet_file, "--yes")
    assert result.exit_code == 0
    assert "sla.floor" in result.stdout
    assert lines(result)[-1] == "applied as version 4"
    dry, real = (request for _, request in coordinator.calls)
    assert (dry.dry_run, real.dry_run) == (True, False)
    assert dry.toml == real.toml
    assert real.actor


def test_apply_without_yes_needs_somebody_to_ask(
    tidectl: Tidectl, coordinator: FakeCoordinator, fleet_file: str
) -> None:
    """In a script nothing is applied unless --yes is given."""
    coordinator.replies["ApplyConfig"] = PLANNED
    result = tidectl("apply", "-f", fleet_file)
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert len(coordinator.calls) == 1


@pytest.mark.parametrize(("answer", "code", "calls"), [("y\n", 0, 2), ("n\n", 1, 1)])
def test_apply_asks_at_a_terminal(
    tidectl: Tidectl,
    coordinator: FakeCoordinator,
    fleet_file: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: str,
    code: int,
    calls: int,
) -> None:
    """Only a yes applies; a no leaves everything as it was."""
    monkeypatch.setattr("coordinator.cli.fleet.is_interactive", lambda: True)
    coordinator.replies["ApplyConfig"] = PLANNED
    result = tidectl("apply", "-f", fleet_file, stdin=answer)
    assert (result.exit_code, len(coordinator.calls)) == (code, calls)


def test_apply_does_nothing_when_nothing_differs(
    tidectl: Tidectl, coordinator: FakeCoordinator, fleet_file: str
) -> None:
    """No new version is made of what holds already."""
    coordinator.replies["ApplyConfig"] = NOTHING
    result = tidectl("apply", "-f", fleet_file, "--yes")
    assert result.exit_code == 0
    assert len(coordinator.calls) == 1


def test_apply_reads_standard_input(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """A dash stands for standard input."""
    coordinator.replies["ApplyConfig"] = [PLANNED, PLANNED]
    result = tidectl("apply", "-f", "-", "--yes", stdin="[fleet]\n")
    assert result.exit_code == 0
    assert [request.toml for _, request in coordinator.calls] == ["[fleet]\n"] * 2


def test_a_byte_order_mark_is_not_sent(
    tidectl: Tidectl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """Editors put it before a file, and it is no part of the text."""
    (tmp_path / "fleet.toml").write_bytes(b"\xef\xbb\xbf[fleet]\n")
    coordinator.replies["ApplyConfig"] = PLANNED
    tidectl("diff", "-f", str(tmp_path / "fleet.toml"))
    assert ["[fleet]\n"] == [request.toml for _, request in coordinator.calls]


def test_a_refused_file_lists_every_problem(
    tidectl: Tidectl, coordinator: FakeCoordinator, fleet_file: str
) -> None:
    """The coordinator's problems are shown and the exit code is 1."""
    details = "window: missing\nbudget: missing"
    coordinator.replies["ApplyConfig"] = (grpc.StatusCode.INVALID_ARGUMENT, details)
    result = tidectl("diff", "-f", fleet_file)
    assert result.exit_code == 1
    assert "  window: missing\n  budget: missing" in result.stderr


def test_an_unreadable_file_is_wrong_usage(
    tidectl: Tidectl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """A file that is not there is named; the coordinator is not asked."""
    result = tidectl("diff", "-f", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert coordinator.calls == []


def test_forecast_shows_the_remaining_demand_with_its_bounds(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """One row per context, the remaining demand as mean and bounds."""
    row = admin_pb2.ForecastRow(
        device_class="pi",
        task_class="sort",
        forecaster="last_value",
        demand_so_far=120,
        next_slot=2.5,
        remaining=admin_pb2.Interval(mean=200, lower=150, upper=260),
    )
    coordinator.replies["GetForecast"] = admin_pb2.ForecastReply(rows=[row])
    result = tidectl("forecast", "show")
    assert lines(result)[-1].split() == [
        "pi", "sort", "last_value", "120", "2.5", "200", "[150,", "260]",
    ]  # fmt: skip
