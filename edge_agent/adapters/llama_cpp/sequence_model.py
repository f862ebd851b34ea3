"""What the scheduler needs of a model; `LlamaModel` has it, and so have the tests' fakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from edge_agent.adapters.llama_cpp.outputs import TokenLogprob
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.tools import ToolFormat
from shared.errors import TidegateError

DEAD_END: Final = -1
"""What a sampler gives instead of a token: its grammar allows none, not even the end."""


class BatchPart(NamedTuple):
    """Tokens of one slot in a batch; `wanted` asks for the logits of the last one."""

    slot: int
    position: int
    tokens: Sequence[int]
    wanted: bool


class DecodeError(TidegateError):
    """llama.cpp could not run a batch."""

    code = "decode_failed"


class SamplerHandle(Protocol):
    """A sampler's state, freed by `close`."""

    def close(self) -> None: ...


SamplerT = TypeVar("SamplerT", bound=SamplerHandle)


class SequenceModel(Protocol[SamplerT]):
    """What the scheduler needs of a model; `LlamaModel` has the meaning of each method."""

    arm: str
    sequences: int
    context_tokens: int
    batch_tokens: int
    piece_tokens: int

    @property
    def tools(self) -> ToolFormat | None: ...
    def prompt(self, spec: ChatSpec) -> list[int]: ...
    def sampler(self, spec: ChatSpec, choice: int) -> SamplerT: ...
    def decode(self, parts: Sequence[BatchPart]) -> list[int]: ...
    def sample(self, sampler: SamplerT, row: int) -> int: ...
    def logprob(self, token: int, row: int, top: int) -> TokenLogprob: ...
    def piece(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...
    def trim(self, slot: int, length: int) -> bool: ...
    def copy(self, source: int, target: int, length: int) -> bool: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...
