"""budget, ledger and alarm: what is asked, what is shown, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from coordinator.cli.render import to_data
from shared.pb.v1 import admin_pb2, types_pb2
from tests.unit.coordinator.cli.conftest import FakeCoordinator, Reply, Tidectl, lines

LENT = admin_pb2.LeaseHolding(
    device_id="d-1", device_name="kitchen", window_id=5, lease_number=7, end="open",
    amount_nanos=4_000_000, booked_nanos=1_000_000, outstanding_nanos=3_000_000,
    silent_ms=7_200_000, told=types_pb2.LeaseStatus(settled_nanos=1, reserved_nanos=2),
)  # fmt: skip
BUDGET = admin_pb2.Budget(
    name="cloud", window_id=5, target_nanos=10**9, enforced_nanos=2 * 10**9, holdings=[LENT],
    outstanding_nanos=3_000_000, unreported_nanos=3_000_000, passed_percents=[50, 80],
    unspent_note="$1 of d-9",
    refusals=admin_pb2.BudgetRefusals(
        count=3, exhausted=2, budget="cloud", reason="budget cloud: 0 free", device_id="d-1"
    ),
)  # fmt: skip
DEVICE = admin_pb2.Device(id="d-1", name="kitchen", seen_unix_ms=1_795_000_000_000)
WRITTEN = admin_pb2.WriteOffReply(amount_nanos=3_000_000)
RECOVERING = admin_pb2.LedgerRecovery(
    active=True,
    reason="restored from a backup",
    heard=[admin_pb2.RecoveringDevice(id="d-1", name="kitchen")],
    missing=[admin_pb2.RecoveringDevice(id="d-2", name="barn", silent_ms=90_000)],
)
ALARMS = admin_pb2.ListAlarmsReply(
    alarms=[
        admin_pb2.Alarm(key="close:d-1", kind="close", text="closed at 0"),
        admin_pb2.Alarm(
            key="restored", kind="restored", text="a backup", resolved_by="tidectl ledger recover"
        ),
    ]
)
WRITE_OFF = ("budget", "write-off", "kitchen", "--reason", "stolen")


@pytest.fixture
def ready(coordinator: FakeCoordinator) -> FakeCoordinator:
    """A fake that knows a silent device with a lease."""
    coordinator.replies.update(GetDevice=DEVICE, GetBudget=BUDGET, WriteOff=WRITTEN)
    return coordinator


def asked(coordinator: FakeCoordinator, method: str) -> list[Any]:
    """The requests that a method got."""
    return [request for name, request in coordinator.calls if name == method]


def test_every_cent_is_shown_with_who_holds_it(tidectl: Tidectl, ready: FakeCoordinator) -> None:
    """Balances, leases with what their devices said, silence, refusals, and what P1 lost."""
    text = " ".join(tidectl("budget", "show").stdout.split())
    assert "$0.003 of it to 1 silent devices" in text
    assert "falls to the target as leases come back" in text
    assert "50 %, 80 %" in text
    assert "3 leases, 2 for want of free money" in text
    assert "counted as unspent: $1 of d-9" in text
    assert "kitchen 7 silent 2 h $0.004 $0.001 $0.003 $0.00" in text
    assert "$0.000000001 settled, $0.000000002 reserved" in text
    assert to_data(BUDGET) == json.loads(tidectl.json("budget", "show").stdout)


def test_what_is_said_of_a_window_adds_up(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """A lease of an earlier window is not in its sums; what is spent never comes back."""
    reply = admin_pb2.Budget()
    reply.CopyFrom(BUDGET)
    reply.settled_nanos = reply.target_nanos + 1
    reply.holdings.add(device_id="d-2", window_id=4, end="open", outstanding_nanos=9)
    coordinator.replies.update(GetBudget=reply)
    text = " ".join(tidectl("budget", "show").stdout.split())
    assert "$0.003 of it to 1 silent devices" in text
    assert "more than the target is spent" in text
    assert "falls to the target" not in text


def test_a_write_off_asks_and_sends_who_and_why(tidectl: Tidectl, ready: FakeCoordinator) -> None:
    """Without a terminal and --yes nothing is sent."""
    refused = tidectl(*WRITE_OFF)
    assert 2 == refused.exit_code
    assert "has not reported on $0.003" in refused.stderr
    assert [] == asked(ready, "WriteOff")
    assert 0 == tidectl(*WRITE_OFF, "--yes").exit_code
    (request,) = asked(ready, "WriteOff")
    assert ("d-1", False, "stolen") == (request.device, request.assume_unspent, request.reason)
    assert request.actor
    assert to_data(WRITTEN) == json.loads(tidectl.json(*WRITE_OFF, "--yes").stdout)


def test_a_write_off_needs_a_reason(tidectl: Tidectl, ready: FakeCoordinator) -> None:
    """Both no reason and an empty one are wrong usage."""
    assert 2 == tidectl("budget", "write-off", "kitchen", "--yes").exit_code
    assert 2 == tidectl("budget", "write-off", "kitchen", "--yes", "--reason", " ").exit_code
    assert [] == ready.calls


@pytest.mark.parametrize(
    ("answers", "code", "sent"), [("y\nkitchen\n", 0, 1), ("y\nbarn\n", 1, 0), ("n\n", 1, 0)]
)
def test_to_assume_unspent_asks_twice(
    tidectl: Tidectl,
    ready: FakeCoordinator,
    monkeypatch: pytest.MonkeyPatch,
    answers: str,
    code: int,
    sent: int,
) -> None:
    """A yes, and then the device's name."""
    monkeypatch.setattr("coordinator.cli.money.is_interactive", lambda: True)
    result = tidectl(*WRITE_OFF, "--assume-unspent", stdin=answers)
    assert (code, sent) == (result.exit_code, len(asked(ready, "WriteOff")))


@pytest.mark.parametrize(
    ("more", "code"), [([], 2), (["--confirm", "barn"], 1), (["--confirm", "kitchen"], 0)]
)
def test_a_script_must_name_the_device_twice(
    tidectl: Tidectl, ready: FakeCoordinator, more: list[str], code: int
) -> None:
    """`--yes` alone answers the first question only."""
    result = tidectl(*WRITE_OFF, "--assume-unspent", "--yes", *more)
    assert (code, int(code == 0)) == (result.exit_code, len(asked(ready, "WriteOff")))


def test_a_connected_device_is_refused(tidectl: Tidectl, ready: FakeCoordinator) -> None:
    """In the coordinator's words."""
    ready.replies["WriteOff"] = (grpc.StatusCode.FAILED_PRECONDITION, "kitchen is connected")
    result = tidectl(*WRITE_OFF, "--yes")
    assert (1, "tidectl: refused: kitchen is connected\n") == (result.exit_code, result.stderr)


REWIND = ("budget", "rewind", "--reason", "ntp")
AHEAD = admin_pb2.Budget(
    name="cloud", window_id=5, now_unix_ms=1_795_000_000_000, settled_nanos=2_000_000,
    window_start_unix_ms=1_796_000_000_000, outstanding_nanos=3_000_000,
)  # fmt: skip


def test_a_rewind_asks_whether_the_clock_is_right_and_sends_why(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Both times are shown, and what will count."""
    coordinator.replies.update(GetBudget=AHEAD, RewindBudget=BUDGET)
    assert 2 == tidectl("budget", "rewind", "--yes", "--reason", " ").exit_code
    refused = tidectl(*REWIND)
    assert (2, []) == (refused.exit_code, asked(coordinator, "RewindBudget"))
    for said in ("clock says 2026-11-18", "begins at 2026-11-30", "$0.005 of the later one"):
        assert said in " ".join(refused.stderr.split())
    assert 0 == tidectl(*REWIND, "--yes").exit_code
    (request,) = asked(coordinator, "RewindBudget")
    assert "ntp" == request.reason
    assert request.actor


def test_a_window_that_has_begun_needs_no_rewind(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """The coordinator's refusal is shown without a question."""
    said = (grpc.StatusCode.FAILED_PRECONDITION, "there is nothing to rewind")
    coordinator.replies.update(GetBudget=BUDGET, RewindBudget=said)
    result = tidectl(*REWIND)
    assert (1, "tidectl: refused: there is nothing to rewind\n") == (
        result.exit_code,
        result.stderr,
    )


def verification(*differences: str) -> list[Reply]:
    """Progress and an outcome."""
    return [
        admin_pb2.LedgerVerification(rows_read=5, rows_total=9),
        admin_pb2.LedgerVerification(rows_read=9, rows_total=9, done=True, differences=differences),
    ]


@pytest.mark.parametrize(("differences", "code"), [([], 0), (["window 7: settled", "x"], 1)])
def test_verify_tells_by_its_exit_code(
    tidectl: Tidectl, coordinator: FakeCoordinator, differences: list[str], code: int
) -> None:
    """0 and the rows, or 1 and every difference; the JSON has both."""
    coordinator.replies["VerifyLedger"] = verification(*differences)
    result = tidectl("ledger", "verify")
    assert code == result.exit_code
    expected = differences or ["9 rows add up to the balances of every window and lease"]
    assert expected == lines(result)
    coordinator.replies["VerifyLedger"] = verification(*differences)
    as_json = tidectl.json("ledger", "verify")
    assert code == as_json.exit_code
    assert differences == json.loads(as_json.stdout)["differences"]


def test_recover_shows_who_is_missing_and_asks(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Then it says whom lending waits for."""
    status = admin_pb2.FleetStatus(budget=BUDGET, config_version=4)
    coordinator.replies.update(GetRecovery=RECOVERING, RecoverLedger=RECOVERING, GetStatus=status)
    assert 2 == tidectl("ledger", "recover").exit_code
    result = tidectl("ledger", "recover", "--yes")
    assert 0 == result.exit_code
    assert ["barn", "d-2", "missing", "1", "min"] in [line.split() for line in lines(result)]
    assert "what these books knew: $1.00 a window, configuration 4\n" in result.stdout
    assert "nothing is lent before these are heard: barn" in result.stdout
    assert to_data(RECOVERING) == json.loads(tidectl.json("ledger", "recover", "--yes").stdout)
    assert "missing" in tidectl("ledger", "recovery").stdout


def test_complete_books_need_no_recovery(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """The coordinator's refusal is shown without a question."""
    coordinator.replies["GetRecovery"] = admin_pb2.LedgerRecovery()
    said = (grpc.StatusCode.FAILED_PRECONDITION, "there is nothing to recover")
    coordinator.replies["RecoverLedger"] = said
    result = tidectl("ledger", "recover")
    assert (1, "tidectl: refused: there is nothing to recover\n") == (
        result.exit_code,
        result.stderr,
    )


def test_alarms_are_listed_with_what_ends_them(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """A cause that lasts has its own command."""
    coordinator.replies["ListAlarms"] = ALARMS
    text = " ".join(tidectl("alarm", "list").stdout.split())
    assert "close:d-1 - closed at 0 tidectl alarm clear close:d-1" in text
    assert "restored - a backup tidectl ledger recover" in text
    assert to_data(ALARMS) == json.loads(tidectl.json("alarm", "list").stdout)


def test_an_alarm_is_cleared_with_a_reason(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """What still stands is shown."""
    coordinator.replies["ClearAlarm"] = admin_pb2.ListAlarmsReply()
    result = tidectl("alarm", "clear", "close:d-1", "--reason", "seen")
    assert ["no alarm stands"] == lines(result)
    request = coordinator.asked("ClearAlarm")
    assert ("close:d-1", "seen") == (request.key, request.reason)


def test_apply_warns_before_it_asks(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """On standard error, also where the result is JSON."""
    change = admin_pb2.ConfigChange(key="arms.large.price", before="1", after="2")
    coordinator.replies["ApplyConfig"] = admin_pb2.ApplyConfigReply(
        version=2, changes=[change], warnings=["arms.large.price rises at once"]
    )
    for command in (["diff"], ["apply", "--yes"]):
        result = tidectl("--format", "json", *command, "-f", "-", stdin="[fleet]\n")
        assert "tidectl: warning: arms.large.price rises at once\n" == result.stderr
