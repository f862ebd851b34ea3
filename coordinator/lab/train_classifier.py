"""`tidegate-lab train-classifier`: a task model of one's own, for the agents' [classifier]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from coordinator.lab.labelled_texts import LabelledTexts, fold_of_each, read_labelled
from coordinator.lab.output import (
    Format,
    FormatOption,
    SeedOption,
    make_table,
    percent,
    progress,
    show,
)
from coordinator.lab.task_export import to_onnx
from coordinator.lab.task_judgement import Judgement, judge
from coordinator.lab.task_training import FITS, Trained, train
from shared.errors import ConfigError
from shared.features import FeatureSettings
from shared.task_model import TaskModel, load_task_model

HOLDOUT_MAX: Final = 0.5


def command(
    labelled: Annotated[
        Path, typer.Argument(help="CSV file, gzipped or not, of texts and their task classes.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")],
    text_column: Annotated[str, typer.Option(help="Column with the text.")] = "text",
    label_column: Annotated[
        str, typer.Option(help="Column with the task class, named as in the fleet file.")
    ] = "label",
    group_column: Annotated[
        str,
        typer.Option(
            help="Column whose equal rows are never parted: one for learning, its like for judging "
            "would flatter the model. For example the conversation, or the template."
        ),
    ] = "",
    holdout: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=HOLDOUT_MAX,
            help="Share of rows to judge by; 0: learn from all, no report.",
        ),
    ] = 0.2,
    seed: SeedOption = 1,
    format_: FormatOption = Format.TABLE,
) -> None:
    """Train a task model on your own requests and judge it on rows held out.

    The file's classes are the labels; `other` may be one of them. A text is what the agent would
    see: the head of the system message, if there is one, an empty line, and the last message of
    the user. The file that is written is the very model that was judged. Put its path into the
    agent's file, as `path` of its table `classifier`.
    """
    rows = read_labelled(
        labelled, text_column=text_column, label_column=label_column, group_column=group_column
    )
    _check_writable(out)
    rng = np.random.default_rng(seed)
    learn, held = _split(rows, holdout=holdout, rng=rng)
    with progress("training", total=FITS) as advance:
        trained = train(
            learn, classes=rows.classes, settings=FeatureSettings(), rng=rng, advance=advance
        )
    data = to_onnx(trained)
    # The judge sees what a device will see: the written file, run by onnxruntime.
    model = load_task_model(data, source=str(out))
    judged = _judge(model, held) if held.texts else None
    _write(out, data)
    if format_ is Format.TABLE and judged is not None:
        for table in (_class_table(judged), confusion_table(judged), _threshold_table(judged)):
            Console().print(table)
    show(
        _payload(out, data=data, trained=trained, rows=rows, learn=learn, judged=judged),
        format_=format_,
        table=_summary_table(out, data=data, trained=trained, learn=learn, judged=judged),
    )


def _check_writable(out: Path) -> None:
    """Before minutes of work are spent on what goes there."""
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError("--out", f"{out}: name a file in a folder that exists")


def _split(
    rows: LabelledTexts, *, holdout: float, rng: np.random.Generator
) -> tuple[LabelledTexts, LabelledTexts]:
    """The rows to learn from and those to judge by."""
    parts = round(1.0 / holdout) if holdout > 0.0 else 0
    fold = fold_of_each(rows.labels, rows.groups, folds=max(parts, 1), rng=rng)
    held = fold == 0 if parts else np.zeros(len(rows.texts), np.bool_)
    return _part(rows, np.flatnonzero(~held)), _part(rows, np.flatnonzero(held))


def _part(rows: LabelledTexts, at: Sequence[int] | Any) -> LabelledTexts:
    return LabelledTexts(
        tuple(rows.texts[row] for row in at),
        tuple(rows.labels[row] for row in at),
        tuple(rows.groups[row] for row in at),
    )


def _judge(model: TaskModel, held: LabelledTexts) -> Judgement:
    found = np.stack([model.probabilities(text) for text in held.texts]).astype(np.float64)
    return judge(found, held.labels, classes=model.classes)


def _write(out: Path, data: bytes) -> None:
    """Whole or not at all."""
    draft = out.with_name(f".{out.name}.new")
    try:
        draft.write_bytes(data)
        draft.replace(out)
    except OSError as error:
        raise ConfigError("--out", f"{out} cannot be written: {error.strerror}") from error


def _payload(
    out: Path,
    *,
    data: bytes,
    trained: Trained,
    rows: LabelledTexts,
    learn: LabelledTexts,
    judged: Judgement | None,
) -> Mapping[str, Any]:
    return {
        "file": str(out),
        "bytes": len(data),
        "classes": list(trained.classes),
        "rows_learned": len(learn.texts),
        "rows_repeated": rows.repeated,
        "temperature": trained.model.temperature,
        "holdout": judged.to_json() if judged else None,
    }


def _summary_table(
    out: Path, *, data: bytes, trained: Trained, learn: LabelledTexts, judged: Judgement | None
) -> Table:
    figures = [
        ("file", f"{out}, {len(data):,} bytes"),
        ("classes", len(trained.classes)),
        ("rows learned from", len(learn.texts)),
        ("temperature", f"{trained.model.temperature:.2f}"),
    ]
    if judged is not None:
        figures += [
            ("rows held out", judged.rows),
            ("accuracy", percent(judged.accuracy)),
            ("mean recall of the classes", percent(judged.balanced_accuracy)),
            ("confidence is off by", percent(judged.calibration_error)),
        ]
    return make_table("task model", columns=["", "value"], rows=figures)


def _class_table(judged: Judgement) -> Table:
    return make_table(
        "by class, of the rows held out",
        columns=["class", "rows", "precision", "recall"],
        rows=[
            (name, each.rows, _percent(each.precision), _percent(each.recall))
            for name, each in judged.classes.items()
        ],
    )


def confusion_table(judged: Judgement) -> Table:
    """Numbered and in percent, so that many classes fit a terminal."""
    names = list(judged.classes)
    shares = judged.confusion / np.maximum(judged.confusion.sum(axis=1, keepdims=True), 1)
    table = make_table(
        "of 100 rows of a class (down), how many were taken for which (across)",
        columns=["class", *(str(at) for at in range(1, len(names) + 1))],
        rows=[
            (f"{at} {name}", *(f"{100 * share:.0f}" if share else "" for share in row))
            for at, (name, row) in enumerate(zip(names, shares, strict=True), start=1)
        ],
    )
    table.box, table.padding = None, (0, 0, 0, 1)
    for column in table.columns:
        column.no_wrap = True
    return table


def _threshold_table(judged: Judgement) -> Table:
    return make_table(
        "what a threshold keeps, and how much of that is right",
        columns=["threshold", "kept", "right"],
        rows=[
            (f"{at.threshold:.2f}", percent(at.coverage), _percent(at.accuracy))
            for at in judged.thresholds
        ],
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else percent(share)
