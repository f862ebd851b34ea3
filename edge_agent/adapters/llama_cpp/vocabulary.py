"""A model's tokens, and text as tokens."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import llama_cpp.llama_cpp as api

from edge_agent.ports import ArmFailed

TOKEN_BYTES_MAX: Final = 256
"""More than any token has; a prompt with more bytes than tokens of this size cannot fit."""


class Vocabulary:
    """The tokens of a loaded model.

    Parameters
    ----------
    model : llama_model pointer
        Must outlive the vocabulary.
    arm : str
        For messages.
    """

    def __init__(self, model: Any, *, arm: str) -> None:
        self.handle: Any = api.llama_model_get_vocab(model)
        self.size: int = api.llama_vocab_n_tokens(self.handle)
        self._arm = arm
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    @property
    def bos(self) -> str:
        """The text of the token that begins a prompt; empty if there is none."""
        return self.text(api.llama_vocab_bos(self.handle))

    @property
    def eos(self) -> str:
        """The text of the token that ends an answer; empty if there is none."""
        return self.text(api.llama_vocab_eos(self.handle))

    def text(self, token: int) -> str:
        """A token as the vocabulary writes it."""
        if token < 0:
            return ""
        text = api.llama_vocab_get_text(self.handle, token)
        return text.decode("utf-8", "replace") if text else ""

    def tokens(
        self, text: str, *, tokens_max: int, add_special: bool, special: bool = True
    ) -> list[int]:
        """A text as tokens.

        Parameters
        ----------
        tokens_max : int
            A text that cannot fit is refused before the work; the result may still be longer.
        add_special : bool
            Begin and end as the model wants it.
        special : bool
            Read the names of control tokens as these tokens.

        Raises
        ------
        ArmFailed
            `context_length_exceeded` or `invalid_request`.
        """
        data = text.encode("utf-8", "replace")
        if len(data) > tokens_max * TOKEN_BYTES_MAX:
            # Told apart early: to tokenise megabytes would hold up every other answer.
            raise ArmFailed(
                "context_length_exceeded",
                f"the prompt has {len(data)} bytes, far more than the {tokens_max} tokens of "
                f"{self._arm}: shorten it, or choose an arm with a longer context",
            )
        size = len(data) + 2
        found = (api.llama_token * size)()
        count = api.llama_tokenize(self.handle, data, len(data), found, size, add_special, special)
        if count < 0:
            raise ArmFailed(
                "invalid_request", f"a prompt of {len(data)} bytes cannot be turned into tokens"
            )
        return list(found[:count])

    def show(self, marker: str) -> None:
        """Let the control token with this name, if there is one, count as text of the answer."""
        token = self.tokens(marker, tokens_max=len(marker), add_special=False)
        if len(token) == 1:
            self._pieces[token[0]] = self._read_piece(token[0], special=True)

    def silent(self) -> list[int]:
        """The control tokens that add nothing to the text and do not end it."""
        return [
            token
            for token in range(self.size)
            if api.llama_vocab_is_control(self.handle, token)
            and not self.is_end(token)
            and not self.piece(token)
        ]

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        size = TOKEN_BYTES_MAX
        while True:
            buffer = (ctypes.c_char * size)()
            count = api.llama_token_to_piece(self.handle, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def is_end(self, token: int) -> bool:
        """Whether a token ends the generation."""
        end = self._ends.get(token)
        if end is None:
            end = self._ends[token] = bool(api.llama_vocab_is_eog(self.handle, token))
        return end
