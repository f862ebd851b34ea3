"""Tests of the generated tasks of the demo."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

TASKS_FILE = Path(__file__).resolve().parents[3] / "deploy" / "demo" / "models" / "tasks.py"
TASK_CLASSES = ("copy", "reverse", "sort", "count", "lookup", "add")


def _load() -> ModuleType:
    name = "tidegate_demo_tasks"
    spec = importlib.util.spec_from_file_location(name, TASKS_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tasks = _load()


def _expected(task_class: str, prompt: str) -> str:
    command, _, text = prompt.partition(": ")
    if task_class == "copy":
        return text
    if task_class == "reverse":
        return "".join(reversed(text))
    if task_class == "sort":
        counts = Counter(text)
        return "".join(digit * counts[digit] for digit in "0123456789")
    if task_class == "count":
        return str(len(re.findall(text, command.removeprefix("count in "))))
    if task_class == "lookup":
        pairs = dict(pair.split("=") for pair in command.removeprefix("find in ").split(" "))
        return pairs[text]
    left, _, right = text.partition("+")
    return str(int(left) + int(right))


def test_classes_are_known() -> None:
    """The classes are these six, and no other is accepted."""
    assert tasks.TASK_CLASSES == TASK_CLASSES
    with pytest.raises(ValueError, match="unknown task class"):
        tasks.generate("divide", random.Random(0))


@pytest.mark.parametrize("task_class", TASK_CLASSES)
def test_same_seed_gives_same_tasks(task_class: str) -> None:
    """A generator state decides the tasks."""

    def draw(seed: int) -> list[object]:
        rng = random.Random(seed)
        return [tasks.generate(task_class, rng) for _ in range(50)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


@pytest.mark.parametrize("task_class", TASK_CLASSES)
def test_answers_are_right(task_class: str) -> None:
    """Each answer agrees with an independent solution, and is short."""
    rng = random.Random(1)
    for _ in range(500):
        task = tasks.generate(task_class, rng)
        assert task.task_class == task_class
        assert task.answer == _expected(task_class, task.prompt)
        assert 1 <= len(task.answer) <= 16
        assert len(task.prompt) <= 56
        assert "\n" not in task.prompt


@pytest.mark.parametrize("task_class", TASK_CLASSES)
def test_prompts_are_many(task_class: str) -> None:
    """No class is small enough to be memorised."""
    rng = random.Random(2)
    prompts = {tasks.generate(task_class, rng).prompt for _ in range(20_000)}
    assert len(prompts) >= 10_000


@pytest.mark.parametrize("task_class", TASK_CLASSES)
def test_split_keeps_evaluation_prompts_out_of_training(task_class: str) -> None:
    """The two sides of the split share no prompt."""
    rng = random.Random(3)
    train = {tasks.generate_split(task_class, rng, evaluation=False).prompt for _ in range(1_000)}
    kept = {task.prompt for task in tasks.held_out_tasks(task_class, 200, seed=4)}
    assert not train & kept
    share = sum(tasks.held_out(tasks.generate(task_class, rng)) for _ in range(4_000)) / 4_000
    assert share == pytest.approx(1 / tasks.HELD_OUT_ONE_IN, abs=0.03)


def test_grade_is_exact_after_strip() -> None:
    """Only the answer itself, in any whitespace, is right."""
    task = tasks.Task("sort", "sort: 52418", "12458")
    assert tasks.grade(task, "12458") == 1.0
    assert tasks.grade(task, " 12458\n") == 1.0
    assert tasks.grade(task, "12485") == 0.0
    assert tasks.grade(task, "1 2458") == 0.0
    assert tasks.grade(task, "") == 0.0


def test_tasks_cannot_be_changed() -> None:
    """Tasks are immutable."""
    task = tasks.generate("copy", random.Random(0))
    with pytest.raises(AttributeError):
        task.answer = "other"
