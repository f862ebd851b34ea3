"""Every value survives the way to the wire and back, and no bytes can crash a reader."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import wire
from shared.decision.grading import Grader, GraderKind, Signals, WeakSignal
from shared.decision.lease import LeaseGranted
from shared.decision.money import PPM, Price, WorstCase
from shared.decision.table import SelectionTable, TableArm, TableRow
from shared.decision.types import (
    Arm,
    ArmKind,
    ArmSpeed,
    Attempt,
    Battery,
    Candidate,
    CloudSettings,
    ContextCount,
    CostAdjustment,
    DeviceConfig,
    DeviceState,
    Fallout,
    Feedback,
    Judge,
    JudgeCall,
    LeaseClose,
    LeaseStatus,
    Observation,
    OnAbort,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolBody,
    SpoolRecord,
    SpoolSummary,
    TaskClass,
)
from shared.errors import LimitError, ProtocolError
from shared.limits import AMOUNT_NANOS_MAX, ARMS_MAX, NUMBER_MAX, TOKENS_PER_S_MAX
from shared.pb.v1 import fleet_pb2
from shared.version import ProtocolVersion

# Lone surrogates are no text; protobuf refuses them.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12
)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(1, NUMBER_MAX)
I64 = st.integers(-(2**63), 2**63 - 1)
NANOS = st.integers(0, AMOUNT_NANOS_MAX)
SHARE = st.integers(0, PPM)
CHANCE = st.integers(1, PPM)
NAMES = st.frozensets(NAME, max_size=4)
FLOAT = st.floats(allow_nan=False)

FALLOUTS = st.builds(Fallout, arm=TEXT, reason=TEXT)
CANDIDATES = st.builds(Candidate, arm=TEXT, weight_ppm=st.integers(0, 1_000_000))
ATTEMPTS = st.builds(
    Attempt,
    arm=TEXT,
    latency_ms=U32,
    error=TEXT,
    lease_number=st.just(0) | NUMBERS,
    reserved_nanos=NANOS,
    cost_nanos=NANOS,
    settle=st.none() | st.sampled_from(SettleKind),
)
OUTCOMES = st.builds(
    Outcome,
    request_id=NAME,
    task_class=TEXT,
    arrived_unix_ms=I64,
    status=st.sampled_from(RequestStatus),
    arm=TEXT,
    drawn_arm=TEXT,
    propensity_ppm=SHARE,
    table_version=U64,
    reason=TEXT,
    forced=st.booleans(),
    attempts=st.lists(ATTEMPTS, max_size=3).map(tuple),
    fallouts=st.lists(FALLOUTS, max_size=3).map(tuple),
    candidates=st.lists(CANDIDATES, max_size=3).map(tuple),
    prompt_tokens=U32,
    completion_tokens=U32,
    ttft_ms=U32,
    latency_ms=U32,
    deadline_ms=U32,
    hit=st.booleans(),
    tag=TEXT,
    observed=st.none()
    | st.builds(
        Observation,
        arm=TEXT,
        propensity_ppm=SHARE,
        candidates=st.lists(CANDIDATES, max_size=3).map(tuple),
    ),
    grading_ppm=CHANCE,
)
FEEDBACK = st.builds(
    Feedback,
    request_id=NAME,
    task_class=TEXT,
    arm=TEXT,
    reward_ppm=SHARE,
    source=TEXT,
    at_unix_ms=I64,
    weight_ppm=CHANCE,
    grading_ppm=CHANCE,
)
JUDGE_CALLS = st.builds(JudgeCall, request_id=NAME, attempt=ATTEMPTS)
CLOSES = st.builds(
    LeaseClose, lease_number=NUMBERS, final_nanos=NANOS, clean=st.booleans(), reason=TEXT
)
ADJUSTMENTS = st.builds(
    CostAdjustment,
    request_id=NAME,
    lease_number=NUMBERS,
    delta_nanos=st.integers(-AMOUNT_NANOS_MAX, AMOUNT_NANOS_MAX),
    reason=TEXT,
)
COUNTS = st.builds(ContextCount, task_class=TEXT, arm=TEXT, requests=st.just(0) | NUMBERS)
SUMMARIES = st.builds(
    SpoolSummary,
    first_sequence=st.integers(1, 2**31),
    last_sequence=st.integers(2**31, NUMBER_MAX),
    costs=st.lists(st.tuples(NUMBERS, NANOS), max_size=3).map(tuple),
    counts=st.lists(COUNTS, max_size=3).map(tuple),
)
BODIES = OUTCOMES | FEEDBACK | CLOSES | ADJUSTMENTS | SUMMARIES | JUDGE_CALLS
RECORDS = st.builds(SpoolRecord, sequence=NUMBERS, incarnation=TEXT, body=BODIES)
STATUSES = st.builds(
    LeaseStatus,
    lease_number=NUMBERS,
    window_id=NUMBERS,
    amount_nanos=NANOS,
    settled_nanos=NANOS,
    reserved_nanos=NANOS,
    watermark_nanos=NANOS,
    closing=st.booleans(),
)
STATES = st.builds(
    DeviceState,
    cpu_percent=FLOAT,
    memory_available_bytes=U64,
    disk_available_bytes=U64,
    temperature_celsius=FLOAT,
    throttled=st.booleans(),
    requests_in_flight=U32,
    loaded_arms=st.lists(TEXT, max_size=3).map(tuple),
    broken_arms=st.lists(FALLOUTS, max_size=3).map(tuple),
    books_state=TEXT,
    power_watts=FLOAT,
    battery=st.none() | st.builds(Battery, charge_ratio=FLOAT, on_mains=st.booleans()),
    memory_total_bytes=U64,
    memory_pressure_ratio=FLOAT,
    throttle_reasons=st.lists(TEXT, max_size=3).map(tuple),
    limited=st.lists(FALLOUTS, max_size=3).map(tuple),
)
PRICES = st.builds(
    Price,
    input_nanos_per_mtok=NANOS,
    output_nanos_per_mtok=NANOS,
    request_nanos=NANOS,
    version=U32,
    valid_until_unix_ms=I64,
)
CLOUDS = st.builds(
    CloudSettings,
    base_url=TEXT,
    api_key_ref=TEXT,
    price=PRICES,
    worst_case=st.builds(
        WorstCase,
        bytes_factor_ppm=U64,
        message_overhead_tokens=U32,
        request_overhead_tokens=U32,
    ),
    fields=NAMES,
    unbilled_statuses=st.frozensets(U32, max_size=4),
    on_abort=st.sampled_from(OnAbort),
    connect_timeout_ms=U32,
    first_byte_timeout_ms=U32,
    drain_timeout_ms=U32,
)


def arms(kind: ArmKind) -> st.SearchStrategy[Arm]:
    """Arms of one kind; cloud settings go with cloud arms alone."""
    return st.builds(
        Arm,
        id=NAME,
        kind=st.just(kind),
        model=TEXT,
        context_tokens_max=U32,
        max_tokens_default=U32,
        bytes_per_token_ppm=U64,
        capabilities=NAMES,
        enabled=st.booleans(),
        cloud=CLOUDS if kind is ArmKind.CLOUD else st.none(),
    )


ARMS = arms(ArmKind.LOCAL) | arms(ArmKind.CLOUD)
GRADERS = st.builds(
    Grader,
    name=NAME,
    kind=st.sampled_from(GraderKind),
    pattern=TEXT,
    schema=TEXT,
    ignore_case=st.booleans(),
    tolerance=st.floats(0.0, 1e9),
    relative_tolerance=st.floats(0.0, 1e9),
)
WEAK_SIGNALS = st.builds(WeakSignal, reward_ppm=SHARE, weight_ppm=SHARE)
SIGNALS = st.builds(
    Signals, retry=st.none() | WEAK_SIGNALS, abandon=st.none() | WEAK_SIGNALS, retry_within_ms=U32
)
TASK_CLASSES = st.builds(
    TaskClass,
    id=NAME,
    deadline_ms=U32,
    privacy_local=st.booleans(),
    grader=st.none() | GRADERS,
    judge_ppm=SHARE,
)
CONFIGS = st.builds(
    DeviceConfig,
    version=U64,
    device_class=TEXT,
    arms=st.lists(ARMS, max_size=3).map(tuple),
    task_classes=st.lists(TASK_CLASSES, max_size=3).map(tuple),
    price_version=U32,
    budget_name=TEXT,
    close_wait_ms=U32,
    judge=st.none() | st.builds(Judge, arm=ARMS, max_tokens=U32),
    signals=SIGNALS,
)
TABLE_ARMS = st.builds(
    TableArm,
    arm=NAME,
    weight_ppm=st.integers(0, PPM // 3),
    expected_reward_ppm=SHARE,
    expected_cost_nanos=NANOS,
    latency_p50_ms=U32,
    latency_p90_ms=U32,
    latency_p99_ms=U32,
)
TABLES = st.builds(
    SelectionTable,
    version=U64,
    device_class=TEXT,
    config_version=U64,
    created_unix_ms=I64,
    rows=st.lists(
        st.builds(TableRow, task_class=NAME, arms=st.lists(TABLE_ARMS, max_size=3).map(tuple)),
        max_size=3,
    ).map(tuple),
    resident_arms=st.lists(TEXT, max_size=3).map(tuple),
)
GRANTS = st.builds(
    LeaseGranted,
    number=U64,
    window_id=U64,
    amount_nanos=NANOS,
    duration_ms=U64,
    price_version=U32,
    asked_boot_ms=U64,
)
VERSIONS = st.builds(ProtocolVersion, U32, U32)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("outcome", OUTCOMES),
        ("attempt", ATTEMPTS),
        ("fallout", FALLOUTS),
        ("feedback", FEEDBACK),
        ("judge_call", JUDGE_CALLS),
        ("lease_close", CLOSES),
        ("adjustment", ADJUSTMENTS),
        ("summary", SUMMARIES),
        ("record", RECORDS),
        ("lease_status", STATUSES),
        ("device_state", STATES),
        ("price", PRICES),
        ("arm", ARMS),
        ("task_class", TASK_CLASSES),
        ("grader", GRADERS),
        ("signals", SIGNALS),
        ("config", CONFIGS),
        ("table", TABLES),
        ("version", VERSIONS),
    ],
)
@settings(max_examples=50)
@given(data=st.data())
def test_every_value_survives_its_message(
    name: str, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """To a message, to bytes, back to a message and to an equal value."""
    value = data.draw(values)
    message = getattr(wire, f"{name}_to_pb")(value)
    parsed = type(message).FromString(message.SerializeToString())
    assert value == getattr(wire, f"{name}_from_pb")(parsed)


@given(granted=GRANTS, incarnation=NAME)
def test_a_grant_survives_with_its_incarnation(granted: LeaseGranted, incarnation: str) -> None:
    """A grant is for one start of the agent's process."""
    message = wire.grant_to_pb(granted, incarnation=incarnation)
    assert (incarnation, granted) == wire.grant_from_pb(message)


SPEED = st.floats(1e-6, TOKENS_PER_S_MAX, exclude_max=True)
SPEEDS = st.lists(st.builds(ArmSpeed, NAME, SPEED, SPEED), max_size=4).map(tuple)


@given(speeds=SPEEDS)
def test_measured_speeds_survive(speeds: tuple[ArmSpeed, ...]) -> None:
    """As a device tells them in its hello."""
    assert speeds == wire.speeds_from_pb([wire.speed_to_pb(speed) for speed in speeds])


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_speed_is_refused(speed: float) -> None:
    """A latency could not follow from it."""
    message = wire.speed_to_pb(ArmSpeed("tiny", 1.0, speed))
    with pytest.raises(ProtocolError, match=r"'tiny'.*is no speed"):
        wire.speeds_from_pb([message])
    with pytest.raises(LimitError, match=r"hello\.speeds"):
        wire.speeds_from_pb([wire.speed_to_pb(ArmSpeed("tiny", 1.0, 1.0))] * (ARMS_MAX + 1))


@settings(max_examples=25)
@given(record=RECORDS, table=TABLES, config=CONFIGS, outcome=OUTCOMES)
def test_what_is_kept_as_bytes_is_read_back(
    record: SpoolRecord, table: SelectionTable, config: DeviceConfig, outcome: Outcome
) -> None:
    """The books and the store keep these as bytes."""
    assert record == wire.record_from_bytes(wire.record_to_bytes(record))
    assert table == wire.decode_table(wire.encode_table(table))
    assert config == wire.decode_config(wire.encode_config(config))
    assert [outcome] == wire.decode_run(wire.encode_run([outcome]))


@settings(max_examples=50)
@given(bodies=st.lists(st.tuples(BODIES, st.booleans()), max_size=9))
def test_a_batch_survives_the_way(bodies: list[tuple[SpoolBody, bool]]) -> None:
    """Outcomes go in runs, other records one by one; all come out in the order of sequences."""
    records, incarnation = [], 0
    for at, (body, is_next) in enumerate(bodies, start=1):
        incarnation += is_next
        records.append(SpoolRecord(at, f"inc-{incarnation}", body))
    sent = wire.batch_to_pb(records).SerializeToString()
    received = wire.batch_from_pb(fleet_pb2.OutcomeBatch.FromString(sent))
    assert records == received
    kept = [record for record in received if record.run]
    assert [r for r in records if isinstance(r.body, Outcome)] == kept
    assert [r.body for r in kept] == [wire.decode_run(r.run)[r.place] for r in kept]


@settings(max_examples=50)
@given(records=st.lists(RECORDS, min_size=1, max_size=4))
def test_outcomes_may_come_one_by_one(records: list[SpoolRecord]) -> None:
    """An agent that knows no runs is understood too."""
    rising = [record._replace(sequence=at) for at, record in enumerate(records, start=1)]
    batch = fleet_pb2.OutcomeBatch(records=[wire.record_to_pb(record) for record in rising])
    assert rising == wire.batch_from_pb(batch)


@given(
    record=RECORDS,
    outcomes=st.lists(OUTCOMES, max_size=3),
    data=st.binary(max_size=6),
    at=st.floats(0, 1),
    cut=st.booleans(),
)
def test_damaged_bytes_give_a_value_or_a_protocol_error(
    record: SpoolRecord, outcomes: list[Outcome], data: bytes, at: float, *, cut: bool
) -> None:
    """A reader never fails in another way, whatever the bytes."""
    wholes = (wire.record_to_bytes(record), wire.encode_run(outcomes) if outcomes else b"")
    damaged = []
    for whole in wholes:
        place = int(at * len(whole))
        damaged.append(whole[:place] + data + (b"" if cut else whole[place + len(data) :]))
    readers = (wire.record_from_bytes, wire.decode_table, wire.decode_config, wire.decode_run)
    for read, damaged_bytes in product(readers, damaged):
        try:
            value = read(damaged_bytes)
        except ProtocolError:
            continue
        assert value is not None
