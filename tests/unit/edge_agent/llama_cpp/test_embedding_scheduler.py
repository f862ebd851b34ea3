"""Texts that become vectors, on a model that remembers its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_agent.adapters.llama_cpp.embedding_scheduler import EmbeddingScheduler
from edge_agent.adapters.llama_cpp.outputs import JobFailed, Output, VectorMade, VectorsDone
from edge_agent.adapters.llama_cpp.sequence_model import DecodeError


@dataclass
class FakeTextModel:
    """A text's vector is its length and its first byte."""

    arm: str = "fake"
    sequences: int = 3
    context_tokens: int = 30
    fail_next: bool = False
    batches: list[int] = field(default_factory=list)
    closed: bool = False

    def tokens(self, text: str) -> list[int]:
        return list(text.encode())

    def embed(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
        assert sum(len(text) for text in texts) <= self.context_tokens
        if self.fail_next:
            self.fail_next = False
            raise DecodeError("llama.cpp gave -1")
        self.batches.append(len(texts))
        return [np.array([len(text), text[0]], dtype=np.float32) for text in texts]

    def close(self) -> None:
        self.closed = True


def _run(scheduler: EmbeddingScheduler) -> list[Output]:
    outputs: list[Output] = []
    while not scheduler.idle:
        assert scheduler.due_s() is not None, "work without a due time would wait for ever"
        outputs += scheduler.step()
    assert scheduler.due_s() is None
    return outputs


def _vectors(outputs: list[Output], key: int) -> dict[int, list[float]]:
    return {
        output.index: np.frombuffer(output.vector, dtype="<f4").tolist()
        for output in outputs
        if isinstance(output, VectorMade) and output.job == key
    }


def test_texts_share_batches_and_keep_their_places() -> None:
    """As many as the model takes at once, also of several requests."""
    model = FakeTextModel()
    scheduler = EmbeddingScheduler(model, monotonic_s=lambda: 5.0)
    scheduler.add(1, ["aa", "b", "cccc"], arrived_s=4.0)
    scheduler.add(2, ["dd"], arrived_s=5.0)
    outputs = _run(scheduler)
    assert [3, 1] == model.batches
    assert {0: [2.0, 97.0], 1: [1.0, 98.0], 2: [4.0, 99.0]} == _vectors(outputs, 1)
    assert {0: [2.0, 100.0]} == _vectors(outputs, 2)
    done = [output for output in outputs if isinstance(output, VectorsDone)]
    assert [(1, 7, 1_000.0), (2, 2, 0.0)] == [(d.job, d.prompt_tokens, d.ttft_ms) for d in done]


def test_a_batch_stays_within_the_context() -> None:
    """What does not fit goes into the next one."""
    model = FakeTextModel()
    scheduler = EmbeddingScheduler(model, monotonic_s=lambda: 0.0)
    scheduler.add(1, ["a" * 20, "b" * 20, "c" * 10], arrived_s=0.0)
    _run(scheduler)
    assert [1, 2] == model.batches


def test_a_text_that_is_too_long_fails_its_request_alone() -> None:
    """It is named by its place."""
    scheduler = EmbeddingScheduler(FakeTextModel(), monotonic_s=lambda: 0.0)
    scheduler.add(1, ["ok", "x" * 31], arrived_s=0.0)
    scheduler.add(2, ["fine"], arrived_s=0.0)
    outputs = _run(scheduler)
    (failed,) = [output for output in outputs if isinstance(output, JobFailed)]
    assert (1, "context_length_exceeded") == (failed.job, failed.failure.reason)
    assert "`input[1]` has 31 tokens" in str(failed.failure)
    assert {0: [4.0, 102.0]} == _vectors(outputs, 2)


def test_a_text_without_tokens_is_the_clients_error() -> None:
    """There is nothing to say of it."""
    scheduler = EmbeddingScheduler(FakeTextModel(), monotonic_s=lambda: 0.0)
    scheduler.add(1, [""], arrived_s=0.0)
    (failed,) = _run(scheduler)
    assert isinstance(failed, JobFailed)
    assert (True, "input[0]") == (failed.failure.client_error, failed.failure.param)


def test_a_failed_batch_fails_its_requests_and_no_others() -> None:
    """The next batch works."""
    model = FakeTextModel(fail_next=True, sequences=1)
    scheduler = EmbeddingScheduler(model, monotonic_s=lambda: 0.0)
    scheduler.add(1, ["a", "b"], arrived_s=0.0)
    scheduler.add(2, ["c"], arrived_s=0.0)
    outputs = _run(scheduler)
    assert [1] == [output.job for output in outputs if isinstance(output, JobFailed)]
    assert [2] == [output.job for output in outputs if isinstance(output, VectorsDone)]


def test_a_cancelled_request_is_not_heard_of_again() -> None:
    """And closing frees the model."""
    model = FakeTextModel()
    scheduler = EmbeddingScheduler(model, monotonic_s=lambda: 0.0)
    scheduler.add(1, ["a"], arrived_s=0.0)
    scheduler.cancel(1)
    scheduler.cancel(77)
    assert scheduler.idle
    assert [] == scheduler.step()
    scheduler.close()
    assert model.closed
