"""What a peer may send, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared import wire
from shared.decision.money import PPM
from shared.decision.types import (
    ArmKind,
    CostAdjustment,
    LeaseClose,
    Outcome,
    RequestStatus,
    SpoolRecord,
    SpoolSummary,
)
from shared.errors import LimitError, ProtocolError
from shared.limits import AMOUNT_NANOS_MAX
from shared.pb.v1 import fleet_pb2, types_pb2

OUTCOME = Outcome(
    request_id="req-1",
    task_class="code",
    arrived_unix_ms=1,
    status=RequestStatus.OK,
    arm="gpt",
    drawn_arm="gpt",
    propensity_ppm=PPM,
    table_version=1,
    reason="drawn",
    forced=False,
)


def cloud_arm(**changes: Any) -> types_pb2.Arm:
    """A complete cloud arm as a peer sends it, with changes to its cloud part."""
    parts: dict[str, Any] = {
        "price": types_pb2.Price(input_nanos_per_mtok=1),
        "worst_case": types_pb2.WorstCase(bytes_factor_ppm=PPM),
        "on_abort": types_pb2.ON_ABORT_DRAIN,
    }
    cloud = types_pb2.CloudArm(**{**parts, **changes})
    return types_pb2.Arm(id="gpt", kind=types_pb2.ARM_KIND_CLOUD, cloud=cloud)


def table_of(*weights: int) -> types_pb2.SelectionTable:
    """A table of one row with these weights."""
    arms = [
        types_pb2.TableArm(arm=f"arm-{index}", weight_ppm=weight)
        for index, weight in enumerate(weights)
    ]
    return types_pb2.SelectionTable(rows=[types_pb2.TableRow(task_class="code", arms=arms)])


def outcome_pb(**changes: Any) -> types_pb2.Outcome:
    """An outcome as a peer sends it."""
    message = wire.outcome_to_pb(OUTCOME)
    message.MergeFrom(types_pb2.Outcome(**changes))
    return message


@pytest.mark.parametrize(
    ("read", "message", "said"),
    [
        pytest.param(
            wire.outcome_from_pb, outcome_pb(status=99), "outcome.status 99", id="unknown status"
        ),
        pytest.param(
            wire.outcome_from_pb,
            types_pb2.Outcome(request_id="req-1"),
            "outcome.status 0",
            id="no status",
        ),
        pytest.param(
            wire.outcome_from_pb,
            types_pb2.Outcome(status=types_pb2.REQUEST_STATUS_OK),
            "outcome.request_id is missing",
            id="no request id",
        ),
        pytest.param(
            wire.outcome_from_pb,
            outcome_pb(propensity_ppm=PPM + 1),
            f"outcome.propensity_ppm .* {PPM + 1}",
            id="probability above one",
        ),
        pytest.param(
            wire.attempt_from_pb,
            types_pb2.Attempt.FromString(b"\x28\x07"),  # field 5 is 7
            "attempt.settle 7",
            id="unknown settle kind",
        ),
        pytest.param(
            wire.attempt_from_pb,
            types_pb2.Attempt(cost_nanos=-1),
            "attempt.cost_nanos .* -1",
            id="cost below zero",
        ),
        pytest.param(
            wire.lease_close_from_pb,
            types_pb2.LeaseClose(final_nanos=AMOUNT_NANOS_MAX + 1),
            "lease_close.final_nanos",
            id="amount beyond the limit",
        ),
        pytest.param(
            wire.adjustment_from_pb,
            types_pb2.CostAdjustment(request_id="r", delta_nanos=-AMOUNT_NANOS_MAX - 1),
            "adjustment.delta_nanos",
            id="adjustment beyond the limit",
        ),
        pytest.param(
            wire.feedback_from_pb,
            types_pb2.Feedback(request_id="r", reward_ppm=PPM + 1),
            "feedback.reward_ppm",
            id="grade above one",
        ),
        pytest.param(
            wire.summary_from_pb,
            types_pb2.SpoolSummary(first_sequence=5, last_sequence=4),
            "summary sequences .* 5 to 4",
            id="summary of nothing",
        ),
        pytest.param(
            wire.record_from_pb,
            types_pb2.SpoolRecord(sequence=8),
            "record.body of sequence 8",
            id="record without a body",
        ),
        pytest.param(
            wire.record_from_pb,
            types_pb2.SpoolRecord(outcome=wire.outcome_to_pb(OUTCOME)),
            "record.sequence .* 0",
            id="record without a sequence",
        ),
        pytest.param(
            wire.lease_status_from_pb,
            types_pb2.LeaseStatus(settled_nanos=-5),
            "lease.settled_nanos .* -5",
            id="spent below zero",
        ),
        pytest.param(
            wire.grant_from_pb,
            fleet_pb2.LeaseGrant(lease_number=1, amount_nanos=5),
            "grant.incarnation is missing",
            id="grant for nobody",
        ),
        pytest.param(
            wire.arm_from_pb, types_pb2.Arm(id="a"), "arm.kind 0", id="arm without a kind"
        ),
        pytest.param(
            wire.arm_from_pb,
            types_pb2.Arm(id="gpt", kind=types_pb2.ARM_KIND_CLOUD),
            "arm.cloud .* gpt",
            id="cloud arm without settings",
        ),
        pytest.param(
            wire.arm_from_pb,
            types_pb2.Arm(
                id="qwen", kind=types_pb2.ARM_KIND_LOCAL, cloud=types_pb2.CloudArm(base_url="x")
            ),
            "arm.cloud .* qwen",
            id="local arm with cloud settings",
        ),
        pytest.param(
            wire.arm_from_pb, cloud_arm(on_abort=0), "arm.cloud.on_abort 0", id="no choice on abort"
        ),
        pytest.param(
            wire.arm_from_pb,
            cloud_arm(price=types_pb2.Price(output_nanos_per_mtok=-1)),
            "price.output_nanos_per_mtok",
            id="price below zero",
        ),
        pytest.param(
            wire.arm_from_pb, cloud_arm(price=None), "arm.cloud.price of arm gpt", id="no price"
        ),
        pytest.param(
            wire.arm_from_pb,
            cloud_arm(worst_case=None),
            "arm.cloud.worst_case of arm gpt",
            id="no worst case",
        ),
        pytest.param(
            wire.table_from_pb, table_of(PPM, 1), "row code", id="weights above one together"
        ),
        pytest.param(
            wire.table_from_pb, table_of(PPM + 1), "table.weight_ppm", id="weight above one"
        ),
    ],
)
def test_what_the_protocol_does_not_allow_is_refused_by_name(
    read: Callable[[Any], object], message: object, said: str
) -> None:
    """A peer's unknown or missing value raises, with the field and the value."""
    with pytest.raises(ProtocolError, match=said):
        read(message)


def test_a_record_of_an_unknown_kind_is_refused() -> None:
    """A body that only a newer peer knows cannot be booked, so it must not be acked either."""
    # Field 99, length-delimited, holding one byte: what an older reader sees of a newer body.
    message = types_pb2.SpoolRecord(sequence=3).SerializeToString() + b"\x9a\x06\x01x"
    with pytest.raises(ProtocolError, match="unknown kind"):
        wire.record_from_bytes(message)


def test_unknown_fields_are_ignored() -> None:
    """A peer one minor version ahead may say more than we understand."""
    record = SpoolRecord(3, incarnation="inc", body=OUTCOME)
    assert record == wire.record_from_bytes(wire.record_to_bytes(record) + b"\x9a\x06\x01x")


def test_bytes_that_are_no_message_are_refused() -> None:
    """The error names the message that was expected."""
    with pytest.raises(ProtocolError, match="SelectionTable"):
        wire.decode_table(b"\xff\xff\xff")


@pytest.mark.parametrize(
    "body",
    [
        OUTCOME._replace(request_id=""),
        OUTCOME._replace(propensity_ppm=-1),
        OUTCOME._replace(latency_ms=-1),
        OUTCOME._replace(tag="\ud800"),
        SpoolSummary(first_sequence=2, last_sequence=1, costs=(), counts=()),
        LeaseClose(1, final_nanos=-1, clean=True, reason=""),
        CostAdjustment("r", lease_number=1, delta_nanos=AMOUNT_NANOS_MAX + 1, reason=""),
    ],
)
def test_nothing_is_written_that_could_not_be_read_back(body: Any) -> None:
    """What a reader would refuse is refused before it is spooled."""
    with pytest.raises(LimitError):
        wire.record_to_bytes(SpoolRecord(1, incarnation="inc", body=body))


def test_a_local_attempt_has_no_settle_kind() -> None:
    """An unset settle kind means that nothing was reserved."""
    assert None is wire.attempt_from_pb(types_pb2.Attempt(arm="qwen")).settle


def test_sets_are_written_in_one_order() -> None:
    """Equal configurations have equal bytes, whatever the order of a set."""
    arm = wire.arm_from_pb(cloud_arm(fields=["top_p", "messages", "model"]))
    assert ["messages", "model", "top_p"] == list(wire.arm_to_pb(arm).cloud.fields)
    assert types_pb2.ARM_KIND_CLOUD == wire.arm_kind_to_pb(ArmKind.CLOUD)
