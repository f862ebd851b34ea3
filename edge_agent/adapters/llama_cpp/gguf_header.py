"""Read from a GGUF file's header what it will take in memory, without loading it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from edge_agent.ports import LocalModel
from shared.errors import TidegateError

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_SCALARS: Final = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING: Final = 8
_ARRAY: Final = 9
_KEYS_MAX: Final = 65_536
_STRING_BYTES_MAX: Final = 64 * 1024 * 1024
_KV_ELEMENT_BYTES: Final = 2
_POOLINGS: Final = (1, 2, 3)
"""Mean, first token, last token: how a text becomes one vector."""


class ModelFileError(TidegateError):
    """A model file is missing or cannot be used; the message says what to do."""

    code = "model_file"


@dataclass(frozen=True)
class GgufShape:
    """The dimensions that decide a model's memory.

    Attributes
    ----------
    file_bytes : int
        Size of the file: the weights, near enough.
    kv_bytes_per_token : int
        Keys and values of one token in all layers, in half precision; 0 if the header does not
        tell.
    embeds : bool
        Whether it makes embeddings instead of text.
    """

    file_bytes: int
    kv_bytes_per_token: int
    embeds: bool = False


def memory_bytes(model: LocalModel) -> int:
    """What the model takes when it is loaded: weights and KV cache of all its sequences.

    Raises
    ------
    ModelFileError
        When the file is missing or no GGUF.
    """
    shape = read_shape(Path(model.path))
    # Texts that become vectors share one cache, and need none at all in most models.
    tokens = model.context_tokens * (1 if shape.embeds else model.batch_sequences)
    return shape.file_bytes + shape.kv_bytes_per_token * tokens


def read_shape(path: Path) -> GgufShape:
    """The dimensions in a GGUF file's header.

    Raises
    ------
    ModelFileError
        When the file is missing, no GGUF, or ends within its header.
    """
    metadata = read_metadata(path, vocabulary=False)
    return GgufShape(
        file_bytes=path.stat().st_size,
        kv_bytes_per_token=_kv_bytes(metadata),
        embeds=metadata.get(f"{metadata.get('general.architecture')}.pooling_type") in _POOLINGS,
    )


def read_metadata(path: Path, *, vocabulary: bool = True) -> dict[str, Any]:
    """What a GGUF file's header says.

    Parameters
    ----------
    vocabulary : bool
        Whether to read on where the vocabulary begins, which is long.

    Raises
    ------
    ModelFileError
        When the file is missing, no GGUF, or ends within its header.
    """
    try:
        with path.open("rb") as file:
            metadata = _read(file, path, vocabulary=vocabulary)
            _kv_bytes(metadata)
    except OSError as error:
        raise ModelFileError(
            f"the model file {path} cannot be read ({error.strerror}): download it again, or "
            "correct `path` in the agent's configuration"
        ) from error
    except (struct.error, EOFError) as error:
        raise ModelFileError(
            f"the model file {path} ends within its header: the download is incomplete; "
            "download it again"
        ) from error
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"the header of {path} is damaged ({error}): download it again"
        ) from error
    return metadata


def _read(file: BinaryIO, path: Path, *, vocabulary: bool) -> dict[str, Any]:
    magic = file.read(4)
    if magic != _MAGIC:
        raise ModelFileError(
            f"{path} is no GGUF file (it starts with {magic!r}): give a GGUF model, such as one "
            "that llama.cpp's convert_hf_to_gguf.py wrote"
        )
    (version,) = _unpack(file, "I")
    if version not in _VERSIONS:
        raise ModelFileError(
            f"{path} is GGUF version {version}, and {_VERSIONS} can be read: convert it anew"
        )
    _, keys = _unpack(file, "QQ")
    if keys > _KEYS_MAX:
        raise ModelFileError(f"the header of {path} is damaged ({keys} keys): download it again")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = _string(file).decode("utf-8", "replace")
        # The vocabulary is long and says nothing about memory; writers put it last.
        if not vocabulary and key.startswith("tokenizer.") and _kv_bytes(metadata):
            break
        (kind,) = _unpack(file, "I")
        metadata[key] = _value(file, kind)
    return metadata


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file).decode("utf-8", "replace")
    if kind == _ARRAY:
        element, count = _unpack(file, "IQ")
        if element in _SCALARS:
            return _unpack(file, f"{count}{_SCALARS[element]}")
        return [_value(file, element) for _ in range(count)]
    if kind not in _SCALARS:
        raise EOFError(f"unknown value type {kind}")
    return _unpack(file, _SCALARS[kind])[0]


def _string(file: BinaryIO) -> bytes:
    (size,) = _unpack(file, "Q")
    return _exactly(file, size)


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    packed = struct.Struct(f"<{layout}")
    return packed.unpack(_exactly(file, packed.size))


def _exactly(file: BinaryIO, size: int) -> bytes:
    if size > _STRING_BYTES_MAX:
        raise EOFError(f"a value of {size} bytes")
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{len(data)} of {size} bytes")
    return data


def _kv_bytes(metadata: dict[str, Any]) -> int:
    """Bytes of one token's keys and values; 0 where the header does not tell."""
    architecture = metadata.get("general.architecture")

    def number(key: str, default: Any = 0) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    layers, heads = number("block_count"), number("attention.head_count")
    width = number("embedding_length")
    if not layers or not heads or not width:
        return 0
    kv_heads = number("attention.head_count_kv", heads)
    heads_total = sum(kv_heads) if isinstance(kv_heads, tuple) else kv_heads * layers
    head_width = width // (max(heads) if isinstance(heads, tuple) else heads)
    key_width = number("attention.key_length", head_width)
    value_width = number("attention.value_length", head_width)
    return int(heads_total * (key_width + value_width) * _KV_ELEMENT_BYTES)
