"""The chooser's error one slot ahead over that of the best single forecaster, on real traces."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from coordinator.forecast.onnx_model import load_onnx
from coordinator.lab.backtest import Setup, backtest, chooser_ratio
from coordinator.lab.demand_trace import read_counts
from coordinator.lab.forecast import SHIPPED_MODEL
from coordinator.policy.base import FloatArray
from tests.bench.figures import Figure

DATA: Final = Path(__file__).parents[3] / "shared" / "data"
RATIO_MAX: Final = 1.04
TRACES: Final[tuple[tuple[str, str, tuple[str, str] | None], ...]] = (
    ("azure_llm_2023/AzureLLMInferenceTrace_code.csv.gz", "TIMESTAMP", None),
    ("azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz", "TIMESTAMP", None),
    ("mooncake/mooncake_requests.csv.gz", "timestamp_ms", ("trace", "conversation_trace")),
)


def chooser_on_traces(bin_ms: int = 10_000) -> Figure:
    """The worst of the azure and mooncake traces, in bins of 10 s; simulated without them."""
    setup = Setup(model=load_onnx(SHIPPED_MODEL.read_bytes(), source=str(SHIPPED_MODEL)))
    ratio = max(chooser_ratio(backtest(counts, setup=setup)) for counts in _series(bin_ms))
    against = "the best single forecaster"
    if not DATA.exists():
        against += ", simulated traffic (the traces are not there)"
    return Figure(
        name=f"forecast, {bin_ms // 1_000} s",
        figure=round(ratio, 3),
        unit="x",
        against=against,
        target=f"<= {RATIO_MAX}",
        holds=bool(ratio <= RATIO_MAX),
    )


def _series(bin_ms: int) -> list[FloatArray]:
    if DATA.exists():
        return [
            read_counts(DATA / path, column=column, bin_ms=bin_ms, where=where)
            for path, column, where in TRACES
        ]
    rng = np.random.default_rng(3)
    jump = np.concatenate([rng.poisson(5.0, 300), rng.poisson(25.0, 300)])
    return [jump.astype(np.float64), rng.poisson(8.0, 600).astype(np.float64)]
