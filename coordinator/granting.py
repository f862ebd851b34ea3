"""How large a lease is (rule L_6), and who has to wait for one (rule L_4)."""

from __future__ import annotations

WORST_CASES_WANTED = 8
FREE_SHARE_MAX = 4
UNCLEAN_BACKOFF_MS = 1_000
UNCLEAN_BACKOFF_MS_MAX = 600_000


def lease_amount_nanos(
    *,
    free_nanos: int,
    planned_nanos_per_slot: float,
    lease_slots: int,
    available_nanos: int,
    worst_case_nanos: int,
    needed_nanos: int = 0,
    devices: int,
    store: bool = True,
) -> int:
    """The next lease of a device, in nano-dollars; 0 if the free money does not suffice.

    Large enough for the planned spend of a few slots and for several requests at their worst
    case, but never more than a fair share of what is free: the last money of a window goes out in
    small leases, so that little of it is stranded. Who waits for money gets it as far as there is
    any.

    Parameters
    ----------
    free_nanos : int
        What the budget can still lend.
    planned_nanos_per_slot : float
        The device's expected spend in the coming slot.
    available_nanos : int
        What the device still holds.
    worst_case_nanos : int
        The largest reservation that it lately asked for; 0 if it has seen no request yet.
    needed_nanos : int
        What the requests that wait for it need together.
    devices : int
        Devices that share the free money, this one included.
    store : bool
        False: for one request, nothing to keep in store.
    """
    least = max(worst_case_nanos, min(needed_nanos, free_nanos))
    wanted = max(int(planned_nanos_per_slot * lease_slots), WORST_CASES_WANTED * worst_case_nanos)
    if not store:
        wanted = least
    fair = free_nanos // (FREE_SHARE_MAX * devices)
    amount = max(min(wanted - available_nanos, fair), least)
    return amount if amount <= free_nanos else 0


def back_off_ms(unclean_closes: int) -> int:
    """How long a device gets no lease after so many in a row that it did not close cleanly.

    It doubles, so that a crash loop does not drain the budget.
    """
    return min(UNCLEAN_BACKOFF_MS_MAX, UNCLEAN_BACKOFF_MS << (unclean_closes - 1))
