"""What a model takes, read from its file's header."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.llama_cpp.gguf_header import (
    GgufShape,
    ModelFileError,
    memory_bytes,
    read_shape,
)
from edge_agent.ports import LocalModel
from tests.unit.edge_agent.llama_cpp.gguf_files import (
    TINY,
    number,
    numbers,
    text,
    word,
    write_header,
)

SHAPE = (
    word("general.architecture", "llama"),
    number("llama.block_count", 3),
    number("llama.embedding_length", 64),
    number("llama.attention.head_count", 4),
)


def test_keys_and_values_follow_from_the_dimensions(tmp_path: Path) -> None:
    """3 layers of 2 heads with 16 numbers each, for keys and for values, in 2 bytes."""
    path = write_header(
        tmp_path / "m.gguf", *SHAPE, number("llama.attention.head_count_kv", 2), text("tokenizer.x")
    )
    assert GgufShape(path.stat().st_size, 3 * 2 * (16 + 16) * 2) == read_shape(path)


def test_heads_may_differ_between_layers(tmp_path: Path) -> None:
    """Some architectures have layers without a cache."""
    kv_heads = numbers("llama.attention.head_count_kv", [4, 0, 1])
    path = write_header(tmp_path / "m.gguf", *SHAPE, kv_heads)
    assert 5 * (16 + 16) * 2 == read_shape(path).kv_bytes_per_token


def test_head_widths_may_be_given(tmp_path: Path) -> None:
    """They need not be the width divided by the heads."""
    widths = (
        number("llama.attention.key_length", 128),
        number("llama.attention.value_length", 64),
    )
    path = write_header(tmp_path / "m.gguf", *SHAPE, *widths)
    assert 3 * 4 * (128 + 64) * 2 == read_shape(path).kv_bytes_per_token


def test_an_unknown_architecture_counts_its_file_alone(tmp_path: Path) -> None:
    """An estimate that is too small is better than no answer."""
    path = write_header(tmp_path / "m.gguf", word("general.architecture", "new"))
    assert GgufShape(path.stat().st_size, 0) == read_shape(path)


def test_the_cache_of_every_sequence_is_counted() -> None:
    """The demo's smallest model, with twice the sequences, takes twice the cache."""
    sizes = [
        memory_bytes(LocalModel(arm="a", path=str(TINY), batch_sequences=count)) for count in (2, 4)
    ]
    file_bytes = TINY.stat().st_size
    assert 2 * (sizes[0] - file_bytes) == sizes[1] - file_bytes > 0


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<html>", "is no GGUF file"),
        (b"", "is no GGUF file"),
        (b"GGUF\x01\x00\x00\x00", "GGUF version 1"),
        (b"GGUF\x03\x00\x00\x00\x01", "ends within its header"),
        (b"GGUF\x03\x00\x00\x00" + b"\x00" * 8 + b"\xff" * 8, "is damaged"),
        (b"GGUF\x03\x00\x00\x00" + b"\x00" * 8 + b"\x01" + b"\x00" * 7 + b"\xff" * 8, "header"),
    ],
)
def test_a_broken_file_is_told_with_what_to_do(tmp_path: Path, data: bytes, problem: str) -> None:
    """The message names the file."""
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=problem) as caught:
        read_shape(path)
    assert str(path) in str(caught.value)


@given(at=st.integers(4, 600), noise=st.binary(min_size=1, max_size=9))
def test_a_damaged_header_is_never_more_than_a_model_file_error(at: int, noise: bytes) -> None:
    """Whatever bytes are in it, the agent keeps running."""
    data = bytearray(TINY.read_bytes()[:20_000])
    data[at : at + len(noise)] = noise
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        path.write_bytes(data)
        with suppress(ModelFileError):
            assert read_shape(path).kv_bytes_per_token >= 0


def test_a_missing_file_is_told_with_its_path(tmp_path: Path) -> None:
    """And a directory in its place is not read either."""
    with pytest.raises(ModelFileError, match="No such file"):
        read_shape(tmp_path / "gone.gguf")
    with pytest.raises(ModelFileError, match="Is a directory"):
        read_shape(tmp_path)
