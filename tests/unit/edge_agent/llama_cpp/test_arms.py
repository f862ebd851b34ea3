"""What the agent knows of its local arms."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_agent.adapters.llama_cpp.arms import CRASHES_WHILE_LOADING_MAX, ArmCondition, ArmTable
from edge_agent.ports import LocalModel, ModelState
from shared.errors import ConfigError
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY


def _table(path: Path, *, slots: int = 2) -> tuple[ArmTable, ArmCondition]:
    models = [LocalModel(arm="a", path=str(path), batch_sequences=slots)]
    table = ArmTable(models, monotonic_ms=lambda: 1_000.0)
    table.check_files()
    known = table.get("a")
    assert known is not None
    return table, known


def _says(state: ModelState, problem: str = "", load_ms: float = 0.0) -> dict[str, object]:
    return {"op": "model", "arm": "a", "state": state, "problem": problem, "load_ms": load_ms}


def test_a_missing_file_is_broken_until_it_appears(tmp_path: Path) -> None:
    """The agent need not be restarted after a download."""
    path = tmp_path / "m.gguf"
    table, known = _table(path)
    assert ModelState.BROKEN is known.state
    assert str(path) in known.problem
    shutil.copy(TINY, path)
    table.check_files()
    assert (ModelState.LOADABLE, "") == (known.state, known.problem)


def test_a_file_that_does_not_load_stays_broken_until_it_is_replaced(tmp_path: Path) -> None:
    """It is not tried again and again."""
    path = Path(shutil.copy(TINY, tmp_path / "m.gguf"))
    table, known = _table(path)
    table.apply(_says(ModelState.BROKEN, "download it again"))
    table.check_files()
    assert (ModelState.BROKEN, "download it again") == (known.state, known.problem)
    path.write_bytes(TINY.read_bytes() + b"\x00")
    table.check_files()
    assert ModelState.LOADABLE is known.state


def test_a_model_that_keeps_ending_the_worker_is_broken() -> None:
    """One bad file must not take all models down in a loop."""
    table, known = _table(TINY)
    for _ in range(CRASHES_WHILE_LOADING_MAX):
        assert ModelState.LOADABLE is known.state
        table.apply(_says(ModelState.LOADING))
        table.worker_ended(crashed=True)
    assert ModelState.BROKEN is known.state
    assert "replace the file" in known.problem


def test_a_successful_load_forgives_earlier_crashes() -> None:
    """They had another cause."""
    table, known = _table(TINY)
    for _ in range(2 * CRASHES_WHILE_LOADING_MAX):
        table.apply(_says(ModelState.LOADING))
        table.worker_ended(crashed=True)
        table.apply(_says(ModelState.LOADED))
        table.worker_ended(crashed=True)
    assert ModelState.LOADABLE is known.state


def test_the_queue_is_empty_while_a_slot_is_free() -> None:
    """A request that came now would start at once."""
    table, known = _table(TINY)
    table.apply(_says(ModelState.LOADED))
    table.measured(known, 400.0)
    known.running = 1
    assert 0.0 == known.queue_ms


@pytest.mark.parametrize(("running", "queue_ms"), [(2, 200.0), (3, 400.0), (5, 800.0)])
def test_the_queue_grows_with_what_is_ahead(running: int, queue_ms: float) -> None:
    """Two slots that take 400 ms each free one every 200 ms."""
    table, known = _table(TINY)
    table.apply(_says(ModelState.LOADED))
    table.measured(known, 400.0)
    known.running = running
    assert queue_ms == known.queue_ms


def test_the_service_time_follows_what_is_measured() -> None:
    """A device that becomes slow is noticed within a few answers."""
    table, known = _table(TINY)
    table.measured(known, 100.0)
    for _ in range(20):
        table.measured(known, 1_000.0)
    assert known.service_ms == pytest.approx(1_000.0, rel=0.02)


def test_a_model_that_must_be_loaded_first_makes_requests_wait() -> None:
    """As long as its last load took."""
    table, known = _table(TINY)
    assert 0.0 < known.queue_ms < 10.0
    table.apply(_says(ModelState.LOADED, load_ms=700.0))
    assert 0.0 == known.queue_ms
    table.apply(_says(ModelState.LOADABLE))
    assert 700.0 == known.queue_ms


def test_a_load_is_late_only_after_what_a_slow_disk_takes() -> None:
    """Patience grows with the file."""
    known = ArmCondition(LocalModel(arm="a", path="x"), file_bytes=200_000_000)
    assert not known.load_is_late(now_ms=10**9, patience_ms=1_000.0)
    known.state, known.loading_since_ms = ModelState.LOADING, 500.0
    assert not known.load_is_late(now_ms=500.0 + 11_000.0, patience_ms=1_000.0)
    assert known.load_is_late(now_ms=500.0 + 11_001.0, patience_ms=1_000.0)


def test_an_arm_is_configured_once_and_with_room() -> None:
    """A wrong configuration is found at the start."""
    model = LocalModel(arm="a", path="x")
    with pytest.raises(ConfigError, match="same arm"):
        ArmTable([model, model], monotonic_ms=lambda: 0.0)
    with pytest.raises(ConfigError, match="batch_sequences 0"):
        ArmTable([LocalModel(arm="a", path="x", batch_sequences=0)], monotonic_ms=lambda: 0.0)
