"""The last measurement of each arm, kept in the state folder and told to the coordinator."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

from edge_agent.adapters.model_bench.measure import Measured
from edge_agent.adapters.whole_file import write_whole
from edge_agent.ports import LocalModel
from shared.decision.types import ArmSpeed

log = structlog.get_logger(__name__)
FILE: Final = "bench.json"


def save_results(
    state_dir: Path,
    measured: Iterable[tuple[LocalModel, Measured]],
    *,
    unix_ms: int,
) -> dict[str, Any]:
    """Keep measurements beside those of other arms; everything that is known by now."""
    results = load_results(state_dir)
    for model, each in measured:
        results[each.arm] = {
            "unix_ms": unix_ms,
            "model": _fingerprint(model),
            "load_ms": each.load_ms,
            "prompt": {
                "tokens": each.prompt_tokens,
                "tokens_per_s": each.prompt_tokens_per_s,
            },
            "generation": [asdict(batch) for batch in each.batches],
        }
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(state_dir / FILE, json.dumps(results, indent=2) + "\n")
    return results


def load_results(state_dir: Path) -> dict[str, Any]:
    """Everything that was measured, by arm; empty where nothing can be read."""
    path = state_dir / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("bench_results_unreadable", path=str(path), problem=str(error))
        return {}
    return found if isinstance(found, dict) else {}


def known_speeds(state_dir: Path, models: Sequence[LocalModel]) -> tuple[ArmSpeed, ...]:
    """The speeds of those models that are still as they were measured."""
    results, speeds = load_results(state_dir), []
    for model in models:
        result = results.get(model.arm)
        try:
            if result is None or result["model"] != _fingerprint(model):
                continue
            if not result["generation"]:
                continue  # it makes embeddings: no answer could be timed
            prompt, single = result["prompt"], result["generation"][0]
            speeds.append(
                ArmSpeed(model.arm, float(prompt["tokens_per_s"]), float(single["tokens_per_s"]))
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            log.warning("bench_result_unusable", arm=model.arm, problem=repr(error))
    return tuple(speeds)


def _fingerprint(model: LocalModel) -> dict[str, Any]:
    """What a measurement is of: the file, and the settings that it was run with."""
    try:
        found = Path(model.path).stat()
    except OSError:
        return {}
    return {**asdict(model), "file_bytes": found.st_size, "modified_ns": found.st_mtime_ns}
