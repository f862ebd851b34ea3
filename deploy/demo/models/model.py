"""A byte-level transformer of the Llama architecture and its vocabulary.

The layout follows what llama.cpp computes for ``general.architecture = llama``: RMSNorm before
each block, rotary positions on adjacent pairs of dimensions, SwiGLU, no biases, and an output
projection that is tied to the token embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

UNK_ID = 0
BOS_ID = 1
EOS_ID = 2
USER_ID = 3
ASSISTANT_ID = 4
SYSTEM_ID = 5
SPACE_ID = 6
FIRST_BYTE_ID = 7
VOCAB_SIZE = FIRST_BYTE_ID + 256

SPECIAL_TOKENS: tuple[str, ...] = (
    "<unk>",
    "<s>",
    "</s>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
)
"""The texts of the control tokens, in the order of their ids."""

CONTEXT_LENGTH = 512
ROPE_THETA = 10_000.0
NORM_EPS = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one model.

    Attributes
    ----------
    name : str
        The name of the model and of its file.
    width : int
        The width of the residual stream; a multiple of 32 so that llama.cpp can quantise it.
    layers : int
        The number of transformer blocks.
    heads : int
        The number of attention heads.
    hidden : int
        The width inside the feed-forward blocks; a multiple of 32.
    """

    name: str
    width: int
    layers: int
    heads: int
    hidden: int

    @property
    def head_width(self) -> int:
        """The width of one attention head."""
        return self.width // self.heads


CONFIGS: dict[str, ModelConfig] = {
    "tiny": ModelConfig("tiny", width=32, layers=2, heads=2, hidden=96),
    "small": ModelConfig("small", width=64, layers=3, heads=2, hidden=192),
    "large": ModelConfig("large", width=128, layers=4, heads=4, hidden=352),
}


def encode(text: str) -> list[int]:
    """Turn text into tokens, one for each byte of its UTF-8 form.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    list[int]
        The token ids. The space has a token of its own because llama.cpp's ``llama`` tokenizer
        rewrites it before the bytes are looked up.
    """
    return [SPACE_ID if byte == 0x20 else FIRST_BYTE_ID + byte for byte in text.encode("utf-8")]


def decode(tokens: Sequence[int]) -> str:
    """Turn tokens back into text; control tokens vanish.

    Parameters
    ----------
    tokens : Sequence[int]
        Token ids.

    Returns
    -------
    str
        The text; bytes that are no UTF-8 become replacement characters.
    """
    data = bytearray()
    for token in tokens:
        if token == SPACE_ID:
            data.append(0x20)
        elif token >= FIRST_BYTE_ID:
            data.append(token - FIRST_BYTE_ID)
    return data.decode("utf-8", errors="replace")


def rope_table(length: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Compute the cosines and sines of the rotary positions.

    Parameters
    ----------
    length : int
        The number of positions.
    head_width : int
        The width of one head.

    Returns
    -------
    tuple[Tensor, Tensor]
        Cosines and sines, each of the shape ``(length, head_width // 2)``.
    """
    frequencies = ROPE_THETA ** (-torch.arange(0, head_width, 2).float() / head_width)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return angles.cos(), angles.sin()


def rotate(values: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to adjacent pairs of dimensions.

    Parameters
    ----------
    values : Tensor
        Queries or keys of the shape ``(batch, heads, length, head_width)``.
    cos, sin : Tensor
        The table for these positions.

    Returns
    -------
    Tensor
        The rotated values.
    """
    even, odd = values[..., 0::2], values[..., 1::2]
    pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return pairs.flatten(-2)


class Block(nn.Module):
    """One transformer block.

    Parameters
    ----------
    config : ModelConfig
        The shape of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden
        self.heads = config.heads
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, stream: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """Run the block.

        Parameters
        ----------
        stream : Tensor
            The residual stream, ``(batch, length, width)``.
        cos, sin : Tensor
            The rotary table.
        mask : Tensor or None
            An additive attention mask; None for the plain causal one.

        Returns
        -------
        Tensor
            The new residual stream.
        """
        batch, length, width = stream.shape
        mixed = self.query_key_value(self.attention_norm(stream))
        heads = mixed.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(
            rotate(query, cos, sin),
            rotate(key, cos, sin),
            value,
            attn_mask=mask,
            is_causal=mask is None,
        )
        joined = attended.transpose(1, 2).reshape(batch, length, width)
        stream = stream + self.attention_out(joined)
        gate, up = self.gate_up(self.feed_norm(stream)).chunk(2, dim=-1)
        updated: Tensor = stream + self.down(functional.silu(gate) * up)
        return updated


class Transformer(nn.Module):
    """The whole model.

    Parameters
    ----------
    config : ModelConfig
        The shape of the model.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCAB_SIZE, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=NORM_EPS)
        cos, sin = rope_table(CONTEXT_LENGTH, config.head_width)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        for block in self.blocks:
            assert isinstance(block, Block)
            for linear in (block.attention_out, block.down):
                linear.weight.data.mul_((2 * config.layers) ** -0.5)

    def parameter_count(self) -> int:
        """Count the parameters.

        Returns
        -------
        int
            The number of trained values.
        """
        return sum(parameter.numel() for parameter in self.parameters())

    def hidden_states(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run all blocks and the last norm.

        Parameters
        ----------
        tokens : Tensor
            Token ids, ``(batch, length)``.
        mask : Tensor or None
            An additive attention mask that can be broadcast to
            ``(batch, heads, length, length)``; None for the plain causal one.

        Returns
        -------
        Tensor
            What the output projection reads, ``(batch, length, width)``.
        """
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        stream = self.embedding(tokens)
        for block in self.blocks:
            stream = block(stream, cos, sin, mask)
        normed: Tensor = self.norm(stream)
        return normed

    def logits(self, states: Tensor) -> Tensor:
        """Project hidden states to the vocabulary.

        Parameters
        ----------
        states : Tensor
            Hidden states whose last dimension is the width.

        Returns
        -------
        Tensor
            Logits whose last dimension is the vocabulary.
        """
        projected: Tensor = functional.linear(states, self.embedding.weight)
        return projected

    @torch.no_grad()
    def answer(self, prompt: Sequence[int], limit: int = 32) -> list[int]:
        """Decode greedily until the end token.

        Parameters
        ----------
        prompt : Sequence[int]
            The tokens of the prompt.
        limit : int
            The largest number of new tokens.

        Returns
        -------
        list[int]
            The new tokens without the end token.
        """
        tokens = list(prompt)
        while len(tokens) < len(prompt) + limit:
            states = self.hidden_states(torch.tensor([tokens]))
            token = int(self.logits(states[0, -1]).argmax())
            if token == EOS_ID:
                break
            tokens.append(token)
        return tokens[len(prompt) :]
