"""The picture of a run: spend, demand and forecast, deadlines, and arm shares over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from deploy.demo.board import Board, Record
from deploy.demo.settings import ARMS, DemoSettings

INK: Final = "#22313f"
GRID: Final = "#e3e8ec"
DOWN: Final = "#f4d9d0"
COLOURS: Final = {"tiny": "#8ecae6", "small": "#2a6f97", "large": "#e07a5f"}
SPEND: Final = "#e07a5f"
BOOKED: Final = "#6b7f8f"
DEMAND: Final = "#9fb8c8"
FORECAST: Final = "#d1495b"
FLOOR: Final = "#b08900"
SHARE_BIN_S: Final = 6.0
SLA_WINDOW_S: Final = 15.0
SLA_STEP_S: Final = 1.0
SLA_LOW: Final = 0.6
NANOS_PER_CENT: Final = 10_000_000.0
STYLE: Final[Any] = {
    "font.size": 9.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 10.0,
}

Series = NDArray[np.float64]


def plot_run(path: Path, *, board: Board, settings: DemoSettings) -> None:
    """Draw a run into a PNG file."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 6.6), dpi=140, layout="constrained")
        grid = figure.subplots(2, 2, sharex=True)
        _spend(grid[0, 0], board, settings)
        _demand(grid[0, 1], board, settings)
        _deadlines(grid[1, 0], board, settings)
        _shares(grid[1, 1], board, settings)
        for axes in grid.flat:
            axes.set_xlim(0.0, settings.drive_s)
            axes.tick_params(length=0)
            if board.outage:
                axes.axvspan(
                    board.outage.from_s, board.outage.until_s, color=DOWN, alpha=0.55, zorder=0.5
                )
        for axes in grid[1]:
            axes.set_xlabel("seconds since the start of the drive")
        if board.outage:
            _name_outage(grid[0, 0], board)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def _name_outage(axes: Axes, board: Board) -> None:
    if board.outage is None:
        return
    axes.text(
        (board.outage.from_s + board.outage.until_s) / 2.0,
        0.03,
        "coordinator\ndown",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=8,
        color="#9c4a35",
    )


def _spend(axes: Axes, board: Board, settings: DemoSettings) -> None:
    times = [sample.at_s for sample in board.samples]
    billed = [sample.billed_nanos / NANOS_PER_CENT for sample in board.samples]
    booked = [sample.booked_nanos / NANOS_PER_CENT for sample in board.samples]
    budget = settings.budget_nanos / NANOS_PER_CENT
    axes.fill_between(times, billed, color=SPEND, alpha=0.18, linewidth=0)
    axes.plot(times, billed, color=SPEND, linewidth=2.0, label="billed by the provider")
    axes.plot(times, booked, color=BOOKED, linewidth=1.2, linestyle="--", label="booked")
    axes.axhline(budget, color=INK, linewidth=1.2)
    axes.text(
        settings.drive_s * 0.995, budget, "budget", ha="right", va="bottom", fontweight="bold"
    )
    axes.set_ylim(0.0, budget * 1.15)
    axes.set_title("Spend")
    axes.set_ylabel("US cents")
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.88))


def _demand(axes: Axes, board: Board, settings: DemoSettings) -> None:
    slot_s = settings.slot_s
    edges = np.arange(0.0, settings.drive_s + slot_s, slot_s)
    counts, _ = np.histogram([record.sent_s for record in board.records], bins=edges)
    axes.bar(
        edges[:-1],
        counts / slot_s,
        width=slot_s * 0.9,
        align="edge",
        color=DEMAND,
        label="requests that came",
    )
    ends_s = float(settings.drive_s + settings.tail_s)
    samples = [sample for sample in board.samples if 0.0 < sample.at_s < settings.drive_s]
    # While the coordinator is away nobody forecasts: the line has a gap there.
    rates = [
        sample.forecast_remaining / max(ends_s - sample.at_s, slot_s) if sample.up else np.nan
        for sample in samples
    ]
    axes.plot(
        [sample.at_s for sample in samples],
        rates,
        color=FORECAST,
        linewidth=1.8,
        label="forecast for the rest of the window",
    )
    axes.set_ylim(0.0, max(float(counts.max(initial=0)) / slot_s, 1.0) * 1.3)
    axes.set_title("Demand and forecast")
    axes.set_ylabel("requests a second")
    axes.legend(loc="upper left", ncols=2)


def _deadlines(axes: Axes, board: Board, settings: DemoSettings) -> None:
    waited = [record for record in board.records if record.reward is not None]
    times, shares = rolling_hits(waited, drive_s=settings.drive_s)
    axes.plot(times, shares, color=COLOURS["small"], linewidth=2.0, label="last 15 s")
    axes.axhline(settings.sla_floor, color=FLOOR, linewidth=1.4, linestyle="--", label="floor")
    low = min([*shares, settings.sla_floor], default=settings.sla_floor)
    axes.set_ylim(max(0.0, low - 0.08), 1.02)
    axes.yaxis.set_major_locator(MultipleLocator(0.05 if low > SLA_LOW else 0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("Answered within the deadline")
    axes.legend(loc="lower right", ncols=2)


def rolling_hits(records: Sequence[Record], *, drive_s: float) -> tuple[list[float], list[float]]:
    """The share of hits among the requests that ended in the last 15 s, every second."""
    times, shares = [], []
    for at_s in np.arange(SLA_WINDOW_S, drive_s + SLA_STEP_S, SLA_STEP_S):
        recent = [record.hit for record in records if at_s - SLA_WINDOW_S < record.done_s <= at_s]
        if recent:
            times.append(float(at_s))
            shares.append(sum(recent) / len(recent))
    return times, shares


def _shares(axes: Axes, board: Board, settings: DemoSettings) -> None:
    times, shares = arm_shares(board.answered, drive_s=settings.drive_s)
    if times.size:
        axes.stackplot(
            times,
            *shares,
            labels=ARMS,
            colors=[COLOURS[arm] for arm in ARMS],
            alpha=0.9,
            linewidth=0,
        )
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("Which arm answered")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1.0, 0.97),
        ncols=len(ARMS),
    )


def arm_shares(answered: Sequence[Record], *, drive_s: float) -> tuple[Series, list[Series]]:
    """Shares of the arms in bins of six seconds; bins without answers are left out.

    Returns
    -------
    times : ndarray, shape (N,)
        Middles of the bins.
    shares : list of ndarray, shape (N,)
        One for each arm.
    """
    counts: dict[int, Counter[str]] = {}
    for record in answered:
        index = int(min(record.done_s, drive_s - 1e-6) // SHARE_BIN_S)
        counts.setdefault(index, Counter())[record.arm] += 1
    bins = sorted(counts)
    times = np.array([(index + 0.5) * SHARE_BIN_S for index in bins])
    shares = [
        np.array([counts[index][arm] / counts[index].total() for index in bins]) for arm in ARMS
    ]
    return times, shares
