"""Small GGUF files, written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

DEMO_MODELS = Path(__file__).resolve().parents[4] / "deploy" / "demo" / "models"
TINY = DEMO_MODELS / "tiny.gguf"

UINT32 = 4
STRING = 8
ARRAY = 9


def text(value: str) -> bytes:
    """A GGUF string."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def number(key: str, value: int) -> bytes:
    """A key with a uint32."""
    return text(key) + struct.pack("<II", UINT32, value)


def numbers(key: str, values: list[int]) -> bytes:
    """A key with an array of uint32."""
    head = struct.pack("<IIQ", ARRAY, UINT32, len(values))
    return text(key) + head + struct.pack(f"<{len(values)}I", *values)


def word(key: str, value: str) -> bytes:
    """A key with a string."""
    return text(key) + struct.pack("<I", STRING) + text(value)


def write_header(path: Path, *entries: bytes, version: int = 3) -> Path:
    """A file with a header and no tensors."""
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, len(entries)) + b"".join(entries))
    return path
