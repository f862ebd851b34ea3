"""The live view of a run; plain lines where there is no terminal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.demo.board import Board, Sample, hit_share, reward_mean
from deploy.demo.settings import ARMS, DemoSettings
from deploy.demo.show import dollars

REFRESH_S: Final = 0.5
LINE_EVERY_S: Final = 10.0
RECENT_S: Final = 20.0
BARS: Final = " ▁▂▃▄▅▆▇█"
ARM_STYLES: Final = {"tiny": "cyan", "small": "blue", "large": "magenta"}
SPARK_WIDTH: Final = 60
SHARE_WIDTH: Final = 48
BAR_WIDTH: Final = 40
_UNKNOWN: Final = Sample(at_s=0.0, up=False)


class LiveView:
    """Shows a board until it is cancelled.

    Parameters
    ----------
    now_s : callable
        Seconds since the start of the drive.
    """

    def __init__(
        self,
        board: Board,
        *,
        settings: DemoSettings,
        console: Console,
        now_s: Callable[[], float],
    ) -> None:
        self._board = board
        self._settings = settings
        self._console = console
        self._now_s = now_s

    async def show(self) -> None:
        """Redraw twice a second, or print a line every ten seconds."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(LINE_EVERY_S)
                self._console.print(self.line(), highlight=False, soft_wrap=True)
        with Live(self.view(), console=self._console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(REFRESH_S)
                live.update(self.view(), refresh=True)

    def line(self) -> str:
        """The state in one line."""
        sample, records = self._sample, self._board.records
        state = "up" if sample.up else "DOWN"
        shares = ", ".join(f"{arm} {share:.0%}" for arm, share in self._shares().items())
        return (
            f"{self._now_s():5.0f} s  {len(records):5d} requests  billed "
            f"{dollars(sample.billed_nanos)} of {dollars(self._settings.budget_nanos)}  reward "
            f"{reward_mean(records):.3f}  in time {hit_share(records):.1%}  {shares}  "
            f"coordinator {state}"
        )

    def view(self) -> Panel:
        """The state as a panel."""
        sample, records = self._sample, self._board.records
        now_s = max(self._now_s(), 0.0)
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", min_width=9)
        grid.add_column()
        grid.add_row("time", self._bar(now_s, self._settings.drive_s, f"{now_s:.0f} s"))
        budget = self._settings.budget_nanos
        spent = f"{dollars(sample.billed_nanos)} of {dollars(budget)} billed"
        grid.add_row("spend", self._bar(sample.billed_nanos, budget, spent))
        lent = dollars(sample.outstanding_nanos)
        grid.add_row("books", f"{dollars(sample.booked_nanos)} booked, {lent} lent to devices")
        grid.add_row("deadline", self._deadlines())
        grid.add_row("reward", f"{reward_mean(records):.3f} mean of {len(records)} requests")
        grid.add_row("arms", self._arms())
        grid.add_row("demand", self._demand())
        grid.add_row("fleet", self._fleet(sample))
        style = "cyan" if sample.up else "red"
        return Panel(grid, title="Tidegate demo", border_style=style, title_align="left")

    @property
    def _sample(self) -> Sample:
        return self._board.samples[-1] if self._board.samples else _UNKNOWN

    def _bar(self, value: float, total: float, text: str) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(total=total, completed=min(value, total), width=BAR_WIDTH), text)
        return row

    def _deadlines(self) -> Text:
        since_s = self._now_s() - RECENT_S
        recent = [record for record in self._board.records if record.done_s >= since_s]
        share, floor = hit_share(self._board.records), self._settings.sla_floor
        style = "green" if share >= floor else "yellow"
        return Text.assemble(
            (f"{share:.1%}", style),
            f" within the deadline (floor {floor:.0%}); last {RECENT_S:.0f} s "
            f"{hit_share(recent):.1%}",
        )

    def _shares(self) -> dict[str, float]:
        answered = self._board.answered
        counts = Counter(record.arm for record in answered)
        return {arm: counts[arm] / len(answered) if answered else 0.0 for arm in ARMS}

    def _arms(self) -> Text:
        text = Text()
        shares = self._shares()
        for arm, share in shares.items():
            text.append("█" * round(SHARE_WIDTH * share), style=ARM_STYLES[arm])
        for arm, share in shares.items():
            text.append(f"  {arm} {share:.0%}", style=ARM_STYLES[arm])
        return text

    def _demand(self) -> Text:
        now_s = self._now_s()
        step_s = self._settings.drive_s / SPARK_WIDTH
        counts = [0] * SPARK_WIDTH
        for record in self._board.records:
            counts[min(int(record.sent_s / step_s), SPARK_WIDTH - 1)] += 1
        passed = counts[: max(min(int(now_s / step_s), SPARK_WIDTH), 0)]
        rate = passed[-1] / step_s if passed else 0.0
        return Text(f"{sparkline(passed)} {rate:.1f} a second, {self._board.in_flight} open")

    def _fleet(self, sample: Sample) -> Text:
        if self._board.note:
            return Text(self._board.note, style="bold red")
        style = "green" if sample.up else "red"
        return Text.assemble(
            ("coordinator up" if sample.up else "coordinator away", style),
            f", {sample.devices_connected} devices connected, slot {sample.slot}, about "
            f"{sample.forecast_remaining:.0f} requests to come",
        )


def sparkline(values: list[int]) -> str:
    """Bars of a series, the highest one full."""
    top = max(values, default=0)
    if not top:
        return ""
    return "".join(BARS[round(value / top * (len(BARS) - 1))] for value in values)
