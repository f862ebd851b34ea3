"""Counts tokens as the cloud model's provider does: with the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter


class ProviderTokens:
    """The tokenizer and chat template of a GGUF file; its weights are not loaded.

    Parameters
    ----------
    path : pathlib.Path
        The GGUF file, which must carry a chat template.

    Raises
    ------
    ValueError
        When the file carries no chat template.
    """

    def __init__(self, path: Path) -> None:
        self._model = llama_cpp.Llama(str(path), vocab_only=True, n_ctx=8, n_batch=8, verbose=False)
        template = self._model.metadata.get("tokenizer.chat_template")
        if not template:
            raise ValueError(f"{path} carries no chat template: prompts cannot be counted")
        self._formatter = Jinja2ChatFormatter(
            template=template,
            eos_token=self._text(self._model.token_eos()),
            bos_token=self._text(self._model.token_bos()),
            stop_token_ids=[self._model.token_eos()],
        )

    def prompt_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """The tokens of a chat's prompt, the template's included."""
        formatted = self._formatter(messages=cast(Any, list(messages)))
        tokens = self._model.tokenize(
            formatted.prompt.encode(), add_bos=not formatted.added_special, special=True
        )
        return len(tokens)

    def completion_tokens(self, text: str) -> int:
        """The tokens of a generated text."""
        if not text:
            return 0
        return len(self._model.tokenize(text.encode(), add_bos=False, special=False))

    def _text(self, token: int) -> str:
        return self._model.detokenize([token], special=True).decode() if token >= 0 else ""
