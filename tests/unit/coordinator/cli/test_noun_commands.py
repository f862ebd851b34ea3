"""device, arm, budget, ledger, table, decision, token: requests sent and replies shown."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from coordinator.cli import render
from coordinator.cli.render import instant, to_data, usd
from shared.decision.logged import LoggedDecision
from shared.pb.v1 import admin_pb2, types_pb2
from tests.unit.coordinator.cli.conftest import FakeCoordinator, Tidectl, lines

DEVICE = admin_pb2.Device(
    id="d-1",
    name="kitchen",
    device_class="pi",
    state="active",
    connected=True,
    seen_unix_ms=1_795_000_000_000,
    leases=[types_pb2.LeaseStatus(lease_number=7, amount_nanos=5_000_000, settled_nanos=1)],
    device_state=types_pb2.DeviceState(
        loaded_arms=["tiny"], broken_arms=[types_pb2.Fallout(arm="big", reason="no memory")]
    ),
)
ARM = admin_pb2.ArmSummary(
    id="large",
    kind=types_pb2.ARM_KIND_CLOUD,
    enabled=True,
    price=types_pb2.Price(input_nanos_per_mtok=2_500_000_000, output_nanos_per_mtok=10**10),
    requests=40,
    contexts=[
        admin_pb2.ContextEstimate(
            device_class="pi",
            task_class="sort",
            sent=30,
            graded=12,
            reward=admin_pb2.Interval(mean=0.91, lower=0.85, upper=0.96),
            hit=admin_pb2.Interval(mean=0.99, lower=0.97, upper=1.0),
            cost_nanos=admin_pb2.Interval(mean=123_000, lower=100_000, upper=150_000),
            latency_p50_ms=210,
            latency_p90_ms=480,
        ),
        admin_pb2.ContextEstimate(device_class="pi", task_class="copy", sent=300, graded=0),
    ],
)
BUDGET = admin_pb2.Budget(name="cloud", target_nanos=12_500_000_000, free_nanos=1)
TABLE = types_pb2.SelectionTable(
    version=5,
    device_class="pi",
    rows=[
        types_pb2.TableRow(
            task_class="sort",
            arms=[
                types_pb2.TableArm(arm="tiny", weight_ppm=995_000, expected_reward_ppm=500_000),
                types_pb2.TableArm(arm="large", weight_ppm=5_000, expected_cost_nanos=123_000),
            ],
        )
    ],
    resident_arms=["tiny"],
)
TABLES = admin_pb2.TablesOfClass(
    device_class="pi",
    version=3,
    created_unix_ms=1_795_000_000_000,
    pinned=admin_pb2.PinnedTable(device_class="pi", version=3, actor="ann"),
    earlier=[admin_pb2.TableVersion(version=5), admin_pb2.TableVersion(version=1)],
)
AUDIT = admin_pb2.ListAuditReply(
    entries=[
        admin_pb2.AuditEntry(
            at_unix_ms=1_795_000_000_000,
            actor="operator (ann)",
            action="budget write-off",
            detail="kitchen: $0.01 written off; lost at sea",
        )
    ]
)
DECISION = admin_pb2.Decision(
    device_id="d-1",
    device_class="pi",
    outcome=types_pb2.Outcome(
        request_id="r-1",
        task_class="sort",
        status=types_pb2.REQUEST_STATUS_OK,
        arm="large",
        propensity_ppm=5_000,
        reason="drawn",
        attempts=[
            types_pb2.Attempt(arm="tiny", error="worker_crashed"),
            types_pb2.Attempt(
                arm="large", cost_nanos=123_000, settle=types_pb2.SETTLE_KIND_REPORTED
            ),
        ],
        fallouts=[types_pb2.Fallout(arm="big", reason="deadline")],
        latency_ms=321,
    ),
)


def _cells(tidectl: Tidectl, *args: str) -> list[list[str]]:
    result = tidectl(*args)
    assert result.exit_code == 0, result.output
    return [line.split() for line in lines(result)]


@pytest.mark.parametrize(
    ("method", "reply", "command"),
    [
        ("ListDevices", admin_pb2.ListDevicesReply(devices=[DEVICE]), ["device", "list"]),
        ("GetDevice", DEVICE, ["device", "show", "kitchen"]),
        ("ListArms", admin_pb2.ListArmsReply(arms=[ARM]), ["arm", "list"]),
        ("ListArms", admin_pb2.ListArmsReply(arms=[ARM]), ["arm", "show", "large"]),
        ("GetBudget", BUDGET, ["budget", "show"]),
        ("GetTable", TABLE, ["table", "show", "kitchen"]),
        ("ListTables", admin_pb2.ListTablesReply(classes=[TABLES]), ["table", "list"]),
        ("PinTable", TABLES, ["table", "pin", "pi"]),
        ("PinTable", TABLES, ["table", "rollback", "pi", "3", "--yes"]),
        ("UnpinTable", TABLES, ["table", "unpin", "pi"]),
        ("ListDecisions", admin_pb2.ListDecisionsReply(decisions=[DECISION]), ["decision", "list"]),
        ("PauseSpend", admin_pb2.SpendState(paused=True), ["pause-spend"]),
        ("ListLedger", admin_pb2.ListLedgerReply(), ["ledger", "list"]),
        ("ListAudit", AUDIT, ["audit", "list"]),
    ],
)
def test_every_reply_comes_as_json_and_as_a_table_of_a_hundred_columns(
    tidectl: Tidectl, coordinator: FakeCoordinator, method: str, reply: Message, command: list[str]
) -> None:
    """JSON repeats the reply; a table stays readable."""
    coordinator.replies[method] = reply
    data = json.loads(tidectl.json(*command).stdout)
    expected = to_data(reply)
    assert data == (expected["arms"][0] if command[:2] == ["arm", "show"] else expected)
    assert max(len(line) for line in lines(tidectl(*command))) <= 100


def test_device_show_tells_the_machines_condition(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Heat, what holds it back, power, battery and the limits that close arms."""
    device = admin_pb2.Device()
    device.CopyFrom(DEVICE)
    device.device_state.MergeFrom(
        types_pb2.DeviceState(
            cpu_percent=97.0,
            temperature_celsius=84.6,
            throttled=True,
            throttle_reasons=["under_voltage"],
            power_watts=6.25,
            memory_available_bytes=2**30,
            memory_total_bytes=4 * 2**30,
            battery=types_pb2.Battery(charge_ratio=0.42, on_mains=False),
            limited=[types_pb2.Fallout(arm="local", reason="hot")],
        )
    )
    coordinator.replies["GetDevice"] = device
    text = " ".join(tidectl("device", "show", "kitchen").stdout.split())
    assert "97%, 85 °C, held back (under_voltage)" in text
    assert "1.0 of 4.0 GiB" in text
    assert "6.2 W" in text
    assert "42.0%, discharging" in text
    assert "closed by limits local (hot)" in text


def test_json_writes_enums_as_lower_case_words() -> None:
    """Prefixes are dropped; a value of a newer coordinator is its number."""
    assert to_data(DECISION)["outcome"]["status"] == "ok"
    assert to_data(DECISION)["outcome"]["attempts"][1]["settle"] == "reported"
    assert to_data(ARM)["kind"] == "cloud"
    arm = admin_pb2.ArmSummary()
    arm.MergeFromString(b"\x10\x63")  # kind = 99
    assert to_data(arm)["kind"] == "99"


def test_devices_are_listed_with_their_state(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """One row per device."""
    coordinator.replies["ListDevices"] = admin_pb2.ListDevicesReply(devices=[DEVICE])
    assert _cells(tidectl, "device", "list")[-1] == [
        "kitchen", "d-1", "pi", "active", "yes", "2026-11-18T11:06:40Z", "0", "1",
    ]  # fmt: skip


def test_a_quarantined_device_is_listed_with_the_reason_and_the_way_back(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Beneath the table, on one line each."""
    held = admin_pb2.Device(name="attic", id="d-2", state="quarantined", state_reason="why " * 40)
    coordinator.replies["ListDevices"] = admin_pb2.ListDevicesReply(devices=[DEVICE, held])
    last = tidectl("device", "list").stdout.splitlines()[-1]
    assert last == (
        f"attic is quarantined: {held.state_reason}. When that is mended: "
        "tidectl device readmit attic"
    )


def test_a_device_is_shown_with_its_leases_and_broken_arms(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """What it holds and what is wrong with it."""
    coordinator.replies["GetDevice"] = DEVICE
    cells = _cells(tidectl, "device", "show", "kitchen")
    assert ["broken", "arms", "big", "(no", "memory)"] in cells
    assert cells[-1] == ["7", "0", "$0.005", "$0.000000001", "$0.00", "$0.00", "no"]
    assert coordinator.asked("GetDevice").device == "kitchen"


def test_revoke_asks_unless_told_yes(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Without a terminal and without --yes nothing is revoked."""
    coordinator.replies["RevokeDevice"] = DEVICE
    assert tidectl("device", "revoke", "kitchen").exit_code == 2
    assert coordinator.calls == []
    assert tidectl("device", "revoke", "kitchen", "--yes").exit_code == 0
    assert coordinator.asked("RevokeDevice").device == "kitchen"


def test_readmit_names_the_device_and_the_actor(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """The audit log learns who it was."""
    coordinator.replies["ReadmitDevice"] = DEVICE
    assert tidectl("device", "readmit", "d-1").exit_code == 0
    asked = coordinator.asked("ReadmitDevice")
    assert asked.device == "d-1"
    assert asked.actor


def test_an_unknown_device_is_refused(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """The coordinator's words, exit code 1."""
    coordinator.replies["GetDevice"] = (grpc.StatusCode.NOT_FOUND, "no device 'x'")
    result = tidectl("device", "show", "x")
    assert (result.exit_code, result.stderr) == (1, "tidectl: refused: no device 'x'\n")


def test_arms_are_listed_with_prices_in_dollars(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """A local arm has no price, which is not a price of zero."""
    local = admin_pb2.ArmSummary(id="tiny", kind=types_pb2.ARM_KIND_LOCAL)
    coordinator.replies["ListArms"] = admin_pb2.ListArmsReply(arms=[ARM, local])
    assert _cells(tidectl, "arm", "list")[-2:] == [
        ["large", "cloud", "enabled", "$2.50", "$10.00", "$0.00", "40"],
        ["tiny", "local", "disabled", "-", "-", "-", "0"],
    ]


def test_an_arm_is_shown_with_bounds_per_context(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Reward, hit rate and cost with lower and upper bounds; an arm that nobody grades says so."""
    coordinator.replies["ListArms"] = admin_pb2.ListArmsReply(arms=[ARM])
    text = tidectl("arm", "show", "large").stdout
    assert "0.91 [0.85, 0.96]" in text
    assert "0.99 [0.97, 1.00]" in text
    assert "0.123 [0.100, 0.150]" in text
    assert "0.00 ungraded" in text
    assert "[lower, upper] bounds" in text


def test_an_unknown_arm_is_refused(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """An empty list for a named arm is an error."""
    coordinator.replies["ListArms"] = admin_pb2.ListArmsReply()
    result = tidectl("arm", "show", "larg")
    assert result.exit_code == 1
    assert "no arm 'larg'" in result.stderr


@pytest.mark.parametrize(("command", "enabled"), [("disable", False), ("enable", True)])
def test_arms_are_closed_and_opened(
    tidectl: Tidectl, coordinator: FakeCoordinator, command: str, enabled: bool
) -> None:
    """The flag goes out, the new state comes back."""
    coordinator.replies["SetArmEnabled"] = admin_pb2.ArmSummary(id="large", enabled=enabled)
    result = tidectl("arm", command, "large")
    assert lines(result) == [f"large is {command}d"]
    asked = coordinator.asked("SetArmEnabled")
    assert (asked.arm, asked.enabled) == ("large", enabled)


def test_budget_set_sends_exact_nanos(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Dollars are parsed without a float."""
    coordinator.replies["SetBudget"] = BUDGET
    result = tidectl("budget", "set", "0.000000001")
    assert result.exit_code == 0
    assert coordinator.asked("SetBudget").amount_nanos == 1
    assert "$12.50" in result.stdout


@pytest.mark.parametrize("amount", ["1e-10", "many", "nan", "100000001"])
def test_budget_set_refuses_what_is_no_amount(
    tidectl: Tidectl, coordinator: FakeCoordinator, amount: str
) -> None:
    """Finer than a nano-dollar, no number, or beyond the limit: nothing is sent."""
    assert tidectl("budget", "set", amount).exit_code == 2
    assert coordinator.calls == []


def test_a_negative_budget_is_wrong_usage(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """A minus sign does not become an option."""
    assert tidectl("budget", "set", "--", "-1").exit_code == 2
    assert coordinator.calls == []


def test_pause_warns_of_unreached_devices(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """A device that was not reached may still spend its lease, and that is said."""
    state = admin_pb2.SpendState(paused=True, devices_told=2, devices_unreached=1)
    coordinator.replies["PauseSpend"] = state
    assert lines(tidectl("pause-spend")) == [
        "spending is paused: 2 devices told, 1 unreached",
        "an unreached device can still spend what it has been lent",
    ]


def test_resume_says_that_spending_is_allowed(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """The opposite switch."""
    coordinator.replies["ResumeSpend"] = admin_pb2.SpendState(devices_told=3)
    assert lines(tidectl("resume-spend")) == ["spending is allowed: 3 devices told, all reached"]


def _ledger(*ids: int) -> Any:
    rows = [admin_pb2.LedgerRow(id=i, kind="settle", amount_nanos=-i) for i in ids]
    return admin_pb2.ListLedgerReply(rows=rows)


def test_ledger_lists_one_page(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Filters go into the request; amounts keep their sign."""
    coordinator.replies["ListLedger"] = _ledger(11)
    cells = _cells(tidectl, "ledger", "list", "--device", "d-1", "--after", "10", "--limit", "5")
    asked = coordinator.asked("ListLedger")
    assert (asked.device, asked.after_id, asked.limit) == ("d-1", 10, 5)
    assert cells[-1] == ["11", "-", "settle", "-", "-", "-$0.000000011", "-", "-"]


def test_a_full_page_of_the_ledger_says_how_to_see_more(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """It begins with the oldest rows: else a short page would look like the whole."""
    coordinator.replies["ListLedger"] = _ledger(11, 12)
    assert "--after 12, or --all" in tidectl("ledger", "list", "--limit", "2").stderr
    assert "--all" not in tidectl("ledger", "list", "--limit", "3").stderr


def test_ledger_all_follows_the_pages(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Each page begins after the last row of the one before, until one is empty."""
    coordinator.replies["ListLedger"] = [_ledger(1, 2), _ledger(3), _ledger()]
    data = json.loads(tidectl.json("ledger", "list", "--all").stdout)
    assert [row["id"] for row in data["rows"]] == [1, 2, 3]
    assert [request.after_id for _, request in coordinator.calls] == [0, 2, 3]


def test_a_table_shows_weights_in_order(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Arms stand in their order, the task class once."""
    coordinator.replies["GetTable"] = TABLE
    cells = _cells(tidectl, "table", "show", "kitchen")
    assert cells[-2][:4] == ["sort", "tiny", "99.50%", "0.500"]
    assert cells[-1][:4] == ["large", "0.50%", "0.000", "$0.000123"]


def test_a_decision_shows_arm_propensity_and_cost(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Costs of all attempts are summed; asked for by its id, a request shows who was left out."""
    coordinator.replies["ListDecisions"] = admin_pb2.ListDecisionsReply(decisions=[DECISION])
    cells = _cells(tidectl, "decision", "list", "--request-id", "r-1")
    assert ["-", "r-1", "pi", "sort", "large", "0.50%", "drawn", "$0.000123", "321", "-"] in cells
    assert cells[-1] == ["no", "candidate:", "big:", "deadline"]
    assert coordinator.asked("ListDecisions").request_id == "r-1"


def test_a_request_s_id_can_be_copied_whole(
    tidectl: Tidectl, coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes into the next command, so a long reason is what is folded."""
    monkeypatch.setattr(render, "PIPE_COLUMNS", 100)
    decision = admin_pb2.Decision()
    decision.CopyFrom(DECISION)
    decision.outcome.request_id = "req-3cc5eb584dd3c4d9b719b39e"
    decision.outcome.reason = "fallback:large=watermark_not_synced;without:medium=deadline"
    coordinator.replies["ListDecisions"] = admin_pb2.ListDecisionsReply(decisions=[decision])
    assert "req-3cc5eb584dd3c4d9b719b39e" in tidectl("decision", "list").stdout


def test_a_token_stands_alone_on_standard_output(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """So that it can be piped into a file; what it is goes to standard error."""
    coordinator.replies["CreateToken"] = admin_pb2.CreateTokenReply(token="tok", expires_unix_ms=1)
    result = tidectl("token", "create", "--kind", "join", "--class", "pi", "--valid-for", "90m")
    assert result.stdout == "tok\n"
    asked = coordinator.asked("CreateToken")
    assert (asked.kind, asked.device_class) == (admin_pb2.TOKEN_KIND_JOIN, "pi")
    assert asked.valid_for_s == 5_400


def test_an_admin_token_has_no_class(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Wrong usage, and nothing is created."""
    result = tidectl("token", "create", "--kind", "admin", "--class", "pi")
    assert result.exit_code == 2
    assert coordinator.calls == []


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "$0.00"), (1_500_000_000, "$1.50"), (-1, "-$0.000000001"), (10**15, "$1,000,000.00")],
)
def test_dollars_are_exact_with_two_decimals_at_least(nanos: int, text: str) -> None:
    """Nothing is rounded away."""
    assert usd(nanos) == text


def test_times_are_iso_in_utc() -> None:
    """Zero stands for never."""
    assert instant(0) == "-"
    assert instant(1_795_000_000_999) == "2026-11-18T11:06:40Z"


def test_tables_are_listed_with_what_is_pinned_and_kept(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """The one in force first, then those to go back to."""
    coordinator.replies["ListTables"] = admin_pb2.ListTablesReply(classes=[TABLES])
    first, second, third = _cells(tidectl, "table", "list", "pi")[-3:]
    assert ["pi", "3"] == first[:2]
    assert ["by", "ann"] == first[-2:]
    assert [("5", "kept"), ("1", "kept")] == [(row[0], row[-1]) for row in (second, third)]
    assert "pi" == coordinator.asked("ListTables").device_class


def test_a_rollback_asks_and_names_the_version(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Without a terminal and without --yes nothing is put back; a pin needs no question."""
    coordinator.replies["PinTable"] = TABLES
    assert tidectl("table", "rollback", "pi", "3").exit_code == 2
    assert [] == coordinator.calls
    result = tidectl("table", "rollback", "pi", "3", "--yes")
    assert lines(result) == ["class pi decides by version 3, pinned by ann"]
    asked = coordinator.asked("PinTable")
    assert ("pi", 3, True) == (asked.device_class, asked.version, bool(asked.actor))


def test_a_pinned_table_stands_in_the_status(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """So that nobody wonders why plans change nothing."""
    coordinator.replies["GetStatus"] = admin_pb2.FleetStatus(pinned_tables=[TABLES.pinned])
    assert ["table", "pi", "pinned", "at", "version", "3", "by", "ann"] in _cells(tidectl, "status")


def test_a_decision_that_was_only_observed_says_what_would_have_been_drawn(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Beside the fixed arm that answered; the export keeps both."""
    decision = admin_pb2.Decision()
    decision.CopyFrom(DECISION)
    outcome = decision.outcome
    outcome.reason = "observe"
    outcome.drawn_arm, outcome.propensity_ppm = "large", 1_000_000
    outcome.candidates.add(arm="large", weight_ppm=1_000_000)
    outcome.candidates.add(arm="tiny")
    outcome.observed.arm, outcome.observed.propensity_ppm = "tiny", 250_000
    outcome.observed.candidates.add(arm="tiny", weight_ppm=250_000)
    outcome.observed.candidates.add(arm="large", weight_ppm=750_000)
    coordinator.replies["ListDecisions"] = admin_pb2.ListDecisionsReply(decisions=[decision])
    assert "observe, else tiny (25.00%)" in " ".join(tidectl("decision", "list").stdout.split())
    page = admin_pb2.ListDecisionsReply(decisions=[decision])
    coordinator.replies["ListDecisions"] = [page, admin_pb2.ListDecisionsReply()]
    logged = LoggedDecision.from_line(tidectl("decision", "export").stdout)
    assert ("large", 1_000_000) == (logged.drawn_arm, logged.propensity_ppm)
    assert ("tiny", {"tiny": 250_000, "large": 750_000}) == (logged.observed_arm, logged.observed)
