"""The task model that ships with the agent, on prompts that a person wrote."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest

from coordinator.lab.task_judgement import Judgement, judge
from edge_agent.adapters.classifier import SHIPPED_MODEL
from shared.task_model import TaskModel, load_task_model

BY_HAND = Path(__file__).parent / "prompts_by_hand.csv"


@pytest.fixture(scope="module")
def model() -> TaskModel:
    """The shipped model."""
    return load_task_model(SHIPPED_MODEL.read_bytes(), source=str(SHIPPED_MODEL))


@pytest.fixture(scope="module")
def judged(model: TaskModel) -> Judgement:
    """What it makes of the prompts by hand."""
    import numpy as np

    with BY_HAND.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = np.stack([model.probabilities(row["text"]) for row in rows]).astype(np.float64)
    return judge(found, [row["label"] for row in rows], classes=model.classes)


def test_nine_in_ten_prompts_by_hand_are_told_right(judged: Judgement) -> None:
    """And no class is a lost cause."""
    assert judged.rows >= 300
    assert judged.accuracy >= 0.9
    assert {} == {
        name: each.recall
        for name, each in judged.classes.items()
        if each.recall is None or each.recall < 0.8
    }


def test_what_passes_the_default_threshold_is_mostly_right(judged: Judgement) -> None:
    """Nine tenths pass, and of those few are wrong."""
    kept = next(at for at in judged.thresholds if at.threshold == 0.5)
    assert kept.coverage >= 0.9
    assert kept.accuracy is not None
    assert kept.accuracy >= 0.93


def test_the_configuration_s_example_names_its_classes(model: TaskModel) -> None:
    """All but `other`, which every fleet has."""
    example = (SHIPPED_MODEL.parents[1] / "config.example.toml").read_text(encoding="utf-8")
    prose = " ".join(example.replace("#", " ").split())
    named = prose.split("ships with the agent knows ", 1)[1].split(";", 1)[0]
    assert sorted(set(model.classes) - {"other"}) == named.replace(" and ", ", ").split(", ")


def test_the_file_is_small() -> None:
    """Devices have little room."""
    assert SHIPPED_MODEL.stat().st_size < 1_000_000


def test_instructions_decide_wherever_they_stand(model: TaskModel) -> None:
    """Before a long text, after it, and in the system message."""
    text = "The council met on Monday. It spoke about the bridge, the school and the budget. " * 40
    found = defaultdict(list)
    for prompt in (
        f"Summarise the following text in two sentences.\n\n{text}",
        f"{text}\n\nSummarise the text above in two sentences.",
        f"You are a helpful assistant.\n\nSummarise this:\n\n{text}",
    ):
        found[model.classes[model.probabilities(prompt).argmax()]].append(prompt[:40])
    assert ["summarisation"] == list(found)
