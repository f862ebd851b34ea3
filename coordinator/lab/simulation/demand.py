"""How many requests come in every slot, per context: drawn once, before the world starts."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.lab.simulation.schema import Scenario
from coordinator.policy.base import FloatArray, IntArray
from shared.errors import ConfigError

Context = tuple[str, str]
"""Device class and task class."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Demand:
    """Requests of a run.

    Attributes
    ----------
    contexts : tuple of (device class, task class), length X
        Those that have any requests.
    mean : ndarray, shape (slots, X)
        Expected counts, changes of demand included.
    counts : ndarray of int, shape (slots, X)
        What comes.
    """

    contexts: tuple[Context, ...]
    mean: FloatArray
    counts: IntArray


def contexts_of(scenario: Scenario) -> tuple[Context, ...]:
    """The contexts that have any requests, sorted."""
    return tuple(
        (device, task)
        for device in sorted(scenario.device_classes)
        for task in sorted(scenario.task_classes)
        if scenario.task_classes[task].requests.get(device, 0.0) > 0.0
    )


def make_demand(scenario: Scenario, *, windows: int, seed: int, folder: Path | None) -> Demand:
    """Draw the counts of a run; events of demand change the last window.

    Parameters
    ----------
    windows : int
        How many windows the run has.
    folder : Path or None
        Where a trace's file name starts from.

    Raises
    ------
    ConfigError
        When a trace cannot be read.
    """
    rng = np.random.default_rng([seed, 1])
    contexts, slots = contexts_of(scenario), scenario.slots * windows
    rates = np.array([scenario.task_classes[task].requests[device] for device, task in contexts])
    factor = _factor(scenario, slots=slots, rng=rng, folder=folder)
    mean = factor[:, None] * rates[None, :]
    first = slots - scenario.slots
    for event in scenario.events:
        if event.kind != "demand":
            continue
        end = slots if event.until_slot is None else first + event.until_slot
        for column, (device, task) in enumerate(contexts):
            if event.device_class in ("", device) and event.task_class in ("", task):
                mean[first + event.at_slot : end, column] *= event.factor
    return Demand(contexts=contexts, mean=mean, counts=rng.poisson(mean).astype(np.int64))


def _factor(
    scenario: Scenario, *, slots: int, rng: np.random.Generator, folder: Path | None
) -> FloatArray:
    """The fleet's common factor in every slot, shape (slots,), around 1."""
    demand = scenario.demand
    at = np.arange(slots, dtype=np.float64)
    if demand.kind == "seasonal":
        turn = 2.0 * np.pi * (at / demand.period_slots + demand.phase)
        return np.asarray(1.0 + demand.amplitude * np.sin(turn), dtype=np.float64)
    if demand.kind == "ar1":
        factor, level = np.ones(slots), 1.0
        for slot, noise in enumerate(rng.normal(0.0, demand.spread, slots)):
            level = 1.0 + demand.phi * (level - 1.0) + float(noise)
            factor[slot] = max(0.0, level)
        return factor
    if demand.kind == "trace":
        trace = _trace((folder or Path()) / demand.file, column=demand.column)
        return np.resize(trace / trace.mean(), slots)
    return np.ones(slots)


def _trace(path: Path, *, column: str) -> FloatArray:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            values = np.array([float(row[column]) for row in csv.DictReader(lines)])
    except OSError as error:
        raise ConfigError("demand.file", f"{path} cannot be read: {error.strerror}") from error
    except KeyError:
        raise ConfigError("demand.column", f"{path} has no column {column!r}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError("demand.file", f"{path}: {error}") from error
    if values.size == 0 or values.min() < 0.0 or values.sum() <= 0.0:
        raise ConfigError("demand.file", f"{path}: {column} needs counts, at least one above 0")
    return values
