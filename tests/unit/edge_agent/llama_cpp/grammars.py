"""Asks llama.cpp itself what a grammar allows, with the tokens of the smallest demo model."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Sequence
from typing import Any, Final

import llama_cpp.llama_cpp as api

from edge_agent.adapters.llama_cpp.native_log import start_backend
from edge_agent.adapters.llama_cpp.vocabulary import Vocabulary
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

EOS: Final = 2


class GrammarAsker:
    """Says whether texts follow a grammar, and makes some that do."""

    def __init__(self) -> None:
        start_backend(lambda level, text: None)
        params = api.llama_model_default_params()
        params.vocab_only = True
        self._model: Any = api.llama_model_load_from_file(os.fsencode(TINY), params)
        self.vocabulary = Vocabulary(self._model, arm="tiny")
        silent = self.vocabulary.silent()
        self._pieces = {
            token: self.vocabulary.piece(token)
            for token in range(self.vocabulary.size)
            if token not in silent
        }
        # Single bytes of a character may come together as none: llama.cpp counts them as one.
        self._whole = [token for token, piece in self._pieces.items() if piece.isascii()]
        self._of_byte = {piece[0]: t for t, piece in self._pieces.items() if len(piece) == 1}

    def close(self) -> None:
        """Free the vocabulary."""
        api.llama_model_free(self._model)

    def parses(self, grammar: str) -> bool:
        """Whether llama.cpp takes the grammar at all."""
        sampler = self._sampler(grammar)
        if sampler:
            api.llama_sampler_free(sampler)
        return bool(sampler)

    def follows(self, grammar: str, text: str) -> bool:
        """Whether a text as a whole is one that the grammar allows."""
        sampler = self._sampler(grammar)
        assert sampler, f"llama.cpp does not take the grammar:\n{grammar}"
        try:
            for byte in text.encode():
                token = self._of_byte[byte]
                if token not in self._allowed(sampler, [token]):
                    return False
                api.llama_sampler_accept(sampler, token)
            return EOS in self._allowed(sampler, [EOS])
        finally:
            api.llama_sampler_free(sampler)

    def example(self, grammar: str, rng: random.Random, *, bytes_max: int = 600) -> str | None:
        """A random text that the grammar allows; None if it did not come to an end."""
        sampler = self._sampler(grammar)
        assert sampler, f"llama.cpp does not take the grammar:\n{grammar}"
        said = b""
        try:
            while len(said) < bytes_max:
                allowed = self._allowed(sampler, self._whole)
                if EOS in allowed and (len(allowed) == 1 or rng.random() < 0.3):
                    return said.decode()
                token = self._pick([token for token in allowed if token != EOS], rng)
                api.llama_sampler_accept(sampler, token)
                said += self._pieces[token]
            return None
        finally:
            api.llama_sampler_free(sampler)

    def _pick(self, allowed: Sequence[int], rng: random.Random) -> int:
        """Any token, though more often one that closes something, so that there is an end."""
        closing = [
            self._of_byte[ord(sign)] for sign in '"}]' if self._of_byte[ord(sign)] in allowed
        ]
        return rng.choice(closing if closing and rng.random() < 0.3 else allowed)

    def _sampler(self, grammar: str) -> Any:
        return api.llama_sampler_init_grammar(self.vocabulary.handle, grammar.encode(), b"root")

    def _allowed(self, sampler: Any, tokens: Sequence[int]) -> set[int]:
        entries = (api.llama_token_data * len(tokens))(
            *(api.llama_token_data(token, 0.0, 0.0) for token in tokens)
        )
        array = api.llama_token_data_array(entries, len(tokens), -1, False)
        api.llama_sampler_apply(sampler, ctypes.byref(array))
        return {int(entry.id) for entry in entries if entry.logit != float("-inf")}
