"""`tidegate-agent bench`: how fast this device runs its models."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edge_agent.adapters.llama_cpp.supervisor import LlamaWorker
from edge_agent.adapters.model_bench import Measured, measure, save_results
from edge_agent.adapters.sensors import SystemSensors
from edge_agent.adapters.sqlite_books_file import lock
from edge_agent.cli.options import ConfigFile
from edge_agent.cli.output import (
    NONE,
    Format,
    OutputFormat,
    console,
    show_json,
    table,
)
from edge_agent.cli.parts import local_models
from edge_agent.config import AgentConfig, load
from edge_agent.ports import ArmFailed, LocalModel
from shared.clock import SystemClock
from shared.errors import ConfigError, NotFoundError, StoreError


def bench(
    arms: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARM]...", help="Arms of the configuration; none means all."),
    ] = None,
    config: ConfigFile = None,
    sequences: Annotated[
        str,
        typer.Option(help="How many answers at once, such as 1,2,4; default: up to the model's."),
    ] = "",
    prompt_tokens: Annotated[int, typer.Option(min=16, help="Length of the prompts read.")] = 256,
    answer_tokens: Annotated[int, typer.Option(min=8, help="Length of the answers.")] = 64,
    save: Annotated[
        bool, typer.Option(help="Keep the result and tell the coordinator with the next session.")
    ] = True,
    beside: Annotated[
        bool, typer.Option("--beside", help="Measure while the agent runs; the figures suffer.")
    ] = False,
    output: Format = OutputFormat.TABLE,
) -> None:
    """Measure how fast each model reads prompts and writes answers, and what the board draws.

    The models run in the worker that answers requests. The result is kept in the state folder and
    becomes the coordinator's idea of this device's speed until there are answers to learn from.
    """
    settings = load(config)
    models = _chosen(settings, arms or [])
    clock = SystemClock()
    sensors_dir = settings.state_dir if settings.state_dir.is_dir() else Path.cwd()
    with _alone(settings, beside=beside), _telling(output) as told:
        found, problems = asyncio.run(
            _measure_all(
                models,
                settings=settings,
                wanted=sequences,
                prompt_tokens=prompt_tokens,
                answer_tokens=answer_tokens,
                sensors=SystemSensors(state_dir=sensors_dir),
                clock=clock,
                told=told,
            )
        )
    if save and found:
        save_results(settings.state_dir, found, unix_ms=clock.unix_ms())
    _show([measured for _, measured in found], problems, output=output)
    raise typer.Exit(1 if problems else 0)


async def _measure_all(
    models: Sequence[LocalModel],
    *,
    settings: AgentConfig,
    wanted: str,
    prompt_tokens: int,
    answer_tokens: int,
    sensors: SystemSensors,
    clock: SystemClock,
    told: Callable[[str], None],
) -> tuple[list[tuple[LocalModel, Measured]], dict[str, str]]:
    """Measure one model after the other, each in a worker of its own."""
    found: list[tuple[LocalModel, Measured]] = []
    problems: dict[str, str] = {}
    for model in models:
        worker = LlamaWorker(
            models=[model],
            clock=clock,
            memory_bytes_max=settings.worker.memory_bytes_max or None,
            hang_timeout_s=settings.worker.hang_timeout.total_seconds(),
        )
        await worker.start()
        try:
            measured = await measure(
                worker,
                arm=model.arm,
                sequences=_counts(wanted, most=model.batch_sequences),
                prompt_tokens=min(prompt_tokens, model.context_tokens // 2),
                answer_tokens=min(answer_tokens, model.context_tokens // 4),
                sensors=sensors,
                told=told,
            )
            found.append((model, measured))
        except ArmFailed as error:
            problems[model.arm] = str(error)
        finally:
            await worker.stop()
    return found, problems


def _counts(wanted: str, *, most: int) -> list[int]:
    """How many answers at once: as asked for, else doubling up to the model's own number."""
    if not wanted:
        doubling = [2**power for power in range(most.bit_length()) if 2**power < most]
        return sorted({1, *doubling, most})
    try:
        counts = sorted({int(part) for part in wanted.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1 or counts[-1] > most:
        raise ConfigError(
            "--sequences", f"should be numbers from 1 to the model's {most}, not {wanted!r}"
        )
    return sorted({1, *counts})


def _chosen(settings: AgentConfig, arms: Sequence[str]) -> list[LocalModel]:
    models = local_models(settings)
    known = {model.arm: model for model in models}
    unknown = [arm for arm in arms if arm not in known]
    if unknown or not models:
        names = ", ".join(known) or "none"
        what = f"no model for the arm {unknown[0]!r}" if unknown else "no model"
        raise NotFoundError(f"{what} is configured; known: {names}")
    return [known[arm] for arm in arms] if arms else models


@contextlib.contextmanager
def _alone(settings: AgentConfig, *, beside: bool) -> Iterator[None]:
    """Keep the agent from starting meanwhile, by the lock of its books."""
    if beside or not settings.state_dir.is_dir():
        yield
        return
    try:
        held = lock(settings.books_path)
    except StoreError as error:
        if not isinstance(error.__cause__, BlockingIOError):
            raise
        raise ConfigError(
            "", "the agent is running here and would share the processor: stop it, or say --beside"
        ) from None
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def _telling(output: OutputFormat) -> Iterator[Callable[[str], None]]:
    """Say what happens on a terminal; nothing elsewhere, and nothing beside JSON."""
    if output is OutputFormat.JSON or not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("starting") as status:
        yield status.update


def _show(measured: Sequence[Measured], problems: dict[str, str], *, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        show_json({"models": [_plain(each) for each in measured], "problems": problems})
        return
    rows = [row for each in measured for row in _rows(each)]
    columns = ["ARM", "PROMPT T/S", "AT ONCE", "ANSWER T/S", "WATTS", "J/TOKEN", "LOAD MS"]
    if rows:
        console().print(table(columns, rows, right=columns[1:]))
    for arm, problem in problems.items():
        typer.echo(f"{arm}: {problem}", err=True)


def _rows(each: Measured) -> Iterator[list[str]]:
    """A line for each number of answers at once; one for a model that writes none."""
    head, load = [each.arm, f"{each.prompt_tokens_per_s:.0f}"], f"{each.load_ms:.0f}"
    if not each.batches:
        yield [*head, NONE, NONE, NONE, NONE, load]
    for batch in each.batches:
        watts = batch.power_watts
        yield [
            *head,
            str(batch.sequences),
            f"{batch.tokens_per_s:.1f}",
            f"{watts:.1f}" if watts else NONE,
            f"{watts / batch.tokens_per_s:.2f}" if watts else NONE,
            load,
        ]
        head, load = ["", ""], ""


def _plain(each: Measured) -> dict[str, Any]:
    return {
        "arm": each.arm,
        "load_ms": each.load_ms,
        "prompt": {"tokens": each.prompt_tokens, "tokens_per_s": each.prompt_tokens_per_s},
        "generation": [
            {
                "sequences": batch.sequences,
                "tokens_per_s": batch.tokens_per_s,
                "power_watts": batch.power_watts,
                "joules_per_token": batch.power_watts / batch.tokens_per_s
                if batch.power_watts
                else None,
            }
            for batch in each.batches
        ],
    }
