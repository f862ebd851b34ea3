"""`tidegate-agent doctor`: what is well on this device, what is not, and what helps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from edge_agent.adapters.doctor import Finding, Verdict, answers, examine, model_check
from edge_agent.adapters.model_library import LibraryError
from edge_agent.adapters.model_library.origin import read_origin
from edge_agent.adapters.model_library.pull import verify
from edge_agent.adapters.sensors import SystemSensors
from edge_agent.cli.options import ConfigFile
from edge_agent.cli.output import Format, OutputFormat, console, show_json
from edge_agent.cli.parts import link_target, local_models, new_classifier
from edge_agent.cli.progress import showing
from edge_agent.config import AgentConfig, ModelConfig, load
from shared import logs
from shared.clock import SystemClock

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def doctor(
    config: ConfigFile = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every model as a whole, and let each answer.")
    ] = False,
    output: Format = OutputFormat.TABLE,
) -> None:
    """Look at everything that this device needs: each with a verdict and a remedy.

    Nothing is changed, and no request is sent to a paid endpoint: a connection is opened and
    closed again. Exits with 1 if anything fails; warnings are no failure.
    """
    settings = load(config)
    there = settings.state_dir if settings.state_dir.is_dir() else Path.cwd()
    findings = asyncio.run(
        examine(
            settings,
            models=local_models(settings),
            target=link_target(settings),
            classifier=new_classifier(settings),
            sensors=SystemSensors(state_dir=there),
            clock=SystemClock(),
            environ=os.environ,
        )
    )
    if deep:
        logs.configure(format_="console", level="error")  # what does not load is a finding
        findings += _deep(settings, seen=findings, output=output)
    worst = max((finding.verdict for finding in findings), key=list(Verdict).index)
    if output is OutputFormat.JSON:
        show_json({"verdict": worst, "findings": [vars(finding) for finding in findings]})
    else:
        console().print(_table(findings))
    raise typer.Exit(1 if worst is Verdict.FAIL else 0)


def _deep(settings: AgentConfig, *, seen: Sequence[Finding], output: OutputFormat) -> list[Finding]:
    """Every model file read as a whole, then let answer; what is broken is told once."""
    broken = {finding.check for finding in seen if finding.verdict is Verdict.FAIL}
    sound = [
        (placed, model)
        for placed, model in zip(settings.placed_models, local_models(settings), strict=True)
        if model_check(model.arm) not in broken
    ]
    checksums = [_checksum(placed, output=output) for placed, _ in sound]
    return checksums + [
        asyncio.run(answers(model, clock=SystemClock()))
        for (_, model), checksum in zip(sound, checksums, strict=True)
        if checksum.verdict is not Verdict.FAIL
    ]


def _checksum(model: ModelConfig, *, output: OutputFormat) -> Finding:
    name = f"checksum {model.arm}"
    try:
        origin = read_origin(Path(model.path))
        expected = model.sha256 or (origin.sha256 if origin else "")
        with showing(output) as progress:
            found = verify(Path(model.path), sha256=expected, progress=progress)
    except LibraryError as error:
        return Finding(name, Verdict.FAIL, str(error), "fetch it again")
    says = f"sha256 {found[:12]}..." + ("" if expected else ", with nothing to compare")
    return Finding(name, Verdict.OK, says)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "CHECK", "FOUND"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        found = Text(finding.says)
        if finding.remedy and finding.verdict is not Verdict.OK:
            found.append(f"\n-> {finding.remedy}", style="bold")
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        table.add_row(verdict, Text(finding.check), found)
    return table
