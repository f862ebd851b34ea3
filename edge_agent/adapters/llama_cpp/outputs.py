"""What a scheduler's step says: text, and how requests ended."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.ports import ArmFailed


@dataclass(frozen=True)
class TextProduced:
    """Text of one choice; `finish_reason` comes with its last piece."""

    job: int
    choice: int
    text: str
    finish_reason: str | None = None


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
class JobFailed:
    """A request ended without a complete answer."""

    job: int
    failure: ArmFailed


Output = TextProduced | JobDone | JobFailed
