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
from shared.limits import AMOUNT_NANOS_MAX, BATCH_RECORDS_MAX, NUMBER_MAX
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
            types_pb2.LeaseClose(lease_number=1, final_nanos=AMOUNT_NANOS_MAX + 1),
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
            wire.lease_close_from_pb,
            types_pb2.LeaseClose(final_nanos=1),
            "lease_close.lease_number .* 0",
            id="close of no lease",
        ),
        pytest.param(
            wire.adjustment_from_pb,
            types_pb2.CostAdjustment(request_id="r", delta_nanos=-1),
            "adjustment.lease_number .* 0",
            id="adjustment on no lease",
        ),
        pytest.param(
            wire.summary_from_pb,
            types_pb2.SpoolSummary(
                first_sequence=1, last_sequence=1, costs=[types_pb2.LeaseCost(cost_nanos=1)]
            ),
            "summary.costs.lease_number .* 0",
            id="summed cost on no lease",
        ),
        pytest.param(
            wire.attempt_from_pb,
            types_pb2.Attempt(lease_number=NUMBER_MAX + 1),
            f"attempt.lease_number .* {NUMBER_MAX + 1}",
            id="lease beyond 64 bits",
        ),
        pytest.param(
            wire.record_from_pb,
            types_pb2.SpoolRecord(sequence=NUMBER_MAX + 1, outcome=outcome_pb()),
            f"record.sequence .* {NUMBER_MAX + 1}",
            id="sequence beyond 64 bits",
        ),
        pytest.param(
            wire.summary_from_pb,
            types_pb2.SpoolSummary(first_sequence=1, last_sequence=NUMBER_MAX + 1),
            "summary sequences",
            id="summary beyond 64 bits",
        ),
        pytest.param(
            wire.summary_from_pb,
            types_pb2.SpoolSummary(
                first_sequence=1,
                last_sequence=1,
                counts=[types_pb2.ContextCount(requests=NUMBER_MAX + 1)],
            ),
            "summary.counts.requests",
            id="count beyond 64 bits",
        ),
        pytest.param(
            wire.lease_number_max_from_pb,
            fleet_pb2.Hello(lease_number_max=NUMBER_MAX + 1),
            "lease_number_max",
            id="highest lease beyond 64 bits",
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
            types_pb2.LeaseStatus(lease_number=1, settled_nanos=-5),
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


def run_of(*sequences: int, **changes: Any) -> types_pb2.OutcomeRun:
    """Outcomes as a peer sends them, with some columns other."""
    records = [SpoolRecord(at, "inc", OUTCOME) for at in range(1, len(sequences) + 1)]
    (message,) = wire.batch_to_pb(records).runs
    for name, values in {"sequence": sequences, **changes}.items():
        message.ClearField(name)
        getattr(message, name).extend(values)
    return message


@pytest.mark.parametrize(
    ("run", "said"),
    [
        pytest.param(
            run_of(0, 1),
            "run.sequence must rise, from at least 1 .* 0 comes after 0",
            id="from zero",
        ),
        pytest.param(run_of(2, 2), "run.sequence must rise.* 2 comes after 2", id="the same twice"),
        pytest.param(
            run_of(2, NUMBER_MAX + 1), f": {NUMBER_MAX + 1} comes after 2", id="beyond 64 bits"
        ),
        pytest.param(run_of(1, 2, request_id=["a", ""]), "request_id is missing", id="no request"),
        pytest.param(run_of(1, 2, status=[1]), "outcome.status has 1 values", id="too few"),
        pytest.param(run_of(1, 2, status=[]), "outcome.status has 0 values", id="none at all"),
        pytest.param(run_of(1, status=[99]), "outcome.status 99", id="unknown status"),
        pytest.param(run_of(1, 2, hit=[True] * 3), "outcome.hit has 3 values", id="too many"),
        pytest.param(run_of(1, arm=[99]), "outcome.arm 99 is beyond the", id="unknown text"),
        pytest.param(run_of(1, propensity_ppm=[PPM + 1]), "propensity_ppm must be", id="above one"),
        pytest.param(run_of(1, texts=["x" * 20_000]), "text of a run is longer", id="long text"),
        pytest.param(
            run_of(1, observed_at=[1], observed=[types_pb2.Observation()]),
            "observed_at 1 is beyond 1 outcomes",
            id="observation of nothing",
        ),
    ],
)
def test_a_run_with_a_wrong_column_is_refused(run: types_pb2.OutcomeRun, said: str) -> None:
    """Nothing of it is taken: the values at one place would not belong together."""
    with pytest.raises(ProtocolError, match=said):
        wire.batch_from_pb(fleet_pb2.OutcomeBatch(runs=[run]))


def test_attempts_that_are_counted_and_missing_are_refused() -> None:
    """Each outcome says how many are its own."""
    run = run_of(1, 2)
    run.attempts.count.extend([1, 0])
    with pytest.raises(ProtocolError, match=r"attempt\.arm has 0 values instead of 1"):
        wire.batch_from_pb(fleet_pb2.OutcomeBatch(runs=[run]))


def test_runs_come_one_after_the_other() -> None:
    """So that each of them is stored once."""
    runs = [run_of(1, 3), run_of(2, 4)]
    with pytest.raises(ProtocolError, match="begins with sequence 2 comes after one that ends"):
        wire.batch_from_pb(fleet_pb2.OutcomeBatch(runs=runs))


def test_a_batch_has_a_limit_in_runs_too() -> None:
    """However its records are written."""
    many = [SpoolRecord(at, "inc", OUTCOME) for at in range(1, BATCH_RECORDS_MAX + 2)]
    assert many[:-1] == wire.batch_from_pb(wire.batch_to_pb(many[:-1]))
    with pytest.raises(LimitError, match=f"not {BATCH_RECORDS_MAX + 1}"):
        wire.batch_from_pb(wire.batch_to_pb(many))


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
    """What a reader would refuse is refused before it is spooled, or kept."""
    with pytest.raises(LimitError):
        wire.record_to_bytes(SpoolRecord(1, incarnation="inc", body=body))
    if isinstance(body, Outcome):
        with pytest.raises(LimitError):
            wire.encode_run([OUTCOME, body])


def test_a_local_attempt_has_no_settle_kind() -> None:
    """An unset settle kind means that nothing was reserved."""
    assert None is wire.attempt_from_pb(types_pb2.Attempt(arm="qwen")).settle


def test_sets_are_written_in_one_order() -> None:
    """Equal configurations have equal bytes, whatever the order of a set."""
    arm = wire.arm_from_pb(cloud_arm(fields=["top_p", "messages", "model"]))
    assert ["messages", "model", "top_p"] == list(wire.arm_to_pb(arm).cloud.fields)
    assert types_pb2.ARM_KIND_CLOUD == wire.arm_kind_to_pb(ArmKind.CLOUD)
