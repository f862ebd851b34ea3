"""Texts to be turned into vectors, of one model: several in a batch, the requests in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from edge_agent.adapters.llama_cpp.outputs import JobFailed, Output, VectorMade, VectorsDone
from edge_agent.adapters.llama_cpp.sequence_model import DecodeError
from edge_agent.ports import ArmFailed

BATCH_TOKENS: Final = 512
"""What a batch may grow to; a longer text goes alone. It bounds how long another model waits."""


class TextModel(Protocol):
    """What is needed of a model; `EmbeddingModel` has the meaning of each method."""

    arm: str
    sequences: int
    context_tokens: int

    def tokens(self, text: str) -> list[int]: ...
    def embed(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]: ...
    def close(self) -> None: ...


@dataclass(eq=False)
class _Job:
    key: int
    arrived_s: float
    left: int
    started_s: float | None = None
    tokens: int = 0


@dataclass(eq=False)
class _Text:
    job: _Job
    index: int
    text: str


class EmbeddingScheduler:
    """Batches the texts of one model.

    Parameters
    ----------
    model : TextModel
        The loaded model; the scheduler owns it from now on.
    monotonic_s : callable
        A monotonic clock in seconds.
    """

    def __init__(self, model: TextModel, *, monotonic_s: Callable[[], float]) -> None:
        self._model = model
        self._now = monotonic_s
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[_Text] = deque()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._jobs

    def add(self, key: int, texts: Sequence[str], *, arrived_s: float) -> None:
        """Queue a request's texts."""
        job = self._jobs[key] = _Job(key, arrived_s, left=len(texts))
        self._waiting += [_Text(job, index, text) for index, text in enumerate(texts)]

    def cancel(self, key: int) -> None:
        """Stop a request's work before the next step; unknown keys are past ones."""
        job = self._jobs.pop(key, None)
        if job is not None:
            self._waiting = deque(text for text in self._waiting if text.job is not job)

    def due_s(self) -> float | None:
        """When the next step has work, which is at once; None when idle."""
        return 0.0 if self._waiting else None

    def step(self) -> list[Output]:
        """Turn the next texts into vectors, as many as a batch takes."""
        outputs: list[Output] = []
        batch = self._next_batch(outputs)
        if not batch:
            return outputs
        try:
            vectors = self._model.embed([tokens for _, tokens in batch])
        except DecodeError as error:
            failure = ArmFailed("decode_failed", str(error))
            keys = {text.job.key for text, _ in batch}
            return outputs + [self._failed(key, failure) for key in sorted(keys)]
        for (text, tokens), vector in zip(batch, vectors, strict=True):
            job = text.job
            outputs.append(VectorMade(job.key, text.index, vector.astype("<f4").tobytes()))
            job.tokens += len(tokens)
            job.left -= 1
            if not job.left:
                del self._jobs[job.key]
                outputs.append(self._done(job))
        return outputs

    def close(self) -> None:
        """Free the model; requests under way are dropped."""
        self._jobs.clear()
        self._waiting.clear()
        self._model.close()

    def _next_batch(self, outputs: list[Output]) -> list[tuple[_Text, list[int]]]:
        batch: list[tuple[_Text, list[int]]] = []
        room = min(BATCH_TOKENS, self._model.context_tokens)
        while self._waiting and len(batch) < self._model.sequences:
            text = self._waiting[0]
            try:
                tokens = self._fitting_tokens(text)
            except ArmFailed as failure:
                outputs.append(self._failed(text.job.key, failure))
                continue
            if batch and len(tokens) > room:
                break
            self._waiting.popleft()
            text.job.started_s = text.job.started_s or self._now()
            batch.append((text, tokens))
            room -= len(tokens)
        # A failure may have taken the other texts of a request with it.
        return [(text, tokens) for text, tokens in batch if text.job.key in self._jobs]

    def _fitting_tokens(self, text: _Text) -> list[int]:
        tokens = self._model.tokens(text.text)
        limit = self._model.context_tokens
        if len(tokens) > limit:
            raise ArmFailed(
                "context_length_exceeded",
                f"`input[{text.index}]` has {len(tokens)} tokens and {self._model.arm} takes "
                f"{limit}: shorten it",
            )
        if not tokens:
            raise ArmFailed(
                "invalid_request",
                f"`input[{text.index}]` comes to no tokens: send some text",
                client_error=True,
                param=f"input[{text.index}]",
            )
        return tokens

    def _failed(self, key: int, failure: ArmFailed) -> JobFailed:
        self.cancel(key)
        return JobFailed(key, failure)

    def _done(self, job: _Job) -> VectorsDone:
        now, started_s = self._now(), job.started_s or job.arrived_s
        return VectorsDone(
            job.key,
            prompt_tokens=job.tokens,
            ttft_ms=(now - job.arrived_s) * 1e3,
            run_ms=(now - started_s) * 1e3,
        )
