"""Measure the demo models on held-out tasks, through their own chat template.

Example: ``python deploy/demo/models/evaluate.py --samples 200``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import chat
import llama_cpp
import tasks

MODEL_NAMES = ("tiny", "small", "large")


@dataclass(frozen=True)
class Result:
    """What was measured of one model.

    Attributes
    ----------
    model : str
        The name of the model.
    parameters : int
        The number of parameters.
    file_bytes : int
        The size of the file.
    median_ms : float
        The median time of one answer.
    accuracy : dict[str, float]
        The share of right answers for each task class.
    class_median_ms : dict[str, float]
        The median time of one answer for each task class.
    """

    model: str
    parameters: int
    file_bytes: int
    median_ms: float
    accuracy: dict[str, float]
    class_median_ms: dict[str, float]


def evaluate(path: Path, samples: int, seed: int, threads: int) -> Result:
    """Measure one GGUF file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    samples : int
        Tasks in each class.
    seed : int
        The seed of the tasks.
    threads : int
        Threads of llama.cpp.

    Returns
    -------
    Result
        The measurements.
    """
    llama = chat.load(str(path), threads)
    accuracy: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    for name in tasks.TASK_CLASSES:
        grades, times[name] = [], []
        for task in tasks.held_out_tasks(name, samples, seed):
            started = time.perf_counter()
            text = chat.ask(llama, task.prompt)
            times[name].append(1000.0 * (time.perf_counter() - started))
            grades.append(tasks.grade(task, text))
        accuracy[name] = statistics.fmean(grades)
    result = Result(
        model=path.stem,
        parameters=int(llama_cpp.llama_model_n_params(llama.model)),
        file_bytes=path.stat().st_size,
        median_ms=statistics.median(value for part in times.values() for value in part),
        accuracy=accuracy,
        class_median_ms={name: statistics.median(part) for name, part in times.items()},
    )
    llama.close()
    return result


def as_table(results: Sequence[Result]) -> str:
    """Write the results as a Markdown table.

    Parameters
    ----------
    results : Sequence[Result]
        The measurements, one model each.

    Returns
    -------
    str
        The table.
    """
    head = ["model", "parameters", "file", *tasks.TASK_CLASSES, "median ms"]
    rows = [head, ["---", *(["---:"] * (len(head) - 1))]]
    for result in results:
        size = f"{result.file_bytes / 1e6:.2f} MB"
        shares = [f"{result.accuracy[name]:.3f}" for name in tasks.TASK_CLASSES]
        rows.append(
            [result.model, f"{result.parameters:,}", size, *shares, f"{result.median_ms:.1f}"]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    arguments : Sequence[str] or None
        The arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(description="Measure the demo models on held-out tasks.")
    parser.add_argument("--samples", type=int, default=200, help="tasks in each class")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--seed", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    results = [
        evaluate(options.folder / f"{name}.gguf", options.samples, options.seed, options.threads)
        for name in MODEL_NAMES
    ]
    if options.format == "json":
        print(json.dumps([asdict(result) for result in results], indent=2))
    else:
        print(as_table(results))


if __name__ == "__main__":
    main()
