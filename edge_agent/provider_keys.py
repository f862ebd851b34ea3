"""Keys of paid endpoints that the coordinator delivers: held in memory, never written or shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping


class ProviderKeys:
    """The keys by name, until the process ends or the coordinator says otherwise."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def replace(self, keys: Mapping[str, str]) -> None:
        """Hold these and no others."""
        self._keys = dict(keys)

    def keep(self, names: Collection[str]) -> None:
        """Forget every key that no arm refers to any more."""
        self._keys = {name: key for name, key in self._keys.items() if name in names}

    def get(self, name: str) -> str | None:
        """A key; None if it has not come."""
        return self._keys.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    def __repr__(self) -> str:
        return f"ProviderKeys({sorted(self._keys)})"
