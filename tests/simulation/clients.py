"""What clients see: every request ends (promise P2), and nobody waits for a silent coordinator."""

from __future__ import annotations

from tests.simulation.counts import Counts
from tests.simulation.facts import Violated


class Clients:
    """Keeps account of every request, by what the clients and the link see of a device.

    Parameters
    ----------
    checked : Counts of str
        How often each invariant was looked at.
    """

    def __init__(self, checked: Counts[str]) -> None:
        self._checked = checked
        self._open: dict[str, str] = {}
        self._hopeless: set[str] = set()
        self._unheard: set[str] = set()
        self._waited: set[str] = set()
        self._silent: set[str] = set()

    def asked(self, device: str, request_id: str) -> None:
        """A request has reached an agent."""
        self._open[request_id] = device
        if device in self._silent:
            self._hopeless.add(request_id)

    def ended(self, request_id: str) -> None:
        """It has its answer, or a clean refusal."""
        self._checked["P2"] += 1
        self._forget(request_id)

    def process_ended(self, device: str) -> None:
        """The clients of this agent see their connections break."""
        for request_id in [name for name, at in self._open.items() if at == device]:
            self._forget(request_id)
        self._silent.discard(device)

    def waits(self, device: str, request_id: str) -> None:
        """A request begins to wait for a lease: once, and where one may come (rule L_6)."""
        self._holds(request_id not in self._waited, f"{request_id} waits for a lease again")
        self._holds(
            request_id not in self._hopeless,
            f"{request_id} waits for a coordinator that {device} has asked in vain",
        )
        self._waited.add(request_id)
        self._unheard.add(request_id)

    def waited_in_vain(self, device: str, request_id: str) -> None:
        """Its time is over, and there was no lease for it."""
        if request_id in self._unheard:
            self._silent.add(device)

    def heard(self, device: str) -> None:
        """The coordinator has granted or refused a lease."""
        self._silent.discard(device)
        self._unheard -= {name for name in self._unheard if self._open.get(name) == device}

    def at_rest(self) -> None:
        """Nothing is asked any more: everybody has an answer."""
        self._checked["P2"] += 1
        if self._open:
            raise Violated("P2", f"{len(self._open)} requests never end: {list(self._open)[:3]}")

    def _forget(self, request_id: str) -> None:
        self._open.pop(request_id, None)
        self._hopeless.discard(request_id)
        self._unheard.discard(request_id)
        self._waited.discard(request_id)

    def _holds(self, holds: bool, what: str) -> None:
        self._checked["L_6"] += 1
        if not holds:
            raise Violated("L_6", what)
