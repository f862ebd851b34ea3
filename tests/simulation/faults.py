"""What goes wrong, and how a careful operator mends it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edge_agent.books import MetaKey
from tests.simulation.device import Device
from tests.simulation.dice import Dice
from tests.simulation.disk import SimDisk
from tests.simulation.provider import WORST_NANOS, Fate

if TYPE_CHECKING:
    from tests.simulation.world import World

FATES = [Fate.SLOW, Fate.SLOW, Fate.ABORTED, Fate.SILENT, Fate.DEAD, Fate.REFUSED]
BUDGET_SHARES = (400, 300, 200, 60)
RISE_AHEAD_MS = 6_500
RISE_WAIT_MS = 2_000
PRICE_ENDS_MS = 5_000
"""Prices end at whole multiples of it, so that runs share texts that were parsed before."""


class Faults:
    """Plays one kind of fault after the other on a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.copies: dict[str, tuple[SimDisk, str]] = {}
        self.rising = self.over = False
        self._places = 0
        self.rise_at = 0

    def play(self, kind: str, device: Device, dice: Dice) -> None:
        """Let it happen now, if it can."""
        action: Callable[[Device, Dice], bool] = getattr(self, f"_{kind}")
        if action(device, dice):
            self.world.seen[kind] += 1

    # The network.

    def _message_lost(self, device: Device, dice: Dice) -> bool:
        self.world.network.lose = 1
        return False  # it counts when it hits a message

    def _message_repeated(self, device: Device, dice: Dice) -> bool:
        self.world.network.repeat = dice.between(1, 4)
        return False

    def _message_delayed(self, device: Device, dice: Dice) -> bool:
        self.world.network.delay = dice.between(1, 3)
        return False

    def _message_reordered(self, device: Device, dice: Dice) -> bool:
        self.world.network.swap = dice.between(1, 2)
        return False

    def _grant_repeated_late(self, device: Device, dice: Dice) -> bool:
        """A grant that the device has had arrives once more, after whatever happened since."""
        if device.line is None or not device.is_awake or not device.grants:
            return False
        line, old = device.line, dice.choice(device.grants[-4:])
        device.guard(lambda: device.take(line, old))
        return True

    def _line_cut(self, device: Device, dice: Dice) -> bool:
        if device.line is None:
            return False
        device.hang_up()
        return True

    def _partition(self, device: Device, dice: Dice) -> bool:
        device.hang_up()
        device.cut_off_until = self.world.now + dice.choice([250, 250, 1_000, 1_000, 2_000, 9_000])
        return True

    # Devices.

    def _device_killed(self, device: Device, dice: Dice) -> bool:
        device.kill()
        self.world.revive(device)
        return True

    def _power_lost(self, device: Device, dice: Dice) -> bool:
        device.kill(power=True)
        self.world.revive(device)
        return True

    def _device_reboots(self, device: Device, dice: Dice) -> bool:
        device.kill()
        device.reboot()
        self.world.revive(device)
        return True

    def _device_dies_in_commit(self, device: Device, dice: Dice) -> bool:
        device.fuse.light(dice.between(1, 6), after=dice.random() < 0.5)
        return False  # it counts when it dies

    def _disk_full(self, device: Device, dice: Dice) -> bool:
        if not device.alive:
            return False
        device.fill_disk(True)
        self.world.at(
            self.world.now + dice.between(100, 750), None, lambda: device.fill_disk(False)
        )
        return True

    def _suspend(self, device: Device, dice: Dice) -> bool:
        if not device.is_awake:
            return False
        device.suspend(dice.choice([250, 250, 250, 1_000, 1_000, 9_000]))
        if dice.random() < 0.5 and device.line is not None:
            device.line.cut(self.world.now)
        return True

    def _device_clock_steps(self, device: Device, dice: Dice) -> bool:
        device.wall_ms += dice.choice([-3_600_000, -5_000, 5_000, 3_600_000])
        return True

    def _client_gone(self, device: Device, dice: Dice) -> bool:
        """Of a paid call, or of a request that waits for a lease."""
        present = [d for d in self.world.devices if d.is_awake]
        clients = [(d, r) for d in present for r in (*d.answering.calls, *d.answering.waiting)]
        if not clients:
            return False
        chosen, request_id = dice.choice(clients)
        chosen.guard(lambda: chosen.answering.client_gone(request_id))
        return True

    # Disks.

    def _disk_copied(self, device: Device, dice: Dice) -> bool:
        if device.alive and not device.full:
            token = device.disk.state.meta.get(MetaKey.RESUME_TOKEN, "")
            self.copies[device.name] = (device.disk.copied(), token)
        return False

    def _disk_restored(self, device: Device, dice: Dice) -> bool:
        """An older image takes the disk's place, after a session that has seen what came since."""
        copy, token = self.copies.get(device.name, (None, ""))
        row = self.world.centre.database.devices[device.id]
        now = device.disk.synced.meta.get(MetaKey.RESUME_TOKEN, "")
        unknown = not row.resume_digest or not token or token == now
        if copy is None or unknown or not self._may_lose(device):
            return False
        if self.world.centre.knows_token(device.id, token):
            return False
        image = copy.copied()
        image.is_stale = True
        return self._put_back(device, image)

    def _disk_copied_back(self, device: Device, dice: Dice) -> bool:
        """An older copy of the folder takes its place, whoever has seen what came since."""
        copy, _ = self.copies.get(device.name, (None, ""))
        if copy is None or not self._may_lose(device):
            return False
        return self._put_back(device, copy.copied(place=self._elsewhere()))

    def _disk_moved(self, device: Device, dice: Dice) -> bool:
        """A stopped device goes on from a copy of its folder."""
        if not self._may_lose(device):
            return False
        device.kill()
        return self._put_back(device, device.disk.copied(place=self._elsewhere()))

    def _may_lose(self, device: Device) -> bool:
        """Whether its disk can be touched now; once in a run is enough to keep account of."""
        return device.is_awake and not device.full and device.id not in self.world.lossy

    def _put_back(self, device: Device, disk: SimDisk) -> bool:
        device.kill()
        device.reboot()
        device.disk, device.fuse = disk, disk.fuse
        self.world.checker.disk_lost(disk)
        self.world.lossy.add(device.id)
        self.world.revive(device)
        return True

    def _clone_of_image(self, device: Device, dice: Dice) -> bool:
        """An image of a stopped device's disk starts in another machine."""
        return self._clone(device, stops=True, place=device.disk.place)

    def _clone_of_stopped(self, device: Device, dice: Dice) -> bool:
        """A stopped device's folder is copied, and both start."""
        return self._clone(device, stops=True, place=self._elsewhere(), here=dice.random() < 0.5)

    def _clone_of_running(self, device: Device, dice: Dice) -> bool:
        """A running device's folder is copied, token and leases included, and the copy starts."""
        return self._clone(device, stops=False, place=self._elsewhere(), here=dice.random() < 0.5)

    def _clone(self, device: Device, *, stops: bool, place: str, here: bool = False) -> bool:
        if not self._may_lose(device):
            return False
        if stops:
            device.kill()
            self.world.revive(device)
        disk = device.disk.copied(place=place)
        twin = Device(self.world, device.id, name=f"{device.id}-twin", disk=disk)
        if here:
            twin.boot = device.boot
        self.world.checker.disk_lost(disk)
        self.world.lossy.add(device.id)
        self.world.add(twin)
        return True

    def _elsewhere(self) -> str:
        self._places += 1
        return f"place {self._places}"

    # The coordinator.

    def _coordinator_restarts(self, device: Device, dice: Dice) -> bool:
        centre = self.world.centre
        centre.stop()
        centre.zombie = None
        centre.start()
        return True

    def _coordinator_away(self, device: Device, dice: Dice) -> bool:
        centre = self.world.centre
        centre.stop()
        centre.zombie = None
        self.world.at(self.world.now + dice.between(150, 1_000), None, centre.start_again)
        return True

    def _coordinator_dies_in_commit(self, device: Device, dice: Dice) -> bool:
        self.world.centre.fuse.light(dice.between(1, 6), after=dice.random() < 0.5)
        return False  # it counts when it dies

    def _coordinator_clock_steps(self, device: Device, dice: Dice) -> bool:
        if self.rising:
            return False  # the end of a price is a time on the coordinator's clock
        self.world.centre.wall_ms += dice.choice([-5_000, -1_000, 1_000, 5_000])
        return True

    def _database_unwritable(self, device: Device, dice: Dice) -> bool:
        centre = self.world.centre
        centre.cannot_write = True

        def again() -> None:
            centre.cannot_write = False

        self.world.at(self.world.now + dice.between(50, 400), None, again)
        return True

    def _database_slow(self, device: Device, dice: Dice) -> bool:
        self.world.centre.slow = dice.between(1, 3)
        return False  # it counts when a transaction takes long

    def _takeover(self, device: Device, dice: Dice) -> bool:
        centre = self.world.centre
        if not centre.up or centre.cannot_write:
            return False
        centre.take_over()
        return True

    def _database_backed_up(self, device: Device, dice: Dice) -> bool:
        self.world.centre.backup()
        return False

    def _database_restored(self, device: Device, dice: Dice) -> bool:
        centre = self.world.centre
        if not centre.backups or not centre.up:
            return False
        centre.restore(dice.choice(centre.backups)[0])
        self.world.at(self.world.now + dice.between(50, 250), None, centre.start_again)
        self.world.at(self.world.now + dice.between(300, 600), None, self._recover)
        return True

    def _recover(self) -> None:
        """`tidectl ledger recover`."""
        centre, world = self.world.centre, self.world
        if centre.up and centre.engine.recovery is not None:
            centre.operate(lambda e, now: e.recover_ledger(actor="op", unix_ms=now))
        elif not centre.up:
            world.at(world.now + 500, None, self._recover)

    # The operator.

    def _budget_set(self, device: Device, dice: Dice) -> bool:
        nanos = dice.choice(BUDGET_SHARES) * WORST_NANOS
        return self.world.order(nanos)

    def _price_rises(self, device: Device, dice: Dice) -> bool:
        """A rise entered ahead: first an end of the old price, then the new one (rule A_3).

        Ahead by more than a lease lasts: who is cut off goes on at the old price until then.
        """
        world, centre = self.world, self.world.centre
        if self.rising or not centre.up:
            return False
        self.rising = True
        ends = -(-(centre.unix_ms() + RISE_AHEAD_MS) // PRICE_ENDS_MS) * PRICE_ENDS_MS
        until = datetime.fromtimestamp(ends // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.rise_at = ends - centre.wall_ms + RISE_WAIT_MS
        world.toml_now = world.toml(valid_until=until)
        centre.configure(world.toml_now)
        world.at(self.rise_at - RISE_WAIT_MS - 500, None, self._enter_new_price)
        world.at(self.rise_at, None, self._rise)
        return True

    def _enter_new_price(self) -> None:
        """The successor is entered before the old price ends."""
        world = self.world
        world.price_usd = f"{float(world.price_usd) * 1.2:.3f}"
        world.toml_now = world.toml()
        world.centre.configure(world.toml_now)

    def _rise(self) -> None:
        """From here on the provider bills it; leases of the old price are over."""
        world = self.world
        per_mtok = round(float(world.price_usd) * 1e9)
        world.provider.prices["large"] = (per_mtok, world.provider.prices["large"][1])
        self.rising = False

    def _spend_paused(self, device: Device, dice: Dice) -> bool:
        centre, world = self.world.centre, self.world
        world.at(world.now + dice.between(100, 500), None, lambda: self._pause(False))
        return centre.operate(lambda e, now: e.set_spend_paused(True, actor="op", unix_ms=now))

    def _pause(self, paused: bool) -> None:
        self.world.centre.operate(
            lambda e, now: e.set_spend_paused(paused, actor="op", unix_ms=now)
        )

    def _arm_disabled(self, device: Device, dice: Dice) -> bool:
        arm = dice.choice(["large", "small"])
        self.world.at(self.world.now + dice.between(100, 500), None, self._enable_arms)
        return self.world.centre.operate(
            lambda e, now: e.set_arm_enabled(arm, False, actor="op", unix_ms=now)
        )

    def _enable_arms(self) -> None:
        for arm in sorted(self.world.centre.engine.disabled_arms):
            self._enable(arm)

    def _enable(self, arm: str) -> None:
        self.world.centre.operate(
            lambda e, now: e.set_arm_enabled(arm, True, actor="op", unix_ms=now)
        )

    def _device_written_off(self, device: Device, dice: Dice) -> bool:
        """The operator gives a silent device up; it may come back all the same."""
        centre = self.world.centre
        if not centre.up or device.id in centre.engine.sessions:
            return False
        known = centre.database.devices[device.id].lease_number_max
        lent = [n for (name, n) in self.world.checker.granted if name == device.id]
        if max(lent, default=0) > known:
            return False  # lent after the backup: only the device knows of it
        return centre.write_off(device.id)

    def _provider(self, device: Device, dice: Dice) -> bool:
        fate = Fate.OVERRUN if dice.random() < 0.012 else dice.choice(FATES)
        self.world.fates.append(fate)
        return False

    # Mending.

    def end(self) -> None:
        """No more faults."""
        world = self.world
        self.over = True
        world.fates.clear()
        world.network.lose = world.network.repeat = world.network.delay = world.network.swap = 0
        world.centre.fuse.put_out()
        world.centre.slow = 0
        world.centre.cannot_write = False
        world.centre.zombie = None
        for device in world.devices:
            device.cut_off_until = 0
            device.fuse.put_out()
            if device.alive:
                device.fill_disk(False)

    def mend(self) -> None:
        """What an operator does about alarms."""
        world, centre = self.world, self.world.centre
        if not centre.up:
            centre.start()
        if centre.stored_toml != world.toml_now:
            centre.configure(world.toml_now)
        if centre.engine.spend_paused:
            self._pause(False)
        self._enable_arms()
        if centre.engine.recovery is not None and not centre.engine.recovery.confirmed_by:
            self._recover()
        if self.over:
            self._restart_shut_arms()
        for device_id in centre.quarantined:
            self._sort_out(device_id)

    def _sort_out(self, device_id: str) -> None:
        """One of two is switched off as soon as it has told all, then the other is readmitted."""
        copies = [device for device in self.world.present() if device.id == device_id]
        if len(copies) > 1:
            told = [d for d in copies if d.alive and not d.engine.outbox.waiting]
            if not told:
                return
            found = self.world.rng.choice(told)
            found.gone = True
            found.kill()
            copies.remove(found)
        self._readmit(device_id)
        for device in copies:
            device.hang_up()

    def _readmit(self, device_id: str) -> None:
        self.world.centre.operate(lambda e, now: e.readmit(device_id, actor="op", unix_ms=now))

    def write_off_stranded(self) -> None:
        """Restored books may have a lease open whose grant its device never saw, or will see.

        No device closes it, so an operator has to: while the device is away, as all write-offs.
        """
        world, centre = self.world, self.world.centre
        for lease in centre.engine.account.open_leases():
            for device in world.present():
                held = {status.lease_number for status in device.engine.gate.leases()}
                if device.id == lease.device_id and lease.number not in held:
                    device.hang_up()
                    device.cut_off_until = world.now + 2_500
                    world.run(1_500)
                    world.noted["stranded_lease_written_off"] += centre.write_off(device.id)

    def _restart_shut_arms(self) -> None:
        """An overrun closes its arm on its device until the fleet has closed it everywhere.

        A device that was away while that was so must be started again to open it.
        """
        world = self.world
        enabled = not world.centre.engine.disabled_arms
        for device in world.present():
            shut = device.alive and enabled and bool(device.engine.gate._overrun_arms)
            if shut and not device.engine.outbox.waiting and not device.answering.calls:
                world.noted["restarted_to_open_an_arm"] += 1
                device.kill()
                world.revive(device)
