"""The keys of paid endpoints that the coordinator's own configuration refers to."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.ports import KeySource
from shared.settings import read_secret


class ReferredKeys(KeySource):
    """Reads each key at the moment when it is sent, so that a changed file counts at once.

    Parameters
    ----------
    refs : mapping
        Name to `env:NAME` or `file:PATH`.
    """

    def __init__(self, refs: Mapping[str, str]) -> None:
        self._refs = dict(refs)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._refs)

    def read(self, name: str) -> str:
        return read_secret(self._refs[name], key=f"provider_keys.{name}")
