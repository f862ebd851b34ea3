"""The answers that a scheduler has in work, and what of them the agent has not been told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from edge_agent.adapters.llama_cpp.outputs import TextProduced, TokenLogprob
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.sequence_model import SamplerT
from edge_agent.adapters.llama_cpp.text import TextAssembler
from edge_agent.adapters.llama_cpp.tool_calls import CallPart, ToolCallReader


@dataclass(eq=False)
class Job(Generic[SamplerT]):
    """A request with its answers."""

    key: int
    spec: ChatSpec
    stream: bool
    prompt: list[int]
    arrived_s: float
    choices: list[Choice[SamplerT]] = field(default_factory=list)
    prompt_read: bool = False
    started_s: float | None = None
    first_token_s: float = 0.0
    cached_tokens: int = 0
    completion_tokens: int = 0
    choices_done: int = 0


@dataclass(eq=False)
class Choice(Generic[SamplerT]):
    """One answer to a prompt.

    Attributes
    ----------
    tokens : list of int
        Prompt and answer; `tokens[:processed]` are in the slot.
    due_s : float
        When the next piece of work may be done.
    pieces_read : int
        How often a piece of the prompt was processed.
    passed_over : bool
        Whether the prompt had to wait in the last step.
    said, called, logprobs : list
        What the agent has not been told yet.
    """

    job: Job[SamplerT]
    index: int
    sampler: SamplerT
    text: TextAssembler
    reader: ToolCallReader | None
    tokens: list[int]
    tokens_max: int
    slot: int = -1
    processed: int = 0
    due_s: float = 0.0
    pieces_read: int = 0
    passed_over: bool = False
    said: list[str] = field(default_factory=list)
    called: list[CallPart] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    chars_held: int = 0
    bytes_shown: int = 0
    bytes_told: int = 0

    @property
    def generating(self) -> bool:
        return len(self.tokens) - self.processed == 1 and self.processed >= len(self.job.prompt)


def turn_of(choice: Choice[SamplerT]) -> tuple[bool, int]:
    """Whose prompt is read first: those that had to wait, then the newest."""
    return not choice.passed_over, choice.pieces_read


def told(choice: Choice[SamplerT], finish_reason: str | None = None) -> TextProduced:
    """What a choice has to tell, which is then told."""
    logprobs = choice.logprobs
    if choice.text.stopped:
        # The tokens of a stop string are not shown, and so is what is known of them.
        logprobs = []
        for entry in choice.logprobs:
            if choice.bytes_told >= choice.bytes_shown:
                break
            choice.bytes_told += len(entry.piece)
            logprobs.append(entry)
    else:
        choice.bytes_told += sum(len(entry.piece) for entry in logprobs)
    produced = TextProduced(
        choice.job.key,
        choice.index,
        "".join(choice.said),
        finish_reason,
        tuple(choice.called),
        tuple(logprobs),
    )
    choice.said, choice.called, choice.logprobs, choice.chars_held = [], [], [], 0
    return produced
