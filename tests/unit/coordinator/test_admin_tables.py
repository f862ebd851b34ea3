"""The operators' calls about selection tables, through a real gRPC server on a loopback port."""

from __future__ import annotations

import grpc
import pytest

from shared.pb.v1 import admin_pb2
from tests.unit.coordinator.test_admin_money import Operator, refused
from tests.unit.coordinator.test_admin_money import operator as an_operator

operator = an_operator


async def disabled(operator: Operator, arm: str) -> None:
    """The next table is another one."""
    await operator.call("SetArmEnabled", admin_pb2.SetArmEnabledRequest(arm=arm, enabled=False))


@pytest.fixture
async def tables(operator: Operator) -> list[int]:
    """Two versions, the one in force last."""
    (first,) = (await operator.call("ListTables", admin_pb2.ListTablesRequest())).classes
    await disabled(operator, "large")
    (second,) = (await operator.call("ListTables", admin_pb2.ListTablesRequest())).classes
    assert second.version > first.version
    return [first.version, second.version]


async def test_a_table_is_pinned_shown_and_unpinned(operator: Operator, tables: list[int]) -> None:
    """The status tells it, and who did it."""
    reply = await operator.call("PinTable", admin_pb2.PinTableRequest(device_class="pi", actor="x"))
    assert (tables[1], "ann (x)") == (reply.pinned.version, reply.pinned.actor)
    status = await operator.call("GetStatus", admin_pb2.GetStatusRequest())
    assert [("pi", tables[1])] == [(p.device_class, p.version) for p in status.pinned_tables]
    reply = await operator.call("UnpinTable", admin_pb2.UnpinTableRequest(device_class="pi"))
    assert not reply.HasField("pinned")
    actions = [row.action for row in operator.store.database.audit[-2:]]
    assert ["table pin", "table unpin"] == actions


async def test_an_earlier_table_is_put_back(operator: Operator, tables: list[int]) -> None:
    """It can be looked at before, and is in force afterwards."""
    request = admin_pb2.GetTableRequest(device="pi-1", version=tables[0])
    earlier = await operator.call("GetTable", request)
    assert tables[0] == earlier.version
    back = admin_pb2.PinTableRequest(device_class="pi", version=tables[0])
    reply = await operator.call("PinTable", back)
    assert (tables[0], [tables[1]]) == (reply.version, [each.version for each in reply.earlier])
    present = await operator.call("GetTable", admin_pb2.GetTableRequest(device="pi-1"))
    assert earlier == present


async def test_what_is_not_kept_is_refused(operator: Operator, tables: list[int]) -> None:
    """The error says which versions are; a class that is not pinned cannot be unpinned."""
    request = admin_pb2.PinTableRequest(device_class="pi", version=99)
    code, said = await refused(operator.call("PinTable", request))
    assert (grpc.StatusCode.NOT_FOUND, True) == (code, f"earlier ones are: {tables[0]}" in said)
    unpin = admin_pb2.UnpinTableRequest(device_class="pi")
    code, said = await refused(operator.call("UnpinTable", unpin))
    assert (grpc.StatusCode.FAILED_PRECONDITION, True) == (code, "not pinned" in said)
    unknown = admin_pb2.ListTablesRequest(device_class="pie")
    code, _ = await refused(operator.call("ListTables", unknown))
    assert grpc.StatusCode.NOT_FOUND == code
