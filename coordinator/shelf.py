"""The selection tables of every device class: the one in force, earlier ones, and what is pinned.

Pure state: every method that changes something returns the rows to commit. The store holds the
tables themselves; of the earlier ones only their versions are kept here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from coordinator.records import EarlierTable, PutSetting, SettingKey, StoreEffect, TableRowStored
from shared.decision.table import SelectionTable

EARLIER_TABLES_MAX = 32
IN_FORCE = 0
"""The place of the table that decides; earlier ones have the places above it."""


@dataclass(frozen=True)
class Pin:
    """Plans go on, and this version stays in force."""

    version: int
    since_unix_ms: int
    actor: str


class TableShelf:
    """What devices decide by, and what they could be taken back to.

    Parameters
    ----------
    in_force : iterable of SelectionTable
        One for each device class that has any.
    earlier : iterable of EarlierTable
        The places of those that are kept.
    pins : str
        From `pins_json`; may be empty.
    """

    def __init__(
        self, *, in_force: Iterable[SelectionTable], earlier: Iterable[EarlierTable], pins: str
    ) -> None:
        self.in_force = {table.device_class: table for table in in_force}
        self._earlier: dict[str, dict[int, EarlierTable]] = {}
        for each in earlier:
            self._earlier.setdefault(each.device_class, {})[each.place] = each
        self.pins = {name: Pin(**pin) for name, pin in json.loads(pins or "{}").items()}

    @property
    def next_version(self) -> int:
        """Versions rise over all classes, also after an earlier one came back."""
        versions = [table.version for table in self.in_force.values()]
        versions += [each.version for kept in self._earlier.values() for each in kept.values()]
        return 1 + max(versions, default=0)

    def earlier(self, device_class: str) -> tuple[EarlierTable, ...]:
        """The earlier tables that are kept, newest first."""
        kept = self._earlier.get(device_class, {}).values()
        return tuple(sorted(kept, key=lambda each: -each.version))

    def put(self, table: SelectionTable) -> list[StoreEffect]:
        """A new table comes into force; the last one is kept."""
        name = table.device_class
        effects = self._keep(self.in_force[name]) if name in self.in_force else []
        self.in_force[name] = table
        return [*effects, TableRowStored(table, IN_FORCE)]

    def take_back(self, table: SelectionTable) -> list[StoreEffect]:
        """An earlier table comes into force again, in exchange for the present one."""
        name = table.device_class
        kept = self._earlier.get(name, {})
        for place in [place for place, each in kept.items() if each.version == table.version]:
            del kept[place]
        return self.put(table)

    def pin(self, device_class: str, *, unix_ms: int, actor: str) -> PutSetting:
        """What is in force stays so."""
        version = self.in_force[device_class].version
        self.pins[device_class] = Pin(version, unix_ms, actor)
        return self._pins_kept()

    def unpin(self, device_class: str) -> PutSetting:
        """The next plan may replace what is in force."""
        del self.pins[device_class]
        return self._pins_kept()

    def _keep(self, table: SelectionTable) -> list[StoreEffect]:
        kept = self._earlier.setdefault(table.device_class, {})
        free = (place for place in range(1, EARLIER_TABLES_MAX + 1) if place not in kept)
        place = next(free, None) or _least_missed(kept.values(), now=table.created_unix_ms)
        kept[place] = EarlierTable(table.device_class, place, table.version, table.created_unix_ms)
        return [TableRowStored(table, place)]

    def _pins_kept(self) -> PutSetting:
        pins = {name: asdict(pin) for name, pin in self.pins.items()}
        return PutSetting(SettingKey.TABLE_PINS, json.dumps(pins))


def _least_missed(kept: Iterable[EarlierTable], *, now: int) -> int:
    """The place of the table whose neighbours in time are nearest, for its age.

    So the kept ones lie close together in the last minutes and ever farther apart before; the
    newest and the oldest stay.
    """
    by_age = sorted(kept, key=lambda each: (-each.created_unix_ms, -each.version))
    gaps = [
        ((newer.created_unix_ms - older.created_unix_ms) / max(1, now - each.created_unix_ms), each)
        for newer, each, older in zip(by_age, by_age[1:], by_age[2:], strict=False)
    ]
    return min(gaps, key=lambda pair: (pair[0], pair[1].version))[1].place
