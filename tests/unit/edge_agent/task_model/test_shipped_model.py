"""The task model that ships with the agent, on prompts that a person wrote.

`seen` says of a prompt whether the grammars were improved on what the model made of it. Only the
others tell what to expect; the seen ones keep it from falling back.
"""

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


def judged(model: TaskModel, *, seen: bool) -> Judgement:
    """What it makes of the prompts by hand."""
    import numpy as np

    with BY_HAND.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["seen"] == "yes") is seen]
    found = np.stack([model.probabilities(row["text"]) for row in rows]).astype(np.float64)
    return judge(found, [row["label"] for row in rows], classes=model.classes)


def test_prompts_that_the_grammars_were_improved_on_are_told_right(model: TaskModel) -> None:
    """Nineteen in twenty, and no class is a lost cause."""
    found = judged(model, seen=True)
    assert found.rows >= 300
    assert found.accuracy >= 0.95
    assert {} == {
        name: each.recall
        for name, each in found.classes.items()
        if each.recall is None or each.recall < 0.8
    }


def test_four_in_five_prompts_that_nobody_looked_at_are_told_right(model: TaskModel) -> None:
    """Nine tenths pass the default threshold, and of those fewer are wrong."""
    found = judged(model, seen=False)
    assert found.rows >= 70
    assert found.accuracy >= 0.8
    kept = next(at for at in found.thresholds if at.threshold == 0.5)
    assert kept.coverage >= 0.9
    assert kept.accuracy is not None
    assert kept.accuracy >= found.accuracy


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
    """Before a long text, after it, and behind a system message."""
    text = "The council met on Monday. It spoke about the bridge, the school and the budget. " * 40
    found = defaultdict(list)
    for prompt in (
        f"Summarise the following text in two sentences.\n\n{text}",
        f"{text}\n\nSummarise the text above in two sentences.",
        f"You are a helpful assistant.\n\nSummarise this:\n\n{text}",
    ):
        found[model.classes[model.probabilities(prompt).argmax()]].append(prompt[:40])
    assert ["summarisation"] == list(found)
