"""Training batches: conversations about the generated tasks, packed into rows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import model
import numpy as np
import tasks
import torch
from torch import Tensor

ROW_LENGTH = 96
"""Tokens in one packed row."""

CLASS_WEIGHTS: Mapping[str, float] = {
    "copy": 0.5,
    "reverse": 0.8,
    "sort": 0.8,
    "count": 1.5,
    "lookup": 1.5,
    "add": 1.5,
}
"""How often each class is drawn, relative to the others."""

FOCUS_WEIGHTS: Mapping[str, float] = {
    "copy": 0.3,
    "reverse": 0.7,
    "sort": 0.6,
    "count": 0.5,
    "lookup": 3.0,
    "add": 1.5,
}
"""The same for the second part of a run, where the hardest classes come first."""

SYSTEM_SHARE = 0.06
"""The share of conversations that begin with a system message."""

SECOND_TURN_SHARE = 0.06
"""The share of conversations that have a second turn."""

SYSTEM_MESSAGES: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a careful assistant.",
    "Answer briefly.",
    "Answer exactly, without a comment.",
    "Be concise.",
    "You help people on the road.",
)


@dataclass(frozen=True)
class Batch:
    """A batch of packed rows.

    Attributes
    ----------
    tokens : Tensor
        Token ids, ``(rows, ROW_LENGTH)``.
    mask : Tensor
        The additive attention mask, ``(rows, 1, ROW_LENGTH, ROW_LENGTH)``: causal, and every
        conversation sees itself alone.
    sources : Tensor
        Flat positions whose next token is part of an answer.
    targets : Tensor
        The next tokens of these positions.
    weights : Tensor
        How much each of these tokens counts; an answer of four times the length counts twice.
    """

    tokens: Tensor
    mask: Tensor
    sources: Tensor
    targets: Tensor
    weights: Tensor


def conversation(turns: list[tasks.Task], system: str | None) -> tuple[list[int], list[float]]:
    """Write a conversation the way the chat template does.

    Parameters
    ----------
    turns : list[tasks.Task]
        The tasks that are asked and answered, in order.
    system : str or None
        A system message, if there is one.

    Returns
    -------
    tuple[list[int], list[float]]
        The tokens, and for each its weight in the loss; zero where the model does not say it.
    """
    tokens, weights = [model.BOS_ID], [0.0]

    def append(part: list[int], weight: float) -> None:
        tokens.extend(part)
        weights.extend([weight] * len(part))

    if system is not None:
        append([model.SYSTEM_ID, *model.encode(system)], 0.0)
    for task in turns:
        prompt = [model.USER_ID, *model.encode(task.prompt), model.ASSISTANT_ID]
        append(prompt, 0.0)
        answer = [*model.encode(task.answer), model.EOS_ID]
        append(answer, len(answer) ** -0.5)
    return tokens, weights


def _draw(rng: random.Random, shares: Mapping[str, float]) -> tuple[list[int], list[float]]:
    count = 2 if rng.random() < SECOND_TURN_SHARE else 1
    drawn = rng.choices(list(shares), weights=list(shares.values()), k=count)
    turns = [tasks.generate_split(name, rng, evaluation=False) for name in drawn]
    system = rng.choice(SYSTEM_MESSAGES) if rng.random() < SYSTEM_SHARE else None
    return conversation(turns, system)


def batches(rows: int, seed: int, focus_after: int) -> Iterator[Batch]:
    """Yield training batches without end.

    Parameters
    ----------
    rows : int
        The number of rows in each batch.
    seed : int
        The seed of the tasks.
    focus_after : int
        The number of batches after which :data:`FOCUS_WEIGHTS` say what is drawn.

    Yields
    ------
    Batch
        The next batch.
    """
    rng = random.Random(seed)
    causal = np.tril(np.ones((ROW_LENGTH, ROW_LENGTH), dtype=bool))
    pending = _draw(rng, CLASS_WEIGHTS)
    for drawn in itertools.count():
        shares = FOCUS_WEIGHTS if drawn >= focus_after else CLASS_WEIGHTS
        tokens = np.zeros((rows, ROW_LENGTH), dtype=np.int64)
        weights = np.zeros((rows, ROW_LENGTH), dtype=np.float32)
        owner = np.full((rows, ROW_LENGTH), -1, dtype=np.int16)
        for row in range(rows):
            used, index = 0, 0
            while used + len(pending[0]) <= ROW_LENGTH:
                end = used + len(pending[0])
                tokens[row, used:end], weights[row, used:end] = pending
                owner[row, used:end] = index
                used, index = end, index + 1
                pending = _draw(rng, shares)
            if used == 0:
                pending = _draw(rng, shares)
        allowed = causal & (owner[:, :, None] == owner[:, None, :])
        mask = np.where(allowed, np.float32(0), np.float32("-inf"))[:, None]
        places = np.flatnonzero(weights)
        yield Batch(
            tokens=torch.from_numpy(tokens),
            mask=torch.from_numpy(mask),
            sources=torch.from_numpy(places - 1),
            targets=torch.from_numpy(tokens.reshape(-1)[places]),
            weights=torch.from_numpy(weights.reshape(-1)[places]),
        )
