"""A language model of realistic size with random weights, to measure speed.

How long a token takes depends on a model's shape and quantisation, not on what it has learned, so
random weights measure speed as fairly as trained ones; what such a model says is nonsense. The
file is made once, in a few seconds, and kept with the other things that can be made again.
"""

from __future__ import annotations

import itertools
import os
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np

SEED: Final = 20_260_617
SPREAD: Final = 0.02
NORM_EPS: Final = 1e-5
ROPE_THETA: Final = 10_000.0
CONTROL: Final = ("<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>")
UNK, BOS, EOS = 0, 1, 2
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """What a llama of random weights is like.

    Attributes
    ----------
    name : str
        Says the parameters and the quantisation; the file is called so.
    template : str
        Its chat template.
    pooling : int
        How it makes one vector of a text, as llama.cpp numbers the ways; 0 for a chat model.
    """

    name: str = "random-125m-q4_0"
    width: int = 768
    layers: int = 16
    heads: int = 12
    kv_heads: int = 4
    hidden: int = 2_048
    vocabulary: int = 32_000
    context: int = 4_096
    template: str = CHAT_TEMPLATE
    pooling: int = 0

    @property
    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor's name and dimensions; one dimension means a norm, kept in full."""
        kv_width = self.width // self.heads * self.kv_heads
        yield "token_embd.weight", (self.vocabulary, self.width)
        for layer in range(self.layers):
            for name, dimensions in {
                "attn_norm": (self.width,),
                "attn_q": (self.width, self.width),
                "attn_k": (kv_width, self.width),
                "attn_v": (kv_width, self.width),
                "attn_output": (self.width, self.width),
                "ffn_norm": (self.width,),
                "ffn_gate": (self.hidden, self.width),
                "ffn_up": (self.hidden, self.width),
                "ffn_down": (self.width, self.hidden),
            }.items():
                yield f"blk.{layer}.{name}.weight", dimensions
        yield "output_norm.weight", (self.width,)

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(int(np.prod(dimensions)) for _, dimensions in self.tensors)


def random_model(shape: Shape | None = None, *, folder: Path | None = None) -> Path:
    """The model file, made now if it is not there yet.

    Parameters
    ----------
    folder : Path or None
        None means `${XDG_CACHE_HOME:-~/.cache}/tidegate/bench`.
    """
    shape = shape or Shape()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = folder or cache / "tidegate" / "bench"
    path = folder / f"{shape.name}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{shape.name}.{os.getpid()}.part"
        try:
            _write(shape, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


def _write(shape: Shape, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(shape.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    if shape.pooling:
        writer.add_pooling_type(gguf.PoolingType(shape.pooling))
    _add_tokenizer(writer, shape)
    rng = np.random.default_rng(SEED)
    for name, dimensions in shape.tensors:
        if len(dimensions) == 1:
            writer.add_tensor(name, np.ones(dimensions, dtype=np.float32))
            continue
        weights = rng.standard_normal(dimensions, dtype=np.float32) * np.float32(SPREAD)
        if name == "token_embd.weight":
            weights[EOS] = 0.0  # never among the likeliest, so that answers are as long as asked
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, shape: Shape) -> None:
    """A SentencePiece vocabulary of bytes and short pieces, each made of two shorter ones."""
    kinds = gguf.TokenType
    texts = ["<unk>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [kinds.UNKNOWN, *[kinds.CONTROL] * len(CONTROL), *[kinds.BYTE] * 256]
    pieces = list(itertools.islice(_pieces(), shape.vocabulary - len(texts)))
    # The longer a piece is, the sooner its halves are joined.
    scores = [0.0] * len(texts) + [len(piece) - 10.0 for piece in pieces]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts + pieces)
    writer.add_token_scores(scores)
    writer.add_token_types([int(kind) for kind in types] + [int(kinds.NORMAL)] * len(pieces))
    writer.add_vocab_size(shape.vocabulary)
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(shape.template)


def _pieces() -> Iterator[str]:
    """Printable characters, then letters by twos and threes, with a space before them or not."""
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    yield space
    yield from (chr(code) for code in range(33, 127))
    letters = string.ascii_lowercase
    for length in (1, 2, 3):
        for some in itertools.product(letters, repeat=length):
            if length > 1:
                yield "".join(some)
            yield space + "".join(some)
