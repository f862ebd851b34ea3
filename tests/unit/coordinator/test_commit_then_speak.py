"""The coordinator commits before it speaks; what it could not commit has never happened."""

from __future__ import annotations

import asyncio
from types import NoneType

import pytest

from coordinator.engine import CoordinatorEngine
from coordinator.messages import Acked, HelloReceived, LeaseRefused, LeaseSent, Message, Welcomed
from coordinator.outbox import Outbox
from coordinator.records import DeviceRow
from coordinator.registry import digest
from coordinator.service import CoordinatorService
from coordinator.sessions import Reaction
from shared.decision.lease import LeaseWish
from shared.decision.types import (
    Attempt,
    CostAdjustment,
    Feedback,
    IncarnationRange,
    Outcome,
    RequestStatus,
    SettleKind,
    SpoolRecord,
)
from shared.errors import (
    AuthenticationError,
    InvariantError,
    LostLeadershipError,
    ProtocolError,
    StoreError,
)
from tests.fakes.memory_store import MemoryStore

WORST = 1_000_000
FLEET = """
[fleet]
name = "test"
[window]
length = "100s"
slot = "10s"
anchor = 0
[budget]
name = "cloud"
amount_usd = "0.05"
[arms.large]
kind = "cloud"
model = "large"
base_url = "http://127.0.0.1:9000/v1/"
fields = ["max_tokens"]
[arms.large.price]
input_usd_per_mtok = "2.50"
output_usd_per_mtok = "10"
request_usd = "0"
[device_classes.pi]
arms = ["large"]
"""


class StoppedClock:
    """A clock that stands still."""

    def unix_ms(self) -> int:
        return 1_000_000_000

    def monotonic_ms(self) -> float:
        return 0.0

    def boot_ms(self) -> int:
        return 0

    def boot_id(self) -> str:
        return "boot"


class CountingIds:
    """Ids and secrets that can be told in advance."""

    def __init__(self) -> None:
        self._count = 0

    def new_id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._count}"

    def new_secret(self, prefix: str) -> str:
        return self.new_id(prefix)


class Coordinator:
    """A service on a store in memory, configured, with one device that has joined."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.store.open()
        self.service = CoordinatorService(self.store, clock=StoppedClock(), ids=CountingIds())
        self.device_id = ""

    async def prepare(self) -> None:
        await self.service.apply_config(FLEET, actor="op", dry_run=False)
        token, _ = await self.service.create_join_token(
            device_class="pi", valid_for_s=9, actor="op"
        )
        self.device_id, _ = await self.service.join(token=token, name="pi-1", device_class="pi")

    @property
    def device(self) -> DeviceRow:
        return self.service.engine.registry.device(self.device_id)

    async def connect(self, *, token: str = "") -> Outbox:
        hello = HelloReceived(
            "inc", token, 0, (IncarnationRange("inc", 0, 0),), self.device.lease_number_max,
            (), (), 0, 0, "1",
        )  # fmt: skip
        return await self.service.connect(self.device, hello)

    async def ask(self) -> None:
        await self.service.lease_requested(self.device_id, LeaseWish(0, WORST))


@pytest.fixture
async def coordinator() -> Coordinator:
    """A coordinator at work; its store works as long as a test lets it."""
    coordinator = Coordinator()
    await coordinator.prepare()
    return coordinator


async def drained(outbox: Outbox) -> list[Message | None]:
    """Everything queued by now; None at the end of the session."""
    messages: list[Message | None] = []
    while not outbox._queue.empty():
        messages.append(await outbox.get())
    return messages


def outcome(sequence: int, *, lease: int, cost: int) -> SpoolRecord:
    """A spooled paid request."""
    attempt = Attempt("large", 10, "", lease, WORST, cost, SettleKind.REPORTED)
    body = Outcome(f"r{sequence}", "other", 0, RequestStatus.OK, "large", "large", 1_000_000, 1,
                   "table", forced=True, attempts=(attempt,))  # fmt: skip
    return SpoolRecord(sequence, "inc", body)


async def spending(coordinator: Coordinator) -> Outbox:
    """A session whose device may spend and has read all that came."""
    outbox = await coordinator.connect()
    (welcome, *_) = await drained(outbox)
    assert isinstance(welcome, Welcomed)
    await coordinator.service.token_synced(coordinator.device_id, welcome.resume_token)
    return outbox


async def test_a_lease_is_sent_once_it_is_committed(coordinator: Coordinator) -> None:
    """The grant that a device reads is in the store."""
    outbox = await spending(coordinator)
    await coordinator.ask()

    (sent,) = await drained(outbox)
    assert isinstance(sent, LeaseSent)
    lease = coordinator.store.database.leases[coordinator.device_id, sent.lease_number]
    assert lease.amount_nanos == sent.amount_nanos


@pytest.mark.parametrize("error", [StoreError("disk full"), LostLeadershipError("epoch 2, not 1")])
async def test_a_failed_commit_grants_nothing(coordinator: Coordinator, error: StoreError) -> None:
    """Nothing is sent, the sessions end, and the engine goes back to what is stored."""
    outbox = await spending(coordinator)
    coordinator.store.fail_with = error
    with pytest.raises(type(error)):
        await coordinator.ask()
    coordinator.store.fail_with = None

    assert [None] == await drained(outbox)
    assert {} == coordinator.service.engine.sessions
    assert () == coordinator.service.engine.account.open_leases()
    assert 0 == coordinator.device.lease_number_max
    window = coordinator.service.engine.window
    assert window is not None
    assert 0 == window.committed_nanos


async def test_a_batch_that_was_not_committed_is_not_acked(coordinator: Coordinator) -> None:
    """The device sends it again in its next session, and it is booked once."""
    outbox = await spending(coordinator)
    await coordinator.ask()
    (lease,) = await drained(outbox)
    assert isinstance(lease, LeaseSent)
    batch = [outcome(1, lease=lease.lease_number, cost=70)]
    coordinator.store.fail_with = StoreError("disk full")
    with pytest.raises(StoreError):
        await coordinator.service.batch(coordinator.device_id, batch, incarnation="inc")
    coordinator.store.fail_with = None
    assert [None] == await drained(outbox)

    again = await coordinator.connect(token=held(coordinator))
    await coordinator.service.batch(coordinator.device_id, batch, incarnation="inc")
    await coordinator.service.batch(coordinator.device_id, batch, incarnation="inc")

    acks = [message for message in await drained(again) if isinstance(message, Acked)]
    assert [Acked(1), Acked(1)] == acks
    window = coordinator.service.engine.window
    assert window is not None
    assert 70 == window.settled_nanos


def held(coordinator: Coordinator) -> str:
    """The token that the device has synced: ids count up, so its digest tells which."""
    tokens = (f"tdr-{number}" for number in range(1_000))
    return next(token for token in tokens if digest(token) == coordinator.device.resume_digest)


async def test_a_failed_hello_is_not_welcomed(coordinator: Coordinator) -> None:
    """A token that is not stored would make a clone of the device: it is never sent."""
    coordinator.store.fail_with = StoreError("disk full")
    with pytest.raises(StoreError):
        await coordinator.connect()
    coordinator.store.fail_with = None

    first = (await drained(await coordinator.connect()))[0]

    assert isinstance(first, Welcomed)
    assert not first.quarantined


async def test_the_welcome_comes_first_whatever_else_goes_on(coordinator: Coordinator) -> None:
    """Operators and batches that meet a new session never get ahead of its welcome."""

    def pause(engine: CoordinatorEngine, now_ms: int) -> Reaction:
        return engine.set_spend_paused(True, actor="op", unix_ms=now_ms)

    for token in ("", "tdr-5", "tdr-6"):
        sessions, *_ = await asyncio.gather(
            coordinator.connect(token=token),
            coordinator.service.command(pause),
            coordinator.ask(),
        )
        messages = await drained(sessions)

        assert isinstance(messages[0], Welcomed)
        assert 1 == sum(isinstance(message, Welcomed) for message in messages)


async def test_a_refusal_of_the_session_before_does_not_come_ahead_of_the_welcome(
    coordinator: Coordinator,
) -> None:
    """It has nothing to commit, and still is told before the new session begins."""
    older = await spending(coordinator)
    await coordinator.service.command(
        lambda engine, now_ms: engine.set_spend_paused(True, actor="op", unix_ms=now_ms)
    )
    await coordinator.ask()
    await drained(older)
    _, newer = await asyncio.gather(coordinator.ask(), coordinator.connect(token=held(coordinator)))
    assert [LeaseRefused, NoneType] == [type(message) for message in await drained(older)]
    assert isinstance((await drained(newer))[0], Welcomed)


async def test_each_of_two_configurations_hears_its_own_version(coordinator: Coordinator) -> None:
    """Also when one transaction holds both."""
    tomls = (FLEET.replace("0.05", usd) for usd in ("0.06", "0.07"))
    applied = await asyncio.gather(
        *(coordinator.service.apply_config(toml, actor="op", dry_run=False) for toml in tomls)
    )
    assert [2, 3] == [version for version, _ in applied]


async def test_a_stop_waits_for_what_is_being_written() -> None:
    """Also before the fleet has a configuration, when there is nothing learned to keep."""
    store = MemoryStore()
    store.open()
    service = CoordinatorService(store, clock=StoppedClock(), ids=CountingIds())
    asked = [
        asyncio.create_task(service.create_join_token(device_class="", valid_for_s=9, actor="op"))
        for _ in range(3)
    ]
    await asyncio.sleep(0)
    await service.stop()
    tokens = [token for token, _ in await asyncio.gather(*asked)]
    assert {digest(token) for token in tokens} == store.database.join_tokens.keys()


async def test_a_refused_event_ends_nobody_elses_session(coordinator: Coordinator) -> None:
    """A device's mistake is its own: the engine has changed nothing, and stays."""
    outbox, engine = await spending(coordinator), coordinator.service.engine
    with pytest.raises(ProtocolError):
        await coordinator.service.batch(
            coordinator.device_id, [outcome(9, lease=0, cost=1)], incarnation="inc"
        )
    with pytest.raises(AuthenticationError):
        await coordinator.service.join(token="guess", name="x", device_class="pi")

    assert engine is coordinator.service.engine
    await coordinator.ask()
    assert [LeaseSent] == [type(message) for message in await drained(outbox)]


async def test_a_batch_that_breaks_off_leaves_nothing_for_the_next_commit(
    coordinator: Coordinator,
) -> None:
    """A cost that is booked before a record of a lease that cannot be is not booked twice."""
    outbox = await spending(coordinator)
    await coordinator.ask()
    (lease,) = await drained(outbox)
    assert isinstance(lease, LeaseSent)
    costs = outcome(1, lease=lease.lease_number, cost=70)
    late = SpoolRecord(2, "inc", CostAdjustment("r1", 0, -5, "of no lease"))
    with pytest.raises(InvariantError):
        await coordinator.service.batch(coordinator.device_id, [costs, late], incarnation="inc")
    await coordinator.service.renew_keys()
    await coordinator.connect(token=held(coordinator))
    await coordinator.service.batch(coordinator.device_id, [costs], incarnation="inc")
    window = coordinator.service.engine.window
    assert window is not None
    assert 70 == window.settled_nanos
    assert 70 == coordinator.store.recomputed_window(window.id).settled_nanos


async def test_batches_that_come_together_find_each_others_grades(coordinator: Coordinator) -> None:
    """The first full grade of a request counts, also if the second is decided right after it."""
    outbox = await spending(coordinator)
    batches: list[SpoolRecord] = [outcome(1, lease=0, cost=0)]
    for sequence, reward_ppm in ((2, 900_000), (3, 100_000)):
        grade = Feedback("r1", "other", "large", reward_ppm, "client", 0)
        batches.append(SpoolRecord(sequence, "inc", grade))
    await asyncio.gather(
        *(
            coordinator.service.batch(coordinator.device_id, [record], incarnation="inc")
            for record in batches
        )
    )
    assert [Acked(1), Acked(2), Acked(3)] == await drained(outbox)
    (decision,) = await coordinator.service.decisions(
        limit=2, device_id=coordinator.device_id, request_id="r1"
    )
    assert decision.feedback is not None
    assert 900_000 == decision.feedback.feedback.reward_ppm


async def test_a_newer_session_ends_the_older_one(coordinator: Coordinator) -> None:
    """One device, one session: the older one is told the end and hears nothing more."""
    older = await spending(coordinator)
    newer = await coordinator.connect(token=held(coordinator))

    assert [None] == await drained(older)
    await coordinator.service.disconnect(coordinator.device_id, older, incarnation="inc")
    assert coordinator.device_id in coordinator.service.engine.sessions
    assert isinstance((await drained(newer))[0], Welcomed)


async def test_a_join_that_was_not_committed_leaves_the_token_good(
    coordinator: Coordinator,
) -> None:
    """A token is used up by a join that is stored, not by one that failed."""
    service = coordinator.service
    token, _ = await service.create_join_token(device_class="pi", valid_for_s=9, actor="op")
    coordinator.store.fail_with = StoreError("disk full")
    with pytest.raises(StoreError):
        await service.join(token=token, name="pi-2", device_class="pi")
    coordinator.store.fail_with = None

    device_id, credential = await service.join(token=token, name="pi-2", device_class="pi")

    assert device_id == service.authenticate(credential).id
