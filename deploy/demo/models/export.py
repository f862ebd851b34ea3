"""Write a trained transformer as GGUF and let llama.cpp quantise it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import model
import numpy as np
from torch import Tensor

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% elif message['role'] == 'system' %}"
    "<|system|>{{ message['content'] }}"
    "{% else %}"
    "<|user|>{{ message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""How the messages of a chat become a prompt; what the models were trained on."""

QUANTISATIONS: dict[str, int] = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def _vocabulary() -> tuple[list[str], list[int]]:
    kinds = gguf.TokenType
    texts = [*model.SPECIAL_TOKENS, "\N{LOWER ONE EIGHTH BLOCK}"]
    types = [kinds.UNKNOWN, *([kinds.CONTROL] * (len(model.SPECIAL_TOKENS) - 1)), kinds.NORMAL]
    texts += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [kinds.BYTE] * 256
    return texts, [int(kind) for kind in types]


def _array(weight: Tensor, half: bool) -> np.ndarray:
    values: np.ndarray = weight.detach().cpu().numpy()
    return values.astype(np.float16 if half else np.float32)


def _tensors(trained: model.Transformer) -> dict[str, Tensor]:
    tensors = {
        "token_embd.weight": trained.embedding.weight,
        "output_norm.weight": trained.norm.weight,
    }
    for index, block in enumerate(trained.blocks):
        assert isinstance(block, model.Block)
        query, key, value = block.query_key_value.weight.chunk(3)
        gate, up = block.gate_up.weight.chunk(2)
        parts = {
            "attn_norm": block.attention_norm.weight,
            "attn_q": query,
            "attn_k": key,
            "attn_v": value,
            "attn_output": block.attention_out.weight,
            "ffn_norm": block.feed_norm.weight,
            "ffn_gate": gate,
            "ffn_up": up,
            "ffn_down": block.down.weight,
        }
        tensors.update({f"blk.{index}.{name}.weight": part for name, part in parts.items()})
    return tensors


def write_gguf(trained: model.Transformer, path: Path) -> None:
    """Write a model as GGUF with half-precision matrices.

    Parameters
    ----------
    trained : model.Transformer
        The model to write.
    path : pathlib.Path
        The file to write.
    """
    config = trained.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"Tidegate demo {config.name}")
    writer.add_description("Byte-level demo model for generated text tasks")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(model.CONTEXT_LENGTH)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(model.ROPE_THETA)
    writer.add_layer_norm_rms_eps(model.NORM_EPS)
    writer.add_vocab_size(model.VOCAB_SIZE)
    texts, types = _vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores([0.0] * len(texts))
    writer.add_token_types(types)
    writer.add_unk_token_id(model.UNK_ID)
    writer.add_bos_token_id(model.BOS_ID)
    writer.add_eos_token_id(model.EOS_ID)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weight in _tensors(trained).items():
        writer.add_tensor(name, _array(weight, half=weight.dim() > 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, target: Path, kind: str) -> None:
    """Quantise a GGUF file with llama.cpp.

    Parameters
    ----------
    source : pathlib.Path
        The file to read.
    target : pathlib.Path
        The file to write; it is replaced in one step.
    kind : str
        One of :data:`QUANTISATIONS`.

    Raises
    ------
    RuntimeError
        If llama.cpp fails.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = QUANTISATIONS[kind]
    params.nthread = 1
    part = target.with_name(f".{target.name}.part")
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(part).encode(), ctypes.byref(params)
    )
    if status != 0:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"llama.cpp could not quantise {source}: status {status}")
    part.replace(target)
