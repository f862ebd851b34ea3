"""`tidegate-lab forecast`: which forecaster a recorded trace asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import coordinator.forecast
from coordinator.forecast.onnx_model import load_onnx
from coordinator.lab.backtest import (
    CHOOSER,
    Backtest,
    Setup,
    backtest,
    candidates,
    chooser_ratio,
)
from coordinator.lab.demand_trace import COUNT_MAX, read_binned, read_counts
from coordinator.lab.output import (
    Format,
    FormatOption,
    OutOption,
    make_folder,
    make_table,
    progress,
    show,
    write_csv,
)
from coordinator.lab.plots import Panel, Series, save_panels
from coordinator.policy.base import FloatArray
from shared.errors import ConfigError
from shared.units import duration_ms

SHIPPED_MODEL = Path(coordinator.forecast.__file__).parent / "models" / "demand.onnx"


def command(
    trace: Annotated[Path, typer.Argument(help="CSV file, gzipped or not.")],
    bin_: Annotated[str, typer.Option("--bin", help="Slot length, such as 10s.")] = "10s",
    column: Annotated[
        str, typer.Option(help="Column with an arrival's time: ISO 8601; numbers if it ends _ms.")
    ] = "TIMESTAMP",
    counts_column: Annotated[
        str, typer.Option(help="Column with counts, a row per slot; instead of --column.")
    ] = "",
    where: Annotated[str, typer.Option(help="Only rows with COLUMN=VALUE count.")] = "",
    prior: Annotated[
        float, typer.Option(min=0.0, max=COUNT_MAX, help="Declared demand per slot.")
    ] = 1.0,
    period: Annotated[
        str, typer.Option(help="Length of a known cycle, such as 24h; `seasonal` needs it.")
    ] = "",
    model: Annotated[Path, typer.Option(help="ONNX model for `onnx`.")] = SHIPPED_MODEL,
    out: OutOption = None,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Backtest every forecaster on a recorded trace.

    Settings are chosen on its first half, its second half is scored.
    """
    bin_ms = _duration(bin_, option="--bin")
    slots = round(_duration(period, option="--period") / bin_ms) if period else 0
    if period and slots < 2:
        raise typer.BadParameter(f"{period} is less than two bins", param_hint="--period")
    only = _condition(where)
    if counts_column:
        counts = read_binned(trace, column=counts_column, where=only)
    else:
        counts = read_counts(trace, column=column, bin_ms=bin_ms, where=only)
    folder = make_folder(out)
    setup = Setup(prior=prior, period=slots, model=load_onnx(_read(model), source=str(model)))
    with progress("backtests", total=candidates(setup)) as advance:
        results = backtest(counts, setup=setup, advance=advance)
    if folder is not None:
        _write(folder, counts=counts, results=results, bin_s=bin_ms / 1_000)
    title = f"{counts.size} slots of {bin_}, {counts.mean():.1f} requests each; t: |Qhat - Q| / Q"
    show(
        _payload(counts, results=results, bin_s=bin_ms / 1_000),
        format_=format_,
        # Turned over: there are more figures than forecasters.
        table=make_table(
            title,
            columns=["", *(result.forecaster for result in results)],
            rows=list(zip(_columns(results), *_rows(results), strict=True))[1:],
        ),
    )


def _duration(text: str, *, option: str) -> int:
    try:
        length_ms = duration_ms(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if length_ms < 1:
        raise typer.BadParameter(f"{text} is less than 1ms", param_hint=option)
    return length_ms


def _condition(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    column, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r} is not COLUMN=VALUE", param_hint="--where")
    return column, value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError("--model", f"{path} cannot be read: {error.strerror}") from error


def _payload(counts: FloatArray, *, results: Sequence[Backtest], bin_s: float) -> Mapping[str, Any]:
    best = min((r for r in results if r.forecaster != CHOOSER), key=lambda result: result.wape)
    return {
        "bin_s": bin_s,
        "bins": int(counts.size),
        "requests": float(counts.sum()),
        "scored_bins": int(counts.size - counts.size // 2),
        "forecasters": {
            result.forecaster: {
                "settings": dict(result.settings),
                "wape": result.wape,
                "coverage": result.coverage,
                "total_error": {str(t): error for t, error in result.total_error.items()},
            }
            for result in results
        },
        "best_single": best.forecaster,
        "chooser_over_best": chooser_ratio(results),
    }


def _columns(results: Sequence[Backtest]) -> list[str]:
    slots = [f"t={t}" for t in results[0].total_error]
    return ["forecaster", "settings", "WAPE", "in 90 %", *slots]


def _rows(results: Sequence[Backtest]) -> list[list[str]]:
    return [
        [
            result.forecaster,
            " ".join(f"{key}={value:g}" for key, value in result.settings.items())
            if result.forecaster != CHOOSER
            else "theirs",
            f"{result.wape:.3f}",
            f"{result.coverage:.2f}",
            *(f"{error:.3f}" for error in result.total_error.values()),
        ]
        for result in results
    ]


def _write(folder: Path, *, counts: FloatArray, results: Sequence[Backtest], bin_s: float) -> None:
    """`forecast.csv`, `forecast_slots.csv` and `forecast.png`."""
    write_csv(folder / "forecast.csv", columns=_columns(results), rows=_rows(results))
    write_csv(
        folder / "forecast_slots.csv",
        columns=["slot", "count", *(result.forecaster for result in results)],
        rows=[
            [slot, counts[slot], *(f"{result.forecast[slot]:.4f}" for result in results)]
            for slot in range(counts.size)
        ],
    )
    save_panels(folder / "forecast.png", panels=_panels(counts, results=results, bin_s=bin_s))


def _panels(
    counts: FloatArray, *, results: Sequence[Backtest], bin_s: float
) -> tuple[Panel, Panel]:
    half = counts.size // 2
    at_s = np.arange(half, counts.size, dtype=np.float64) * np.float64(bin_s)
    chosen = next(result for result in results if result.forecaster == CHOOSER)
    slots = Panel(
        title="second half: count, and the chooser one slot ahead",
        x_label="seconds",
        y_label="requests per slot",
        series=[
            Series(name="count", x=at_s, y=counts[half:]),
            Series(name=CHOOSER, x=at_s, y=chosen.forecast[half:]),
        ],
    )
    totals = Panel(
        title="error of the whole total",
        x_label="slot t of the forecast",
        y_label="|Qhat - Q| / Q",
        x_log=True,
        series=[
            Series(
                name=result.forecaster,
                x=np.array(list(result.total_error), dtype=np.float64),
                y=np.array(list(result.total_error.values())),
                marker="o",
            )
            for result in results
        ],
    )
    return totals, slots
