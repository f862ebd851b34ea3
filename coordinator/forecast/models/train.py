"""Train the demand model that ships with Tidegate, on generated series alone.

    python coordinator/forecast/models/train.py coordinator/forecast/models/demand.onnx

Needs numpy, torch and onnx, which Tidegate itself does not. The model is a network of two hidden
layers over the last 64 counts; it predicts the mean of each of the next 16 slots relative to the
history's own mean, so it works at any level of demand. The loss is the Poisson quasi-likelihood,
whose optimum is the mean whatever the counts' true law. Contract: `README.md` beside this folder.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # type: ignore[import-not-found,unused-ignore] # needed only to train
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HISTORY_SLOTS = 64
PATH_SLOTS = 16
HIDDEN = 64
RATIO_LOG_MAX = 3.0
BATCH = 512

Array = NDArray[np.float64]


def rates(rng: np.random.Generator, *, series: int, slots: int) -> Array:
    """Demand rates of several kinds of traffic, shape (series, slots).

    Steady, autocorrelated, drifting, seasonal, jumping and bursty, at 0.05 to 300 requests a slot.
    """
    level = np.exp(rng.uniform(np.log(0.05), np.log(300.0), (series, 1)))
    kind = rng.integers(0, 6, series)
    log_rate = np.zeros((series, slots))
    walk = np.zeros(series)
    memory = np.where(kind == 2, 1.0, rng.uniform(0.2, 0.97, series))
    shock = np.where(kind == 2, rng.uniform(0.01, 0.2, series), rng.uniform(0.1, 0.6, series))
    shock = np.where((kind == 1) | (kind == 2), shock, 0.0)
    on = rng.random(series) < 0.3
    switch = rng.uniform(0.02, 0.4, series)
    burst = rng.uniform(1.0, 4.0, series)
    jump = np.zeros(series)
    for slot in range(slots):
        walk = memory * walk + shock * rng.normal(size=series)
        jumps = (kind == 4) & (rng.random(series) < 0.01)
        jump = np.where(jumps, rng.normal(0.0, 1.0, series), jump)
        on ^= rng.random(series) < switch
        log_rate[:, slot] = walk + jump + np.where((kind == 5) & on, burst, 0.0)
    period = np.exp(rng.uniform(np.log(6.0), np.log(200.0), (series, 1)))
    phase = rng.uniform(0.0, 2.0 * np.pi, (series, 1))
    size = np.where(kind == 3, rng.uniform(0.2, 0.95, series), 0.0)[:, None]
    wave = 1.0 + size * np.sin(2.0 * np.pi * np.arange(slots) / period + phase)
    return level * np.exp(np.clip(log_rate, -4.0, 4.0)) * wave


def counts(rng: np.random.Generator, *, series: int) -> tuple[Array, Array]:
    """Histories, shape (series, 64), -1 where unknown, and what came next, shape (series, 16)."""
    total = HISTORY_SLOTS + PATH_SLOTS
    rate = rates(rng, series=series, slots=total)
    spread = np.where(rng.random((series, 1)) < 0.5, 0.0, rng.uniform(0.02, 1.0, (series, 1)))
    noisy = rate * rng.gamma(1.0 / np.maximum(spread, 1e-3), np.maximum(spread, 1e-3), rate.shape)
    seen = rng.poisson(np.where(spread > 0.0, noisy, rate)).astype(np.float64)
    history = seen[:, :HISTORY_SLOTS]
    known = np.where(
        rng.random((series, 1)) < 0.6,
        HISTORY_SLOTS,
        rng.integers(1, HISTORY_SLOTS + 1, (series, 1)),
    )
    unknown = np.arange(HISTORY_SLOTS) < HISTORY_SLOTS - known
    unknown |= (rng.random((series, 1)) < 0.1) & (rng.random(history.shape) < 0.1)
    unknown[:, -1] = False
    return np.where(unknown, -1.0, history), seen[:, HISTORY_SLOTS:]


def forward(history: Any, *, weights: dict[str, Any]) -> Any:
    """The network, as `graph` writes it: paths of shape (series, 16)."""
    mask = (history >= 0.0).float()
    known = torch.clamp(history, min=0.0)
    number = torch.clamp(mask.sum(1, keepdim=True), min=1.0)
    base = known.sum(1, keepdim=True) / number + 0.5
    relative = torch.log((known + 0.5) / base) * mask
    features = torch.cat([relative, torch.log(base), number / HISTORY_SLOTS], 1)
    hidden = torch.relu(features @ weights["w1"] + weights["b1"])
    hidden = torch.relu(hidden @ weights["w2"] + weights["b2"])
    out = torch.clamp(hidden @ weights["w3"] + weights["b3"], -RATIO_LOG_MAX, RATIO_LOG_MAX)
    return torch.clamp(base * torch.exp(out) - 0.5, min=0.0)


def train(*, steps: int, seed: int) -> dict[str, Array]:
    """Weights after so many steps of Adam; one fresh batch of series a step."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sizes = [HISTORY_SLOTS + 2, HIDDEN, HIDDEN, PATH_SLOTS]
    weights: dict[str, Any] = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        scale = (2.0 / fan_in) ** 0.5 * (0.1 if layer == 3 else 1.0)
        weights[f"w{layer}"] = (torch.randn(fan_in, fan_out) * scale).requires_grad_()
        weights[f"b{layer}"] = torch.zeros(fan_out).requires_grad_()
    optimiser = torch.optim.Adam(list(weights.values()), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    recent = 0.0
    for step in range(steps):
        history, coming = (
            torch.tensor(part, dtype=torch.float32) for part in counts(rng, series=BATCH)
        )
        path = forward(history, weights=weights) + 0.01
        size = torch.clamp(history, min=0.0).mean(1, keepdim=True) + coming.mean(1, keepdim=True)
        loss = ((path - coming * torch.log(path)) / (size + 1.0)).mean()
        floor = (coming + 0.01 - coming * torch.log(coming + 0.01)) / (size + 1.0)
        optimiser.zero_grad()
        (loss - floor.mean()).backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimiser.step()
        schedule.step()
        recent = 0.99 * recent + 0.01 * float((loss - floor.mean()).detach())
        if step % 500 == 499:
            print(f"step {step + 1}: excess loss {recent:.4f}", flush=True)  # noqa: T201
    return {name: value.detach().numpy() for name, value in weights.items()}


def graph(weights: dict[str, Array]) -> bytes:
    """The ONNX file: `history` float32 (series, 64) in, `path` float32 (series, 16) out."""
    constants: dict[str, Any] = {
        "zero": 0.0,
        "half": 0.5,
        "one": 1.0,
        "slots": float(HISTORY_SLOTS),
        "low": -RATIO_LOG_MAX,
        "high": RATIO_LOG_MAX,
    }
    values = {name: np.array(value, dtype=np.float32) for name, value in constants.items()}
    values |= {name: np.asarray(value, dtype=np.float32) for name, value in weights.items()}
    values["axis"] = np.array([1], dtype=np.int64)
    nodes = [
        helper.make_node(op, inputs, [output], **attributes)
        for op, inputs, output, attributes in _steps()
    ]
    made = helper.make_graph(
        nodes,
        "demand",
        [helper.make_tensor_value_info("history", TensorProto.FLOAT, ["series", HISTORY_SLOTS])],
        [helper.make_tensor_value_info("path", TensorProto.FLOAT, ["series", PATH_SLOTS])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def _steps() -> list[tuple[str, list[str], str, dict[str, Any]]]:
    """`forward`, operator by operator."""
    keep: dict[str, Any] = {"keepdims": 1}
    plain: dict[str, Any] = {}
    steps = [
        ("GreaterOrEqual", ["history", "zero"], "is_known", plain),
        ("Cast", ["is_known"], "mask", {"to": TensorProto.FLOAT}),
        ("Max", ["history", "zero"], "known", plain),
        ("ReduceSum", ["mask", "axis"], "mask_sum", keep),
        ("Max", ["mask_sum", "one"], "number", plain),
        ("ReduceSum", ["known", "axis"], "known_sum", keep),
        ("Div", ["known_sum", "number"], "mean", plain),
        ("Add", ["mean", "half"], "base", plain),
        ("Add", ["known", "half"], "raised", plain),
        ("Div", ["raised", "base"], "share", plain),
        ("Log", ["share"], "share_log", plain),
        ("Mul", ["share_log", "mask"], "relative", plain),
        ("Log", ["base"], "base_log", plain),
        ("Div", ["number", "slots"], "filled", plain),
        ("Concat", ["relative", "base_log", "filled"], "layer0", {"axis": 1}),
    ]
    for layer in (1, 2, 3):
        steps += [
            ("MatMul", [f"layer{layer - 1}", f"w{layer}"], f"product{layer}", plain),
            ("Add", [f"product{layer}", f"b{layer}"], f"sum{layer}", plain),
        ]
        if layer < 3:
            steps.append(("Relu", [f"sum{layer}"], f"layer{layer}", plain))
    return [
        *steps,
        ("Clip", ["sum3", "low", "high"], "ratio_log", plain),
        ("Exp", ["ratio_log"], "ratio", plain),
        ("Mul", ["base", "ratio"], "scaled", plain),
        ("Sub", ["scaled", "half"], "lowered", plain),
        ("Max", ["lowered", "zero"], "path", plain),
    ]


def main() -> None:
    """Train and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.write_bytes(graph(train(steps=options.steps, seed=options.seed)))


if __name__ == "__main__":
    main()
