"""A trained demand model by its path: the programme loads it, the fleet's file may ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.config import check, load
from coordinator.daemon import demand_model
from coordinator.engine import CoordinatorEngine
from coordinator.fleet_config import FleetConfigError
from coordinator.records import StoreSnapshot
from coordinator.sessions import Reaction
from shared.errors import ConfigError
from tests.fakes.memory_store import MemoryStore
from tests.fakes.samples import fleet_toml

MODEL = Path(__file__).parents[3] / "coordinator" / "forecast" / "models" / "demand.onnx"
FLEET = fleet_toml().replace("[policy]\n", '[policy]\nforecaster = "onnx"\n')


def settings_with(path: Path | str, folder: Path) -> Path:
    """A coordinator's file that names a model."""
    file = folder / "coordinator.toml"
    file.write_text(f'[forecast]\nonnx_model = "{path}"\n')
    return file


def test_the_shipped_model_forecasts_and_survives_a_restart(tmp_path: Path) -> None:
    """The fleet's forecaster `onnx` runs it, also in the next process."""
    model = demand_model(load(settings_with(MODEL, tmp_path)))
    store = MemoryStore()
    store.open()
    engine = CoordinatorEngine(StoreSnapshot(), demand_model=model)
    _, reaction = engine.apply_config(FLEET, actor="op", unix_ms=100_000, dry_run=False)
    store.commit(reaction.effects)
    for now in range(110_000, 200_000, 10_000):
        reaction = engine.tick(unix_ms=now)
        store.commit(reaction.effects)
    again = CoordinatorEngine(store.load(), demand_model=model)
    assert engine.planner is not None
    assert again.planner is not None
    assert engine.planner.to_payload() == again.planner.to_payload()
    assert "onnx" == engine.planner.forecaster_of(engine.planner.contexts[0])
    assert isinstance(reaction, Reaction)


def test_a_fleet_that_wants_a_model_is_told_where_to_put_it() -> None:
    """Without one, `apply` is refused by key."""
    with pytest.raises(FleetConfigError, match=r"policy\.forecaster.*forecast\.onnx_model"):
        CoordinatorEngine(StoreSnapshot()).apply_config(
            FLEET, actor="op", unix_ms=100_000, dry_run=False
        )


def test_a_model_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    """By `--check` as well as at the start."""
    missing = load(settings_with(tmp_path / "none.onnx", tmp_path))
    assert ["forecast.onnx_model"] == [problem.key for problem in check(missing)]
    with pytest.raises(ConfigError, match=r"none\.onnx"):
        demand_model(missing)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"broken\.onnx"):
        demand_model(load(settings_with(broken, tmp_path)))
