"""A model whose answers depend on nothing but the tokens that a slot really holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.adapters.llama_cpp.outputs import TokenLogprob
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.sequence_model import BatchPart, DecodeError
from edge_agent.adapters.llama_cpp.tools import ToolFormat
from edge_agent.ports import ArmFailed

END = 0


@dataclass
class FakeSampler:
    """Counts how often it was closed."""

    closed: int = 0

    def close(self) -> None:
        self.closed += 1


def next_token(held: Sequence[int]) -> int:
    """What the fake model says after some tokens: now and then `END`, else a letter."""
    mixed = sum((index + 1) * token for index, token in enumerate(held)) * 2_654_435_761
    choice = (mixed >> 7) % 40
    return END if choice == 39 else ord("a") + choice % 26


def answer_alone(prompt: str, tokens_max: int) -> str:
    """The answer of a fresh model with nothing else to do."""
    held = list(prompt.encode())
    text = ""
    for _ in range(tokens_max):
        token = next_token(held)
        if token == END:
            break
        text += chr(token)
        held.append(token)
    return text


@dataclass
class FakeModel:
    """A `SequenceModel` that checks every call against what its memory really holds.

    Attributes
    ----------
    recurrent : bool
        Whether the memory refuses to forget in part, as recurrent models do.
    script : bytes
        Said by every answer, then `END`; empty for `next_token`.
    fail_piece : bool
        The next token's text is a defect's, whose error quotes the prompt.
    """

    arm: str = "fake"
    sequences: int = 3
    context_tokens: int = 200
    batch_tokens: int = 64
    piece_tokens: int = 128
    recurrent: bool = False
    script: bytes = b""
    tools: ToolFormat | None = None
    fail_next_decode: bool = False
    fail_piece: bool = False
    memory: dict[int, list[int]] = field(default_factory=dict)
    batches: list[list[BatchPart]] = field(default_factory=list)
    samplers: list[FakeSampler] = field(default_factory=list)
    tokens_processed: int = 0
    copies: int = 0
    closed: bool = False
    _rows: dict[int, int] = field(default_factory=dict)

    def prompt(self, spec: ChatSpec) -> list[int]:
        return list("".join(message["content"] for message in spec.messages).encode())

    def sampler(self, spec: ChatSpec, choice: int) -> FakeSampler:
        if spec.sampling.grammar == "broken":
            raise ArmFailed("invalid_request", "`grammar` is broken", client_error=True)
        self.samplers.append(FakeSampler())
        return self.samplers[-1]

    def decode(self, parts: Sequence[BatchPart]) -> list[int]:
        assert parts, "an empty batch is not decoded"
        assert sum(len(part.tokens) for part in parts) <= self.batch_tokens
        assert len({part.slot for part in parts}) == len(parts), "one part for each slot"
        if self.fail_next_decode:
            self.fail_next_decode = False
            raise DecodeError("llama_decode gave -3")
        self.batches.append(list(parts))
        self._rows, rows, row = {}, [], -1
        for part in parts:
            held = self.memory.setdefault(part.slot, [])
            assert part.position == len(held), "positions go on where the memory ends"
            held.extend(part.tokens)
            self.tokens_processed += len(part.tokens)
            row += len(part.tokens)
            rows.append(row)
            if part.wanted:
                self._rows[row] = part.slot
        return rows

    def sample(self, sampler: FakeSampler, row: int) -> int:
        assert sampler.closed == 0, "a closed sampler is not used"
        held = self.memory[self._rows[row]]
        if not self.script:
            return next_token(held)
        said = sum(token >= 1_000 for token in held)
        return 1_000 + self.script[said] if said < len(self.script) else END

    def logprob(self, token: int, row: int, top: int) -> TokenLogprob:
        assert row in self._rows, "only a wanted row has logits"
        likeliest = tuple((-float(rank), b"?") for rank in range(top))
        return TokenLogprob(-0.5, self.piece(token), likeliest)

    def piece(self, token: int) -> bytes:
        if self.fail_piece:
            self.fail_piece = False
            raise KeyError("what the prompt said")
        return bytes([token % 1_000])

    def is_end(self, token: int) -> bool:
        return token == END

    def trim(self, slot: int, length: int) -> bool:
        held = self.memory.setdefault(slot, [])
        if self.recurrent and 0 < length < len(held):
            return False
        del held[length:]
        return True

    def copy(self, source: int, target: int, length: int) -> bool:
        self.copies += 1
        if self.recurrent and length != len(self.memory[source]):
            self.memory[target] = list(self.memory[source])
            return False
        self.memory[target] = self.memory[source][:length]
        return True

    def clear(self) -> None:
        self.memory.clear()

    def close(self) -> None:
        self.closed = True
