"""The shipped task model: how often it is right on real prompts, and how long it takes.

The real prompts are public data beside the repository (see the README): those of eleven public
test sets. Nothing was learned from them. The grammars of the training data were improved on what
the model made of every second prompt, so the others have a figure of their own.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import statistics
import time
from collections.abc import Iterator
from typing import Final

import numpy as np
from rich.console import Console

from coordinator.lab.task_judgement import Judgement, judge
from coordinator.lab.train_classifier import confusion_table
from edge_agent.adapters.classifier import SHIPPED_MODEL, OnnxClassifier
from shared.errors import ConfigError
from shared.task_model import load_task_model
from tests.bench.figures import Figure
from tests.bench.replaying import DATA

ACCURACY_MIN: Final = 0.95
P50_MS_MAX: Final = 0.5
PROMPT_CHARS: Final = 1_000
CALLS: Final = 3_000
THRESHOLD: Final = 0.5  # the configuration's default
CLASSES: Final = ("code", "math", "qa", "summarisation", "translation", "other")

CLASS_OF: Final = {
    "mbpp": "code",
    "gsm8k": "math",
    "bbh/multistep_arithmetic_two": "math",
    "truthful_qa": "qa",
    "hellaswag": "common_sense",
    "winogrande": "common_sense",
    "bbh/causal_judgement": "common_sense",
    "bbh/disambiguation_qa": "common_sense",
    "bbh/sports_understanding": "common_sense",
    "arc_challenge": "multiple_choice",
    "mmlu": "multiple_choice",
    "openbookqa": "multiple_choice",
    "bbh/hyperbaton": "multiple_choice",
    "bbh/movie_recommendation": "multiple_choice",
    "bbh/ruin_names": "multiple_choice",
    "bbh/salient_translation_error_detection": "multiple_choice",
    "bbh/snarks": "multiple_choice",
}
"""A prompt's source to its class; what is not listed, the rest of BBH, is `reasoning`."""


def accuracy() -> list[Figure]:
    """Of the prompts that nobody looked at, and of all; prints which was taken for what.

    Raises
    ------
    ConfigError
        Without the data.
    """
    if not DATA.is_dir():
        raise ConfigError("classifier", f"{DATA} is not there")
    rows = list(_labelled_prompts())
    unseen, everything = _judged(rows[1::2]), _judged(rows)
    Console().print(confusion_table(everything))
    return [
        _figure("of prompts not looked at", unseen, against=_recalls(unseen)),
        _figure("of all prompts", everything, against=_recalls(everything)),
    ]


def duration() -> Figure:
    """Median time to tell the class of a prompt of 1,000 characters."""
    classifier = OnnxClassifier(SHIPPED_MODEL, threshold=THRESHOLD, renamed={})
    asyncio.run(classifier.prepare(CLASSES))
    body = "The committee met again on Monday, and nobody (not even its chair) knew why. " * 20
    took_s = []
    for number in range(CALLS):
        text = f"Please sum up in {number} words: {body}"[:PROMPT_CHARS]
        begun = time.perf_counter()
        guess = classifier.classify(text)
        took_s.append(time.perf_counter() - begun)
        if guess is None:
            raise RuntimeError(f"the classifier does not work: {classifier.problem}")
    p50_ms = statistics.median(took_s) * 1e3
    p99_ms = statistics.quantiles(took_s, n=100)[-1] * 1e3
    return Figure.at_most(
        f"classifier, time of {PROMPT_CHARS:,} characters",
        p50_ms,
        P50_MS_MAX,
        unit="ms, p50",
        against=f"p99 {p99_ms:.2f} ms",
        digits=3,
    )


def _labelled_prompts() -> Iterator[tuple[str, str]]:
    with gzip.open(DATA / "prompts.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["prompt"], CLASS_OF.get(row["source"], "reasoning")


def _judged(rows: list[tuple[str, str]]) -> Judgement:
    model = load_task_model(SHIPPED_MODEL.read_bytes(), source=str(SHIPPED_MODEL))
    found = np.stack([model.probabilities(text) for text, _ in rows]).astype(np.float64)
    return judge(found, [label for _, label in rows], classes=model.classes)


def _recalls(judged: Judgement) -> str:
    """Each class's recall, and what the default threshold keeps."""
    kept = next(at for at in judged.thresholds if at.threshold == THRESHOLD)
    recalls = ", ".join(
        f"{name} {each.recall:.3f}"
        for name, each in judged.classes.items()
        if each.recall is not None
    )
    return (
        f"{judged.rows:,} prompts: {recalls}; from confidence {THRESHOLD:g} on "
        f"{kept.accuracy:.3f} of {kept.coverage:.3f}"
    )


def _figure(what: str, judged: Judgement, *, against: str) -> Figure:
    return Figure.at_least(
        f"classifier, {what}",
        judged.accuracy,
        ACCURACY_MIN,
        unit="right",
        against=against,
        digits=4,
    )
