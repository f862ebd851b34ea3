"""What a model file can do, in the words of the fleet's `capabilities`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_agent.adapters.llama_cpp.gguf_header import read_metadata, read_shape
from edge_agent.adapters.llama_cpp.tools import tool_format

_OF_EVERY_CHAT_MODEL: Final = frozenset({"json_schema", "logprobs"})


def capabilities_of(path: Path) -> frozenset[str]:
    """What the model in a GGUF file can do: `embeddings`, or `json_schema`, `logprobs`, `tools`.

    Raises
    ------
    ModelFileError
        When the file is missing or no GGUF.
    """
    if read_shape(path).embeds:
        return frozenset({"embeddings"})
    template = read_metadata(path).get("tokenizer.chat_template")
    calls = isinstance(template, str) and tool_format(template) is not None
    return _OF_EVERY_CHAT_MODEL | {"tools"} if calls else _OF_EVERY_CHAT_MODEL
