"""What a scheduler's step says: text, and how requests ended."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.adapters.llama_cpp.tool_calls import CallPart
from edge_agent.ports import ArmFailed


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was, by the model's own distribution.

    Attributes
    ----------
    piece : bytes
        What it adds to the text.
    top : tuple of (float, bytes)
        The likeliest tokens in its place, the likeliest first.
    """

    logprob: float
    piece: bytes
    top: tuple[tuple[float, bytes], ...] = ()

    def to_json(self) -> list[Any]:
        """The form that a frame carries."""
        return [self.logprob, list(self.piece), [[value, list(piece)] for value, piece in self.top]]

    @staticmethod
    def from_json(data: list[Any]) -> TokenLogprob:
        """The inverse of `to_json`."""
        logprob, piece, top = data
        return TokenLogprob(
            logprob, bytes(piece), tuple((value, bytes(other)) for value, other in top)
        )


@dataclass(frozen=True)
class TextProduced:
    """A piece of one choice: text or parts of calls; `finish_reason` comes with the last one."""

    job: int
    choice: int
    text: str
    finish_reason: str | None = None
    calls: tuple[CallPart, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class JobDone:
    """All choices of a request are complete.

    Attributes
    ----------
    cached_tokens : int
        Prompt tokens of the first choice that were not processed again.
    ttft_ms : float
        From arrival in the worker to the first token.
    run_ms : float
        From the first choice's start to the last one's end.
    """

    job: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    ttft_ms: float
    run_ms: float


@dataclass(frozen=True)
class VectorMade:
    """The embedding of one of a request's texts, as 4-byte floats, the least byte first."""

    job: int
    index: int
    vector: bytes


@dataclass(frozen=True)
class VectorsDone:
    """All texts of a request have their vectors; the times are those of `JobDone`."""

    job: int
    prompt_tokens: int
    ttft_ms: float
    run_ms: float


@dataclass(frozen=True)
class JobFailed:
    """A request ended without a complete answer."""

    job: int
    failure: ArmFailed


Output = TextProduced | JobDone | VectorMade | VectorsDone | JobFailed


def defect(error: Exception) -> ArmFailed:
    """What to tell of an error that nobody foresaw: its kind and its place.

    Not its text, which may quote a prompt.
    """
    place = traceback.extract_tb(error.__traceback__)[-1]
    return ArmFailed(
        "worker_defect",
        f"the llama.cpp worker could not go on with this request ({type(error).__name__} in "
        f"{Path(place.filename).name}, line {place.lineno}): other requests are not affected; "
        "please report it",
    )
