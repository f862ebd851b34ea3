"""The operators' gRPC service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from coordinator.adapters import admin_views
from coordinator.adapters.admin_money import Context, MoneyServicer, actor_of, limit_of
from coordinator.adapters.grpc_errors import translated
from coordinator.engine import CoordinatorEngine
from coordinator.sessions import Reaction
from shared import wire
from shared.errors import ConfigError, NotFoundError
from shared.pb.v1 import admin_pb2, types_pb2
from shared.version import PROTOCOL_VERSION, SOFTWARE_VERSION

JOIN_TOKEN_VALID_S: Final = 3_600


class AdminServicer(MoneyServicer):
    """Every call needs an admin token; those about money are in `MoneyServicer`."""

    # The methods' names are gRPC's.
    # ruff: noqa: N802

    async def GetVersion(
        self, request: admin_pb2.GetVersionRequest, context: Context
    ) -> admin_pb2.VersionReply:
        """The coordinator's versions."""
        async with translated(context):
            self._admit(context)
        return admin_pb2.VersionReply(
            software_version=SOFTWARE_VERSION, protocol=wire.version_to_pb(PROTOCOL_VERSION)
        )

    async def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: Context
    ) -> admin_pb2.FleetStatus:
        """The fleet at a glance."""
        async with translated(context):
            self._admit(context)
            return admin_views.status(self._service.engine, now_unix_ms=self._clock.unix_ms())

    async def ApplyConfig(
        self, request: admin_pb2.ApplyConfigRequest, context: Context
    ) -> admin_pb2.ApplyConfigReply:
        """Take a fleet configuration, or tell what it would change."""
        async with translated(context):
            name = self._admit(context)
            warnings = self._service.config_warnings(request.toml)
            version, changes = await self._service.apply_config(
                request.toml, actor=actor_of(name, said=request.actor), dry_run=request.dry_run
            )
            return admin_pb2.ApplyConfigReply(
                version=version,
                changes=[
                    admin_pb2.ConfigChange(key=c.key, before=c.before, after=c.after)
                    for c in changes
                ],
                warnings=warnings,
            )

    async def ListDevices(
        self, request: admin_pb2.ListDevicesRequest, context: Context
    ) -> admin_pb2.ListDevicesReply:
        """Every known device."""
        async with translated(context):
            self._admit(context)
            devices = self._service.engine.registry.devices
            return admin_pb2.ListDevicesReply(
                devices=[admin_views.device(self._service, device) for device in devices]
            )

    async def GetDevice(
        self, request: admin_pb2.GetDeviceRequest, context: Context
    ) -> admin_pb2.Device:
        """One device, by id or name."""
        async with translated(context):
            self._admit(context)
            return self._device(request.device)

    async def RevokeDevice(
        self, request: admin_pb2.RevokeDeviceRequest, context: Context
    ) -> admin_pb2.Device:
        """Shut a device out for good."""
        async with translated(context):
            name = self._admit(context)
            return await self._stand(
                request.device, CoordinatorEngine.revoke, actor=actor_of(name, said=request.actor)
            )

    async def ReadmitDevice(
        self, request: admin_pb2.ReadmitDeviceRequest, context: Context
    ) -> admin_pb2.Device:
        """Let a quarantined device spend again."""
        async with translated(context):
            name = self._admit(context)
            return await self._stand(
                request.device, CoordinatorEngine.readmit, actor=actor_of(name, said=request.actor)
            )

    async def ListArms(
        self, request: admin_pb2.ListArmsRequest, context: Context
    ) -> admin_pb2.ListArmsReply:
        """Arms with their estimates per context."""
        async with translated(context):
            self._admit(context)
            return admin_pb2.ListArmsReply(arms=self._arms(request.arm))

    async def SetArmEnabled(
        self, request: admin_pb2.SetArmEnabledRequest, context: Context
    ) -> admin_pb2.ArmSummary:
        """Open or close an arm on every device."""
        async with translated(context):
            actor = actor_of(self._admit(context), said=request.actor)
            await self._service.command(
                lambda engine, now: engine.set_arm_enabled(
                    request.arm,
                    request.enabled,
                    actor=actor,
                    unix_ms=now,
                )
            )
            return self._arms(request.arm)[0]

    async def GetTable(
        self, request: admin_pb2.GetTableRequest, context: Context
    ) -> types_pb2.SelectionTable:
        """The table that a device decides by, or one of a class that is kept."""
        async with translated(context):
            self._admit(context)
            engine = self._service.engine
            device_class = request.device_class
            if not device_class:
                device_class = engine.registry.find(request.device).device_class
            if request.version:
                found = await self._service.table(device_class, version=request.version)
                return wire.table_to_pb(found)
            return wire.table_to_pb(engine.table_of(device_class))

    async def ListTables(
        self, request: admin_pb2.ListTablesRequest, context: Context
    ) -> admin_pb2.ListTablesReply:
        """Which versions are in force, pinned and kept."""
        async with translated(context):
            self._admit(context)
            engine = self._service.engine
            names = [self._known_class(request.device_class)] if request.device_class else None
            return admin_pb2.ListTablesReply(
                classes=[
                    admin_views.tables_of(engine, device_class=name)
                    for name in names or sorted(engine.tables)
                ]
            )

    async def PinTable(
        self, request: admin_pb2.PinTableRequest, context: Context
    ) -> admin_pb2.TablesOfClass:
        """Keep a table as it is, or put an earlier one back."""
        async with translated(context):
            actor = actor_of(self._admit(context), said=request.actor)
            await self._service.pin_table(
                request.device_class, version=request.version, actor=actor
            )
            return admin_views.tables_of(self._service.engine, device_class=request.device_class)

    async def UnpinTable(
        self, request: admin_pb2.UnpinTableRequest, context: Context
    ) -> admin_pb2.TablesOfClass:
        """Let plans decide again."""
        async with translated(context):
            actor = actor_of(self._admit(context), said=request.actor)
            name = request.device_class
            await self._service.command(
                lambda engine, now: engine.unpin_table(name, actor=actor, unix_ms=now)
            )
            return admin_views.tables_of(self._service.engine, device_class=name)

    async def GetForecast(
        self, request: admin_pb2.GetForecastRequest, context: Context
    ) -> admin_pb2.ForecastReply:
        """Demand so far and to come, per context."""
        async with translated(context):
            self._admit(context)
            return admin_views.forecast(self._service.engine)

    async def GetPlanInputs(
        self, request: admin_pb2.GetPlanInputsRequest, context: Context
    ) -> admin_pb2.PlanInputs:
        """Means, demand and limits of the present window."""
        async with translated(context):
            self._admit(context)
            return admin_views.plan_inputs(self._service.engine)

    async def ListDecisions(
        self, request: admin_pb2.ListDecisionsRequest, context: Context
    ) -> admin_pb2.ListDecisionsReply:
        """Booked decisions, newest first; above a position, oldest first."""
        async with translated(context):
            self._admit(context)
            decisions = await self._service.decisions(
                limit=limit_of(request.limit),
                device_id=self._device_id(request.device),
                request_id=request.request_id,
                after=request.after_position if request.HasField("after_position") else None,
            )
            return admin_pb2.ListDecisionsReply(
                decisions=[admin_views.decision(decision) for decision in decisions]
            )

    async def ListAudit(
        self, request: admin_pb2.ListAuditRequest, context: Context
    ) -> admin_pb2.ListAuditReply:
        """Who changed what, newest first."""
        async with translated(context):
            self._admit(context)
            rows = await self._service.audit(limit=limit_of(request.limit))
            return admin_pb2.ListAuditReply(
                entries=[admin_pb2.AuditEntry(**vars(row)) for row in rows]
            )

    async def CreateToken(
        self, request: admin_pb2.CreateTokenRequest, context: Context
    ) -> admin_pb2.CreateTokenReply:
        """A token for a device or an operator; shown this once."""
        async with translated(context):
            name = self._admit(context)
            actor = actor_of(name, said=request.actor)
            if request.kind == admin_pb2.TOKEN_KIND_JOIN:
                token, expires = await self._service.create_join_token(
                    device_class=self._known_class(request.device_class),
                    valid_for_s=request.valid_for_s or JOIN_TOKEN_VALID_S,
                    actor=actor,
                )
            elif request.kind == admin_pb2.TOKEN_KIND_ADMIN:
                token, expires = await self._service.create_admin_token(
                    name=request.name or "operator", valid_for_s=request.valid_for_s, actor=actor
                )
            else:
                raise ConfigError(
                    "kind", f"a token is for joining or for operators: {request.kind}"
                )
            return admin_pb2.CreateTokenReply(token=token, expires_unix_ms=expires)

    async def _stand(
        self, name_or_id: str, change: Callable[..., Reaction], *, actor: str
    ) -> admin_pb2.Device:
        """Change a device's standing and make it connect anew."""
        device = self._service.engine.registry.find(name_or_id)
        await self._service.command(
            lambda engine, now: change(engine, device.id, actor=actor, unix_ms=now)
        )
        await self._service.end_session(device.id)
        return self._device(device.id)

    def _arms(self, arm: str) -> list[admin_pb2.ArmSummary]:
        arms = admin_views.arms(self._service.engine, only=arm)
        if arm and not arms:
            raise NotFoundError(f"no arm {arm!r}; `tidectl arm list` shows all")
        return arms

    def _device(self, name_or_id: str) -> admin_pb2.Device:
        device = self._service.engine.registry.find(name_or_id)
        return admin_views.device(self._service, device)

    def _known_class(self, device_class: str) -> str:
        config = self._service.engine.config
        if device_class and config is not None and device_class not in config.device_classes:
            known = ", ".join(sorted(config.device_classes))
            raise NotFoundError(f"no device class {device_class!r}; there are {known}")
        return device_class
