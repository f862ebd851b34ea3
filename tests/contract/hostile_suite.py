"""What a device may say, at its oddest: it costs nobody else a session, and the books hold it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.messages import HelloReceived
from coordinator.ports import Store
from coordinator.records import EarlierFacts
from coordinator.service import CoordinatorService
from shared import wire
from shared.clock import SystemClock, SystemIds
from shared.decision.lease import LeaseWish
from shared.decision.types import Outcome, SpoolBody, SpoolRecord
from shared.errors import LimitError, ProtocolError
from shared.limits import AMOUNT_NANOS_MAX, NUMBER_MAX
from shared.pb.v1 import fleet_pb2
from shared.pb.v1 import types_pb2 as pb
from tests.contract.store_suite import StoreBench
from tests.fakes.samples import fleet_toml
from tests.property.test_wire import BODIES

MOST = AMOUNT_NANOS_MAX
# No compression makes it short enough for an index.
LONG = "".join(map(chr, random.Random(0).choices(range(0x4E00, 0x9FFF), k=9_000)))


def outcome(sequence: int = 1, **fields: Any) -> pb.SpoolRecord:
    """An outcome with whatever a device may write into it."""
    values: dict[str, Any] = {
        "request_id": f"r{sequence}",
        "status": pb.REQUEST_STATUS_OK,
        **fields,
    }
    return pb.SpoolRecord(sequence=sequence, incarnation="i", outcome=pb.Outcome(**values))


def attempt(*, lease: int = 1, cost: int = MOST, **fields: str) -> pb.Attempt:
    """A paid attempt."""
    values: dict[str, Any] = {"arm": "cloud", **fields}
    paid: dict[str, Any] = {"lease_number": lease, "reserved_nanos": cost, "cost_nanos": cost}
    return pb.Attempt(**values, **paid, settle=pb.SETTLE_KIND_REPORTED)


def grade(request_id: str, sequence: int = 1) -> pb.SpoolRecord:
    """A full grade."""
    feedback = pb.Feedback(request_id=request_id, reward_ppm=1)
    return pb.SpoolRecord(sequence=sequence, incarnation="i", feedback=feedback)


def late(sequence: int = 1, *, request_id: str = "r", delta: int = MOST) -> pb.SpoolRecord:
    """Late usage."""
    told = pb.CostAdjustment(request_id=request_id, lease_number=1, delta_nanos=delta)
    return pb.SpoolRecord(sequence=sequence, incarnation="i", adjustment=told)


def close(sequence: int) -> pb.SpoolRecord:
    """The last word on a lease that was never lent."""
    told = pb.LeaseClose(lease_number=sequence, final_nanos=MOST)
    return pb.SpoolRecord(sequence=sequence, incarnation="i", lease_close=told)


def summary(first: int, last: int, **counts: int) -> pb.SpoolRecord:
    """Compacted outcomes."""
    told = pb.SpoolSummary(first_sequence=first, last_sequence=last)
    told.counts.extend(pb.ContextCount(arm=arm, requests=n) for arm, n in counts.items())
    return pb.SpoolRecord(sequence=last, incarnation="i", summary=told)


def presented(number: int, amount: int = MOST) -> pb.LeaseStatus:
    """A lease that a device says it holds."""
    return pb.LeaseStatus(lease_number=number, amount_nanos=amount)


BOOKED = {
    "costs of no lease that add up beyond 64 bits": [outcome(attempts=[attempt(lease=0)] * 100)],
    "costs that add up beyond 64 bits": [outcome(n, attempts=[attempt()]) for n in range(1, 101)],
    "late usage that adds up beyond 64 bits": [late(n) for n in range(1, 101)],
    "money that comes and goes": [late(n, delta=MOST * (-1) ** n) for n in range(1, 101)],
    "a lease that none can follow": [outcome(attempts=[attempt(lease=NUMBER_MAX)])],
    "closes that add up beyond 64 bits": [close(n) for n in range(1, 101)],
    "a tag longer than an index takes": [outcome(tag=LONG[:5_000], attempts=[attempt(cost=1)])],
    "an arm longer than an index takes": [outcome(attempts=[attempt(arm=LONG[:5_000])])],
    "NULs wherever text is free": [
        outcome(task_class="a\0", arm="b\0", reason="c\0", tag="d\0", attempts=[attempt(arm="e\0")])
    ],
    "a time before all time": [outcome(arrived_unix_ms=-(2**63))],
    "a time after all time": [outcome(arrived_unix_ms=2**63 - 1)],
    "counts that add up beyond 64 bits": [
        summary(n, n, a=NUMBER_MAX, b=NUMBER_MAX) for n in (1, 2)
    ],
    "the last sequence there is": [summary(1, NUMBER_MAX)],
}
UNDER_TWO_TAGS_AND_GONE_UNDER_NONE = [
    record
    for n in range(1, 400, 4)
    for record in (
        outcome(n, tag="a", attempts=[attempt()]),
        outcome(n + 1, tag="b", attempts=[attempt()]),
        late(n + 2, delta=-MOST),
        late(n + 3, delta=-MOST),
    )
]
REFUSED = {
    "a request with a NUL": [outcome(request_id="r\0")],
    "a request longer than an index takes": [outcome(request_id=LONG)],
    "a grade of a request with a NUL": [grade("r\0")],
    "grades that become one in the books": [grade("r\0", 1), grade("r\ufffd", 2)],
    "a grade of a request longer than an index takes": [grade(LONG)],
    "late usage of a request with a NUL": [late(request_id="r\0")],
    "a lease beyond 64 bits": [outcome(attempts=[attempt(lease=NUMBER_MAX + 1)])],
}
HELLOS_REFUSED = {
    "an incarnation with a NUL": fleet_pb2.Hello(incarnation="i\0"),
    "an incarnation longer than an index takes": fleet_pb2.Hello(incarnation=LONG),
    "a lease beyond 64 bits": fleet_pb2.Hello(incarnation="i", leases=[presented(2**63)]),
    "a highest lease beyond 64 bits": fleet_pb2.Hello(
        incarnation="i", lease_number_max=NUMBER_MAX + 1
    ),
}


class Fleet:
    """A coordinator on a real store, with a device that keeps its session."""

    def __init__(self, store: Store) -> None:
        self.store = store
        store.open()
        self.service = CoordinatorService(store, clock=SystemClock(), ids=SystemIds())
        self._joined = 0

    async def begin(self) -> None:
        """Until the neighbour is connected."""
        await self.service.apply_config(fleet_toml(window="1d"), actor="op", dry_run=False)
        await self.tick()
        self.neighbour = await self.join()
        self.neighbours_box = await self.hello(self.neighbour)

    async def tick(self) -> None:
        """Time passes."""
        await self.service.command(lambda engine, now: engine.tick(unix_ms=now))

    async def join(self) -> str:
        """One more device."""
        token, _ = await self.service.create_join_token(
            device_class="edge", valid_for_s=60, actor="op"
        )
        self._joined += 1
        name = f"pi-{self._joined}"
        device_id, _ = await self.service.join(token=token, name=name, device_class="edge")
        return device_id

    async def connected(self) -> str:
        """One more device, with a session."""
        device_id = await self.join()
        await self.hello(device_id)
        return device_id

    async def hello(self, device_id: str, said: fleet_pb2.Hello | None = None) -> object:
        """Begin a session as the servicer does."""
        said = said or fleet_pb2.Hello(incarnation="i")
        present = fleet_pb2.IncarnationRange(incarnation=said.incarnation, last_sequence=NUMBER_MAX)
        hello = HelloReceived(
            incarnation=said.incarnation,
            resume_token="",
            acked_sequence=0,
            incarnations=wire.incarnations_from_pb([present], present=said.incarnation),
            lease_number_max=wire.lease_number_max_from_pb(said),
            leases=tuple(map(wire.lease_status_from_pb, said.leases)),
            local_arms=(),
            table_version=0,
            config_version=0,
            software_version="1",
        )
        return await self.service.connect(self.service.engine.registry.device(device_id), hello)

    async def sends(self, device_id: str, batch: fleet_pb2.OutcomeBatch) -> None:
        """A batch over the wire."""
        received = fleet_pb2.OutcomeBatch.FromString(batch.SerializeToString())
        await self.service.batch(device_id, wire.batch_from_pb(received), incarnation="i")

    async def check(self, *, differences: Sequence[str] = ()) -> None:
        """The neighbour has noticed nothing, and the books are true, or say what they are not."""
        assert self.service._outboxes[self.neighbour] is self.neighbours_box
        await self.sends(self.neighbour, fleet_pb2.OutcomeBatch(records=[outcome()]))
        await self.tick()
        assert not self.service._changes.stale
        assert differences == tuple(self.store.differences(progress=lambda *_: None))
        self.store.load()


async def begun(bench: StoreBench) -> Fleet:
    """A fleet on a new store of this kind."""
    fleet = Fleet(bench.store())
    await fleet.begin()
    return fleet


def in_runs(records: Sequence[pb.SpoolRecord]) -> fleet_pb2.OutcomeBatch:
    """The same records as an agent sends them."""
    return wire.batch_to_pb(map(wire.record_from_pb, records))


class HostileSuite:
    """Run by a subclass that gives the fixture `bench`."""

    @pytest.mark.parametrize("name", BOOKED)
    def test_the_oddest_records_are_booked(self, bench: StoreBench, name: str) -> None:
        """One by one and in runs; the device is not asked for them again."""

        async def scene() -> None:
            fleet = await begun(bench)
            for batch in (fleet_pb2.OutcomeBatch(records=BOOKED[name]), in_runs(BOOKED[name])):
                device_id = await fleet.connected()
                await fleet.sends(device_id, batch)
            await fleet.check()

        asyncio.run(scene())

    def test_a_day_that_loses_count_says_so(self, bench: StoreBench) -> None:
        """What one tag takes and none gives back is beyond 64 bits; windows and leases add up."""

        async def scene() -> None:
            fleet = await begun(bench)
            device_id = await fleet.connected()
            batch = fleet_pb2.OutcomeBatch(records=UNDER_TWO_TAGS_AND_GONE_UNDER_NONE)
            await fleet.sends(device_id, batch)
            said = "spend by day: settled_nanos has lost count, a line is at the limit of 64 bits"
            await fleet.check(differences=(said,))

        asyncio.run(scene())

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_the_books_could_not_find_again_is_refused(
        self, bench: StoreBench, name: str
    ) -> None:
        """On arrival, by its name: it costs its own device the session, and no other."""

        async def scene() -> None:
            fleet = await begun(bench)
            device_id = await fleet.connected()
            with pytest.raises(ProtocolError, match=r"request_id|lease_number"):
                await fleet.sends(device_id, fleet_pb2.OutcomeBatch(records=REFUSED[name]))
            await fleet.check()

        asyncio.run(scene())

    @pytest.mark.parametrize("name", HELLOS_REFUSED)
    def test_a_hello_that_cannot_be_kept_is_refused(self, bench: StoreBench, name: str) -> None:
        """Before the books are asked anything."""

        async def scene() -> None:
            fleet = await begun(bench)
            with pytest.raises(ProtocolError, match=r"incarnation|lease"):
                await fleet.hello(await fleet.join(), HELLOS_REFUSED[name])
            await fleet.check()

        asyncio.run(scene())

    def test_leases_that_nobody_lent_fill_the_books_and_no_more(self, bench: StoreBench) -> None:
        """While the books are recovered every lease that is presented is booked (rule C_5)."""

        async def scene() -> None:
            fleet = await begun(bench)
            leases = [presented(number) for number in range(1, 101)]
            said = fleet_pb2.Hello(incarnation="i", lease_number_max=100, leases=leases)
            await fleet.hello(await fleet.join(), said)
            await fleet.check()

        asyncio.run(scene())

    def test_a_lease_that_a_device_made_up_is_never_lent_again(self, bench: StoreBench) -> None:
        """Its number is taken: the next one is higher, once the books are recovered."""

        async def scene() -> None:
            fleet = await begun(bench)
            device_id = await fleet.connected()
            records = [outcome(attempts=[attempt(lease=1, cost=1)])]
            await fleet.sends(device_id, fleet_pb2.OutcomeBatch(records=records))
            service = fleet.service
            for known in (device_id, fleet.neighbour):
                service.engine.sessions[known].spool.last = 0  # all that it had to say is booked
                service.engine.sessions[known].may_spend = True
            await service.command(lambda e, now: e.recover_ledger(actor="op", unix_ms=now))
            await fleet.tick()
            service.engine.recovery = None
            await service.lease_requested(
                device_id, LeaseWish(available_nanos=0, worst_case_nanos=5, needed_nanos=5)
            )
            assert 2 == service.engine.registry.device(device_id).lease_number_max
            await fleet.check()

        asyncio.run(scene())

    def test_a_batch_that_is_refused_has_changed_nothing(self, bench: StoreBench) -> None:
        """Not even that it spoke of a lease which these books do not know (rule C_5)."""

        async def scene() -> None:
            fleet = await begun(bench)
            device_id = await fleet.connected()
            record = outcome(attempts=[attempt(cost=1)])
            record.incarnation = "another"
            with pytest.raises(ProtocolError, match="did not name"):
                await fleet.sends(device_id, fleet_pb2.OutcomeBatch(records=[record]))
            assert fleet.service.engine.recovery is None
            assert fleet.service.engine.account.lease(device_id, 1) is None
            await fleet.check()

        asyncio.run(scene())

    def test_a_batch_may_name_more_leases_than_a_statement_has_values(
        self, bench: StoreBench
    ) -> None:
        """They are looked up some at a time."""
        store = bench.store()
        store.open()
        assert EarlierFacts() == store.earlier(
            "dev-1", request_ids=(), lease_numbers=range(1, 70_001)
        )

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[  # every example begins with a coordinator of its own
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(bodies=st.lists(BODIES, min_size=1, max_size=6))
    def test_what_may_be_sent_is_booked_and_read_back(
        self, bench: StoreBench, bodies: list[SpoolBody]
    ) -> None:
        """Whatever the wire lets through; a summary in the middle would be a gap."""

        async def scene() -> None:
            fleet = await begun(bench)
            device_id = await fleet.connected()
            records = [SpoolRecord(at, "i", body) for at, body in enumerate(bodies, start=1)]
            batch = wire.batch_to_pb(records)
            try:
                await fleet.sends(device_id, batch)
            except (LimitError, ProtocolError):
                pass
            else:
                found = fleet.store.decisions(limit=100, device_id=device_id, after=0)
                sent = [body for body in bodies if isinstance(body, Outcome)]
                assert sent == [record.outcome.outcome for record in found]
            await fleet.check()
            fleet.store.close()

        asyncio.run(scene())
