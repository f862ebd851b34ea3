"""Watches a run: samples the coordinator and the provider, and plays the outage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from deploy.demo.admin import CoordinatorAwayError
from deploy.demo.board import Board, Outage, Sample
from deploy.demo.cloud import Cloud
from deploy.demo.fleet import Fleet, start_coordinator
from deploy.demo.processes import Children

SAMPLE_EVERY_S: Final = 1.0


class Watch:
    """Samples a run until it is cancelled.

    Parameters
    ----------
    now_s : callable
        Seconds since the start of the drive.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        cloud: Cloud,
        children: Children,
        board: Board,
        now_s: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._cloud = cloud
        self._children = children
        self._board = board
        self._now_s = now_s

    async def sample(self) -> None:
        """Take a sample every second, and see that no process has died."""
        while True:
            self._children.check()
            try:
                self._board.samples.append(await asyncio.to_thread(self._sample))
            except OSError:
                # The proxy did not answer: if it has died, its log says why.
                self._children.check()
                raise
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def outage(self, *, from_s: float, length_s: float) -> None:
        """Stop the coordinator for a while and start it again."""
        await asyncio.sleep(max(from_s - self._now_s(), 0.0))
        self._board.note = "stopping the coordinator"
        await asyncio.to_thread(self._children.stop, self._fleet.coordinator)
        began_s = self._now_s()
        self._board.note = "the coordinator is down; the devices go on alone"
        self._board.outage = Outage(from_s=began_s, until_s=began_s + length_s)
        await asyncio.sleep(length_s)
        # Only the time without a process counts, not the time that it takes to start.
        self._board.outage = Outage(from_s=began_s, until_s=self._now_s())
        self._fleet.coordinator = await asyncio.to_thread(
            start_coordinator,
            self._fleet.coordinator_config,
            children=self._children,
            admin=self._fleet.admin,
        )
        self._board.note = ""

    def _sample(self) -> Sample:
        at_s = self._now_s()
        billed = self._cloud.totals()["billed_nanos"]
        try:
            status = self._fleet.admin.status()
        except CoordinatorAwayError:
            last = self._board.samples[-1] if self._board.samples else Sample(at_s=at_s, up=False)
            return replace(last, at_s=at_s, up=False, billed_nanos=billed)
        budget = status.budget
        return Sample(
            at_s=at_s,
            up=True,
            booked_nanos=budget.settled_nanos + budget.unconfirmed_nanos,
            outstanding_nanos=budget.outstanding_nanos,
            billed_nanos=billed,
            sla_share=status.sla_share_window,
            reward_mean=status.reward_mean_window,
            forecast_remaining=status.forecast_remaining,
            demand_last_slot=status.demand_last_slot,
            slot=status.slot,
            devices_connected=status.devices_connected,
            window_id=budget.window_id,
        )


def spools_empty(fleet: Fleet) -> bool:
    """Whether every device has handed over all that it had to report."""
    try:
        devices = fleet.admin.devices()
    except CoordinatorAwayError:
        return False
    return all(device.connected and device.spooled_records == 0 for device in devices)
