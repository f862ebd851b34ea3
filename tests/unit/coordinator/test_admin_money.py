"""The operators' calls about money, through a real gRPC server on a loopback port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from coordinator.adapters.grpc_server import start_grpc
from coordinator.alerts import Alert
from coordinator.ports import Notifier
from coordinator.records import AdminTokenRow, WindowRow
from coordinator.registry import digest
from coordinator.service import CoordinatorService
from coordinator.sessions import Reaction
from coordinator.spend import DAY_MS
from shared.decision.money import dollars
from shared.decision.types import CostAdjustment, Feedback, Outcome, SpoolRecord
from shared.pb.v1 import admin_pb2, admin_pb2_grpc
from tests.fakes.memory_store import MemoryStore
from tests.unit.coordinator.test_commit_then_speak import (
    Coordinator,
    CountingIds,
    StoppedClock,
    outcome,
    spending,
)

TOKEN = "tda-operator"


class Ears(Notifier):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    def tell(self, alert: Alert) -> None:
        self.alerts.append(alert)


class Operator(Coordinator):
    """A coordinator with a device, and an operator's stub."""

    def __init__(self) -> None:
        super().__init__()
        self.ears = Ears()
        self.store = MemoryStore()
        self.store.open()
        self.service = CoordinatorService(
            self.store, clock=StoppedClock(), ids=CountingIds(), notifier=self.ears
        )
        self.stub: Any = None

    def call(self, method: str, request: Any, *, token: str = TOKEN) -> Any:
        """One call with the operator's token."""
        metadata = (("authorization", f"Bearer {token}"),)
        return getattr(self.stub, method)(request, metadata=metadata, timeout=10)

    async def leave(self) -> None:
        """The device's session ends."""
        outbox = self.service._outboxes[self.device_id]
        await self.service.disconnect(self.device_id, outbox, incarnation="inc")


@pytest.fixture
async def operator() -> AsyncIterator[Operator]:
    """A device with a lease, and an operator."""
    made = Operator()
    await made.prepare()
    row = AdminTokenRow(digest(TOKEN), "ann", 0, 0)
    await made.service.command(
        lambda engine, now: Reaction(effects=[engine.registry.add_admin_token(row)])
    )
    await spending(made)
    await made.ask()
    server = await start_grpc(
        made.service, clock=StoppedClock(), host="127.0.0.1", port=0,
        keepalive_ms=30_000, keepalive_timeout_ms=10_000, cert_file=None, key_file=None,
    )  # fmt: skip
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        made.stub = admin_pb2_grpc.AdminStub(channel)
        yield made
    await server.stop(grace_s=0)
    await made.service.stop()


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_write_off_needs_a_silent_device_and_a_reason(operator: Operator) -> None:
    """Then the money counts as spent, and who and why are in the audit."""
    request = admin_pb2.WriteOffRequest(device="pi-1", reason="stolen", actor="bob")
    code, said = await refused(operator.call("WriteOff", request))
    assert (grpc.StatusCode.FAILED_PRECONDITION, True) == (code, "connected" in said)
    await operator.leave()
    blank = admin_pb2.WriteOffRequest(device="pi-1", reason=" ")
    code, _ = await refused(operator.call("WriteOff", blank))
    assert grpc.StatusCode.INVALID_ARGUMENT == code
    before = await operator.call("GetBudget", admin_pb2.GetBudgetRequest())
    assert before.outstanding_nanos == before.unreported_nanos > 0

    reply = await operator.call("WriteOff", request)

    assert before.outstanding_nanos == reply.amount_nanos == reply.budget.unconfirmed_nanos
    assert 0 == reply.budget.unreported_nanos
    audit = (await operator.call("ListAudit", admin_pb2.ListAuditRequest(limit=1))).entries
    assert [("ann (bob)", "budget write-off")] == [(row.actor, row.action) for row in audit]
    assert f"pi-1: ${dollars(reply.amount_nanos)} written off; stolen" == audit[0].detail
    code, _ = await refused(operator.call("ListAudit", admin_pb2.ListAuditRequest(), token="no"))
    assert grpc.StatusCode.UNAUTHENTICATED == code


async def test_a_rewind_needs_a_window_ahead_and_a_reason(operator: Operator) -> None:
    """Then what it held counts against the window of now, and who and why are in the audit."""
    request = admin_pb2.RewindBudgetRequest(reason="ntp", actor="bob")
    code, said = await refused(operator.call("RewindBudget", request))
    assert (grpc.StatusCode.FAILED_PRECONDITION, True) == (code, "nothing to rewind" in said)
    before = await operator.call("GetBudget", admin_pb2.GetBudgetRequest())
    length = before.window_end_unix_ms - before.window_start_unix_ms
    await operator.service.command(lambda engine, now: engine.tick(unix_ms=now + 9 * length))
    code, _ = await refused(operator.call("RewindBudget", admin_pb2.RewindBudgetRequest()))
    assert grpc.StatusCode.INVALID_ARGUMENT == code

    reply = await operator.call("RewindBudget", request)

    assert before.window_start_unix_ms == reply.window_start_unix_ms <= reply.now_unix_ms
    assert (0, before.outstanding_nanos) == (reply.outstanding_nanos, reply.unconfirmed_nanos)
    audit = operator.store.database.audit[-1]
    assert ("ann (bob)", "budget rewind") == (audit.actor, audit.action)


async def test_a_verification_streams_to_its_outcome(operator: Operator) -> None:
    """True books first; then a balance that the rows do not explain."""

    async def verified() -> list[Any]:
        call = operator.call("VerifyLedger", admin_pb2.VerifyLedgerRequest())
        return [message async for message in call]

    messages = await verified()
    assert [False] * (len(messages) - 1) + [True] == [message.done for message in messages]
    assert [] == list(messages[-1].differences)
    assert len(operator.store.database.ledger) == messages[-1].rows_read

    (window,) = operator.store.database.windows.values()
    wrong = WindowRow(**{**vars(window), "settled_nanos": 9})
    operator.store.database.windows[window.id] = wrong
    (difference,) = (await verified())[-1].differences
    assert "settled_nanos is 9, its rows add up to 0" in difference


async def test_a_verification_needs_a_token(operator: Operator) -> None:
    """A stream is no way round."""
    request = admin_pb2.VerifyLedgerRequest()
    call = operator.call("VerifyLedger", request, token="guess")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [message async for message in call]
    assert grpc.StatusCode.UNAUTHENTICATED == caught.value.code()


async def test_spend_is_exported_by_day_arm_and_tag(operator: Operator) -> None:
    """Its lines add up to what the window has settled; a span without any is empty."""
    lease = operator.service.engine.account.open_leases()[0]
    for sequence, tag in ((1, "shop"), (2, "shop"), (3, "")):
        record = outcome(sequence, lease=lease.number, cost=1_000 * sequence)
        assert isinstance(record.body, Outcome)
        tagged = record._replace(body=record.body._replace(tag=tag))
        await operator.service.batch(operator.device_id, [tagged], incarnation="inc")

    async def exported(since: int = 0, until: int = 0) -> list[admin_pb2.SpendLine]:
        request = admin_pb2.ExportSpendRequest(from_unix_ms=since, until_unix_ms=until)
        return [line async for page in operator.call("ExportSpend", request) for line in page.lines]

    lines = await exported()
    assert [("large", "", 3_000), ("large", "shop", 3_000)] == [
        (line.arm, line.tag, line.settled_nanos) for line in lines
    ]
    budget = await operator.call("GetBudget", admin_pb2.GetBudgetRequest())
    assert budget.settled_nanos == sum(line.settled_nanos for line in lines)
    day = lines[0].day_unix_ms
    assert 0 == day % DAY_MS
    assert ([], []) == (await exported(since=day + 1), await exported(until=day))
    assert lines == await exported(since=day, until=day + 1)


async def test_the_status_tells_nothing_graded_from_graded_with_nought(operator: Operator) -> None:
    """Without a request there is no share, without a grade no mean; a grade of 0 is one."""

    async def status() -> Any:
        return await operator.call("GetStatus", admin_pb2.GetStatusRequest())

    assert not (await status()).HasField("sla_share_window")
    lease = operator.service.engine.account.open_leases()[0]
    answered = outcome(1, lease=lease.number, cost=1_000)
    await operator.service.batch(operator.device_id, [answered], incarnation="inc")
    reply = await status()
    assert reply.HasField("sla_share_window")
    assert not reply.HasField("reward_mean_window")
    assert not reply.arm_shares[0].HasField("reward_mean")
    grade = SpoolRecord(2, "inc", Feedback("r1", "other", "large", 0, "user", 0))
    await operator.service.batch(operator.device_id, [grade], incarnation="inc")
    reply = await status()
    assert reply.HasField("reward_mean_window")
    assert reply.arm_shares[0].HasField("reward_mean")
    assert (0.0, 0.0) == (reply.reward_mean_window, reply.arm_shares[0].reward_mean)


async def test_alarms_are_told_listed_and_cleared(operator: Operator) -> None:
    """Once each, with who cleared them; an alarm whose cause lasts stays."""
    lease = operator.service.engine.account.open_leases()[0]
    over = outcome(1, lease=lease.number, cost=2_000_000)
    await operator.service.batch(operator.device_id, [over], incarnation="inc")
    assert ["overrun:large"] == [alert.key for alert in operator.ears.alerts]
    listed = await operator.call("ListAlarms", admin_pb2.ListAlarmsRequest())
    (alarm,) = listed.alarms
    assert ("overrun:large", "tidectl arm enable ARM") == (alarm.key, alarm.resolved_by)
    clear = admin_pb2.ClearAlarmRequest(key="overrun:large", reason="seen")
    code, said = await refused(operator.call("ClearAlarm", clear))
    assert (grpc.StatusCode.FAILED_PRECONDITION, True) == (code, "arm enable" in said)
    enable = admin_pb2.SetArmEnabledRequest(arm="large", enabled=True)
    await operator.call("SetArmEnabled", enable)
    listed = await operator.call("ListAlarms", admin_pb2.ListAlarmsRequest())
    assert [] == list(listed.alarms)
    assert [False, True] == [alert.cleared for alert in operator.ears.alerts]
    code, _ = await refused(operator.call("ClearAlarm", clear))
    assert grpc.StatusCode.NOT_FOUND == code


async def test_complete_books_are_not_recovered(operator: Operator) -> None:
    """Asked for or not."""
    state = await operator.call("GetRecovery", admin_pb2.GetRecoveryRequest())
    assert not state.active
    code, said = await refused(operator.call("RecoverLedger", admin_pb2.RecoverLedgerRequest()))
    assert (grpc.StatusCode.FAILED_PRECONDITION, True) == (code, "complete" in said)


async def test_a_dry_run_warns_of_a_price_that_rises_at_once(operator: Operator) -> None:
    """Before anything is applied."""
    toml = operator.store.database.configs[1].toml.replace('"2.50"', '"3"')
    request = admin_pb2.ApplyConfigRequest(toml=toml, dry_run=True)
    reply = await operator.call("ApplyConfig", request)
    (warning,) = reply.warnings
    assert warning.startswith("arms.large.price rises at once")


async def test_a_late_overrun_finds_its_arm_in_the_books(operator: Operator) -> None:
    """The outcome was booked with another batch."""
    lease = operator.service.engine.account.open_leases()[0]
    await operator.service.batch(
        operator.device_id, [outcome(1, lease=lease.number, cost=1_000_000)], incarnation="inc"
    )
    late = SpoolRecord(2, "inc", CostAdjustment("r1", lease.number, 5, "usage came late"))
    await operator.service.batch(operator.device_id, [late], incarnation="inc")
    assert frozenset({"large"}) == operator.service.engine.disabled_arms
    assert ["overrun:large"] == [alert.key for alert in operator.ears.alerts]
