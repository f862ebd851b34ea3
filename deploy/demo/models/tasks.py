"""Generated, exactly gradable text tasks for the demo models.

Every task is one short prompt with one right answer. The tasks are split by a hash of the
prompt: training only sees prompts for which :func:`held_out` is false and evaluation only uses
those for which it is true, so no measured answer can have been memorised.
"""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable
from dataclasses import dataclass

TASK_CLASSES: tuple[str, ...] = ("copy", "reverse", "sort", "count", "lookup", "add")
"""The task classes, from the easiest to the hardest."""

HELD_OUT_ONE_IN = 8
"""One prompt in this many is kept out of training."""

COUNT_ALPHABET = "abcde"
"""The letters of the strings in a ``count`` task."""


@dataclass(frozen=True)
class Task:
    """One prompt and its only right answer.

    Attributes
    ----------
    task_class : str
        One of :data:`TASK_CLASSES`.
    prompt : str
        The text of the user's message.
    answer : str
        The text that a model must answer.
    """

    task_class: str
    prompt: str
    answer: str


def _letters(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))


def _digits(rng: random.Random, low: int, high: int) -> str:
    return "".join(rng.choices(string.digits, k=rng.randint(low, high)))


def _copy(rng: random.Random) -> Task:
    text = _letters(rng, 6, 16)
    return Task("copy", f"copy: {text}", text)


def _reverse(rng: random.Random) -> Task:
    text = _letters(rng, 5, 12)
    return Task("reverse", f"reverse: {text}", text[::-1])


def _sort(rng: random.Random) -> Task:
    text = _digits(rng, 5, 12)
    return Task("sort", f"sort: {text}", "".join(sorted(text)))


def _count(rng: random.Random) -> Task:
    text = "".join(rng.choices(COUNT_ALPHABET, k=rng.randint(4, 12)))
    letter = rng.choice(COUNT_ALPHABET)
    return Task("count", f"count in {text}: {letter}", str(text.count(letter)))


def _lookup(rng: random.Random) -> Task:
    keys = rng.sample(string.ascii_lowercase, k=rng.randint(2, 5))
    values = [_digits(rng, 2, 5) for _ in keys]
    wanted = rng.randrange(len(keys))
    table = " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return Task("lookup", f"find in {table}: {keys[wanted]}", values[wanted])


def _add(rng: random.Random) -> Task:
    left, right = rng.randint(1, 199), rng.randint(1, 199)
    return Task("add", f"add: {left}+{right}", str(left + right))


_GENERATORS: dict[str, Callable[[random.Random], Task]] = {
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "count": _count,
    "lookup": _lookup,
    "add": _add,
}


def generate(task_class: str, rng: random.Random) -> Task:
    """Draw one task of a class.

    Parameters
    ----------
    task_class : str
        One of :data:`TASK_CLASSES`.
    rng : random.Random
        The source of randomness; the same state gives the same task.

    Returns
    -------
    Task
        The drawn task, from the training or the held-out part.

    Raises
    ------
    ValueError
        If the class is unknown.
    """
    try:
        generator = _GENERATORS[task_class]
    except KeyError:
        raise ValueError(f"unknown task class: {task_class!r}") from None
    return generator(rng)


def held_out(task: Task) -> bool:
    """Tell whether a task is kept out of training.

    Parameters
    ----------
    task : Task
        The task to place.

    Returns
    -------
    bool
        True for evaluation prompts, false for training prompts.
    """
    return zlib.crc32(task.prompt.encode("utf-8")) % HELD_OUT_ONE_IN == 0


def generate_split(task_class: str, rng: random.Random, *, evaluation: bool) -> Task:
    """Draw one task of a class from one side of the split.

    Parameters
    ----------
    task_class : str
        One of :data:`TASK_CLASSES`.
    rng : random.Random
        The source of randomness.
    evaluation : bool
        True for a held-out task, false for a training task.

    Returns
    -------
    Task
        The drawn task.
    """
    while True:
        task = generate(task_class, rng)
        if held_out(task) is evaluation:
            return task


def held_out_tasks(task_class: str, samples: int, seed: int) -> list[Task]:
    """Draw the held-out tasks of one class.

    Parameters
    ----------
    task_class : str
        One of :data:`TASK_CLASSES`.
    samples : int
        How many.
    seed : int
        The seed of the draw.

    Returns
    -------
    list[Task]
        The tasks.
    """
    rng = random.Random(f"{seed}/{task_class}")
    return [generate_split(task_class, rng, evaluation=True) for _ in range(samples)]


def grade(task: Task, text: str) -> float:
    """Grade an answer.

    Parameters
    ----------
    task : Task
        The task that was asked.
    text : str
        What the model answered; surrounding whitespace does not matter.

    Returns
    -------
    float
        1.0 for the right answer, else 0.0.
    """
    return 1.0 if text.strip() == task.answer else 0.0
