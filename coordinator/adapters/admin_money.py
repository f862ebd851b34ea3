"""The operators' calls about money: the budget, the ledger, recovery, write-offs, alarms."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from coordinator.adapters import admin_views, money_views
from coordinator.adapters.grpc_errors import translated
from coordinator.engine import CoordinatorEngine
from coordinator.service import CoordinatorService, bearer
from coordinator.sessions import Reaction
from shared.clock import Clock
from shared.errors import ConfigError, ConflictError
from shared.pb.v1 import admin_pb2, admin_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 10_000
REASON_CHARS_MAX: Final = 500
PROGRESS_S: Final = 0.25


class LedgerReading:
    """How far a verification has come; it goes on in a thread of its own."""

    def __init__(self) -> None:
        self.seen = (0, 0)
        self.cancelled = False

    def progress(self, done: int, total: int) -> None:
        """Note it, and stop reading for a caller who is gone."""
        self.seen = (done, total)
        if self.cancelled:
            raise ConflictError("the verification was cancelled")


class MoneyServicer(admin_pb2_grpc.AdminServicer):
    """Every call needs an admin token."""

    # The methods' names are gRPC's.
    # ruff: noqa: N802

    def __init__(self, service: CoordinatorService, *, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    def _admit(self, context: Context) -> str:
        """The operator's name, for the audit."""
        token = bearer(context.invocation_metadata())
        return self._service.authenticate_admin(token).name

    async def GetBudget(
        self, request: admin_pb2.GetBudgetRequest, context: Context
    ) -> admin_pb2.Budget:
        """Where every cent of the window is."""
        async with translated(context):
            self._admit(context)
            return self._budget()

    async def SetBudget(
        self, request: admin_pb2.SetBudgetRequest, context: Context
    ) -> admin_pb2.Budget:
        """Change the budget of this window and the following ones."""
        async with translated(context):
            name = self._admit(context)
            await self._service.command(
                lambda engine, now: engine.set_budget(
                    request.amount_nanos, actor=actor_of(name, said=request.actor), unix_ms=now
                )
            )
            return self._budget()

    async def RewindBudget(
        self, request: admin_pb2.RewindBudgetRequest, context: Context
    ) -> admin_pb2.Budget:
        """Leave a window that begins in the future (rule C_4)."""
        async with translated(context):
            actor = actor_of(self._admit(context), said=request.actor)
            await self._service.rewind_budget(actor=actor, reason=_reason(request.reason))
            return self._budget()

    async def PauseSpend(
        self, request: admin_pb2.PauseSpendRequest, context: Context
    ) -> admin_pb2.SpendState:
        """Stop every paid call."""
        return await self._set_paused(True, actor=request.actor, context=context)

    async def ResumeSpend(
        self, request: admin_pb2.ResumeSpendRequest, context: Context
    ) -> admin_pb2.SpendState:
        """Allow paid calls again."""
        return await self._set_paused(False, actor=request.actor, context=context)

    async def ListLedger(
        self, request: admin_pb2.ListLedgerRequest, context: Context
    ) -> admin_pb2.ListLedgerReply:
        """Ledger rows, rising by id."""
        async with translated(context):
            self._admit(context)
            device_id = self._device_id(request.device)
            rows = await self._service.ledger(
                after_id=request.after_id, limit=limit_of(request.limit), device_id=device_id
            )
            return admin_pb2.ListLedgerReply(rows=[admin_views.ledger_row(row) for row in rows])

    async def WriteOff(
        self, request: admin_pb2.WriteOffRequest, context: Context
    ) -> admin_pb2.WriteOffReply:
        """End the leases of a silent device (rule C_7)."""
        async with translated(context):
            actor = actor_of(self._admit(context), said=request.actor)
            device = self._service.engine.registry.find(request.device)
            reason = _reason(request.reason)
            amounts: list[int] = []

            def change(engine: CoordinatorEngine, now: int) -> Reaction:
                amount, reaction = engine.write_off(
                    device.id,
                    assume_unspent=request.assume_unspent,
                    actor=actor,
                    reason=reason,
                    unix_ms=now,
                )
                amounts.append(amount)
                return reaction

            await self._service.command(change)
            return admin_pb2.WriteOffReply(
                amount_nanos=amounts[-1],
                assumed_unspent=request.assume_unspent,
                budget=self._budget(),
            )

    async def VerifyLedger(
        self, request: admin_pb2.VerifyLedgerRequest, context: Context
    ) -> AsyncIterator[admin_pb2.LedgerVerification]:
        """Add every row up again, telling how far it has come."""
        async with translated(context):
            self._admit(context)
            reading = LedgerReading()
            work = asyncio.ensure_future(self._service.differences(progress=reading.progress))
            try:
                while not work.done():
                    await asyncio.wait({work}, timeout=PROGRESS_S)
                    done, total = reading.seen
                    yield admin_pb2.LedgerVerification(rows_read=done, rows_total=total)
                done, total = reading.seen
                yield admin_pb2.LedgerVerification(
                    rows_read=done, rows_total=total, done=True, differences=work.result()
                )
            finally:
                reading.cancelled = True  # whoever asked may have gone

    async def ExportSpend(
        self, request: admin_pb2.ExportSpendRequest, context: Context
    ) -> AsyncIterator[admin_pb2.SpendPage]:
        """What was spent by day, arm and tag, a day after the other."""
        async with translated(context):
            self._admit(context)
            until = request.until_unix_ms or sys.maxsize
            rows = await self._service.spend(from_unix_ms=request.from_unix_ms)
            while rows and rows[0].day_unix_ms < until:
                yield admin_pb2.SpendPage(lines=[admin_pb2.SpendLine(**vars(row)) for row in rows])
                rows = await self._service.spend(from_unix_ms=rows[0].day_unix_ms + 1)

    async def GetRecovery(
        self, request: admin_pb2.GetRecoveryRequest, context: Context
    ) -> admin_pb2.LedgerRecovery:
        """Who was heard since the books were restored, and who is missing."""
        async with translated(context):
            self._admit(context)
            return self._recovery()

    async def RecoverLedger(
        self, request: admin_pb2.RecoverLedgerRequest, context: Context
    ) -> admin_pb2.LedgerRecovery:
        """Lend again as soon as everybody was heard or is written off (rule C_5)."""
        async with translated(context):
            actor = actor_of(self._admit(context), said=request.actor)
            await self._service.command(
                lambda engine, now: engine.recover_ledger(actor=actor, unix_ms=now)
            )
            return self._recovery()

    async def ListAlarms(
        self, request: admin_pb2.ListAlarmsRequest, context: Context
    ) -> admin_pb2.ListAlarmsReply:
        """What stands, and what ends it."""
        async with translated(context):
            self._admit(context)
            return money_views.alarms(self._service.engine)

    async def ClearAlarm(
        self, request: admin_pb2.ClearAlarmRequest, context: Context
    ) -> admin_pb2.ListAlarmsReply:
        """An operator has seen an alarm; what still stands comes back."""
        async with translated(context):
            actor = actor_of(self._admit(context), said=request.actor)
            reason = request.reason.strip()[:REASON_CHARS_MAX]
            await self._service.command(
                lambda engine, now: engine.clear_alarm(
                    request.key, actor=actor, reason=reason, unix_ms=now
                )
            )
            return money_views.alarms(self._service.engine)

    async def _set_paused(
        self, paused: bool, *, actor: str, context: Context
    ) -> admin_pb2.SpendState:
        async with translated(context):
            name = self._admit(context)
            await self._service.command(
                lambda engine, now: engine.set_spend_paused(
                    paused, actor=actor_of(name, said=actor), unix_ms=now
                )
            )
            engine = self._service.engine
            known, told = len(engine.registry.devices), len(engine.sessions)
            return admin_pb2.SpendState(
                paused=paused, devices_told=told, devices_unreached=max(0, known - told)
            )

    def _budget(self) -> admin_pb2.Budget:
        return money_views.budget(self._service.engine, now_unix_ms=self._clock.unix_ms())

    def _recovery(self) -> admin_pb2.LedgerRecovery:
        return money_views.recovery(self._service.engine, now_unix_ms=self._clock.unix_ms())

    def _device_id(self, name_or_id: str) -> str:
        return self._service.engine.registry.find(name_or_id).id if name_or_id else ""


def actor_of(name: str, *, said: str) -> str:
    """Who goes into the audit: the token's owner first, then what the caller says of itself."""
    return f"{name} ({said})" if said and said != name else name


def limit_of(asked: int) -> int:
    """How many rows a page has: what was asked for, within bounds."""
    return min(asked or LIMIT_DEFAULT, LIMIT_MAX)


def _reason(said: str) -> str:
    """Why an operator does it: it goes into the ledger and the audit."""
    reason = said.strip()
    if not reason:
        raise ConfigError("reason", "empty; say why, for the ledger and the audit")
    if len(reason) > REASON_CHARS_MAX:
        raise ConfigError("reason", f"longer than {REASON_CHARS_MAX} characters")
    return reason
