"""llama.cpp's samplers: a chain that draws, and a grammar that says what may be drawn."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Final

import llama_cpp.llama_cpp as api
import numpy as np

from edge_agent.adapters.llama_cpp.gbnf import GrammarError, check_grammar
from edge_agent.adapters.llama_cpp.json_schema import schema_grammar
from edge_agent.adapters.llama_cpp.sampling import SamplingSettings, invalid, unsupported
from edge_agent.adapters.llama_cpp.sequence_model import DEAD_END
from edge_agent.adapters.llama_cpp.tools import CallGrammar
from edge_agent.adapters.llama_cpp.vocabulary import Vocabulary
from edge_agent.ports import ArmFailed

_ENTRY: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """All tokens with their logits, as samplers take them; one serves every answer of a model.

    Grammars know control tokens by their names, as if they were text. As the answer does not show
    them, they are left out.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        size = vocabulary.size
        self._silent = np.array(vocabulary.silent(), dtype=np.int64)
        self._entries = np.zeros(size, dtype=_ENTRY)
        self._ids = np.arange(size, dtype=np.int32)
        self._data: Any = self._entries.ctypes.data_as(ctypes.POINTER(api.llama_token_data))
        self._array = api.llama_token_data_array()
        self._reference = ctypes.byref(self._array)

    def fill(self, logits: np.ndarray[Any, Any]) -> Any:
        """Every token with its logit; what samplers take."""
        self._entries["id"], self._entries["logit"] = self._ids, logits
        self._entries["logit"][self._silent] = -np.inf
        return self._of(len(self._ids))

    def single(self, token: int) -> Any:
        """One token alone."""
        self._entries[0] = (token, 0.0, 0.0)
        return self._of(1)

    def chosen(self) -> tuple[int, float]:
        """The token that was selected, and its logit."""
        entry = self._array.data[self._array.selected]
        return int(entry.id), float(entry.logit)

    def first_logit(self) -> float:
        """The logit that the first entry is left with."""
        return float(self._array.data[0].logit)

    def _of(self, size: int) -> Any:
        self._array.data = self._data
        self._array.size, self._array.selected, self._array.sorted = size, -1, False
        return self._reference


class Sampler:
    """Draws the tokens of one answer; has a state of its own.

    A grammar is asked about the token that was drawn, and only if it forbids that one about all
    the others: that is much less work, and most tokens are allowed.

    Raises
    ------
    ArmFailed
        `invalid_request` or `unsupported`, when a grammar or a token id is wrong for the model.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        *,
        vocabulary: Vocabulary,
        candidates: Candidates,
        tokens_max: int,
        calls: CallGrammar | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._candidates = candidates
        self._chain: Any = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        self._grammar: Any = None
        self._waits_for = ""
        self._tail = ""
        try:
            for part in self._parts(settings, tokens_max):
                api.llama_sampler_chain_add(self._chain, part)
            if calls is not None:
                self._grammar = self._parsed("tools", calls.text)
                self._waits_for = calls.after
            elif settings.grammar or settings.json_schema:
                self._grammar = self._grammar_of(settings)
        except ArmFailed:
            self.close()
            raise

    def sample(self, context: Any, row: int) -> int:
        """Draw a token from the logits of a batch row; `DEAD_END` if none is allowed."""
        if self._grammar is None or self._waits_for:
            token = int(api.llama_sampler_sample(self._chain, context, row))
            if self._waits_for:
                self._look_for_begin(token)
            return token
        token = self._draw(logits_of(context, row, self._vocabulary.size))
        if token != DEAD_END:
            api.llama_sampler_accept(self._chain, token)
            api.llama_sampler_accept(self._grammar, token)
        return token

    def close(self) -> None:
        """Free the samplers; may be called twice."""
        for sampler in (self._chain, self._grammar):
            if sampler is not None:
                api.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _draw(self, logits: np.ndarray[Any, Any]) -> int:
        array = self._candidates.fill(logits)
        api.llama_sampler_apply(self._chain, array)
        token, _ = self._candidates.chosen()
        if self._allows(token):
            return token
        array = self._candidates.fill(logits)
        api.llama_sampler_apply(self._grammar, array)
        api.llama_sampler_apply(self._chain, array)
        token, logit = self._candidates.chosen()
        # llama.cpp ends the process if a grammar gets a token that it forbids.
        return token if math.isfinite(logit) and self._allows(token) else DEAD_END

    def _allows(self, token: int) -> bool:
        array = self._candidates.single(token)
        api.llama_sampler_apply(self._grammar, array)
        return math.isfinite(self._candidates.first_logit())

    def _look_for_begin(self, token: int) -> None:
        """Put the grammar into force once the text has come after which it holds."""
        begin = self._waits_for
        self._tail += self._vocabulary.piece(token).decode("utf-8", "replace")
        if begin == "{":
            # The answer as a whole is a call, or it is none.
            text = self._tail.lstrip()
            if text:
                self._begin(text) if text.startswith(begin) else self._drop()
            return
        _, found, rest = self._tail.partition(begin)
        if found:
            self._begin(rest)
        else:
            self._tail = self._tail[-len(begin) :]

    def _begin(self, text: str) -> None:
        """The grammar holds from here on; it has to take what the last token said already."""
        self._waits_for = ""
        text = text.strip()  # it allows white space anew
        size = len(text.encode()) + 1
        for token in self._vocabulary.tokens(text, tokens_max=size, add_special=False):
            if not self._allows(token):
                self._drop()
                return
            api.llama_sampler_accept(self._grammar, token)

    def _drop(self) -> None:
        api.llama_sampler_free(self._grammar)
        self._grammar, self._waits_for = None, ""

    def _parts(self, settings: SamplingSettings, tokens_max: int) -> list[Any]:
        parts = []
        size = self._vocabulary.size
        if settings.logit_bias:
            parts.append(_logit_bias(settings, size))
        if settings.penalises:
            penalties = (
                settings.repeat_penalty,
                settings.frequency_penalty,
                settings.presence_penalty,
            )
            parts.append(api.llama_sampler_init_penalties(size, tokens_max, *penalties))
        if settings.temperature == 0.0:
            return [*parts, api.llama_sampler_init_greedy()]
        if settings.top_k > 0:
            parts.append(api.llama_sampler_init_top_k(settings.top_k))
        if settings.top_p < 1.0:
            parts.append(api.llama_sampler_init_top_p(settings.top_p, 1))
        if settings.min_p > 0.0:
            parts.append(api.llama_sampler_init_min_p(settings.min_p, 1))
        parts.append(api.llama_sampler_init_temp(settings.temperature))
        seed = api.LLAMA_DEFAULT_SEED if settings.seed is None else settings.seed
        parts.append(api.llama_sampler_init_dist(seed))
        return parts

    def _grammar_of(self, settings: SamplingSettings) -> Any:
        if settings.grammar:
            try:
                check_grammar(settings.grammar)
            except GrammarError as error:
                raise invalid("grammar", settings.grammar, str(error)) from error
            return self._parsed("grammar", settings.grammar)
        try:
            text = schema_grammar(settings.json_schema)
        except GrammarError as error:
            raise unsupported("response_format", f"in the JSON schema {error}") from error
        return self._parsed("response_format", text)

    def _parsed(self, field: str, text: str) -> Any:
        encoded = text.encode("utf-8", "replace")
        sampler = api.llama_sampler_init_grammar(self._vocabulary.handle, encoded, b"root")
        if not sampler:
            raise invalid(field, text, "llama.cpp cannot parse the grammar; see its GBNF guide")
        return sampler


def logits_of(context: Any, row: int, size: int) -> np.ndarray[Any, Any]:
    """The logits of a batch row, where llama.cpp keeps them until the next batch."""
    return np.ctypeslib.as_array(api.llama_get_logits_ith(context, row), (size,))


def _logit_bias(settings: SamplingSettings, size: int) -> Any:
    for token, _ in settings.logit_bias:
        if token >= size:
            raise invalid("logit_bias", token, f"the model has tokens 0 to {size - 1}")
    pairs = [api.llama_logit_bias(token, bias) for token, bias in settings.logit_bias]
    entries = (api.llama_logit_bias * len(pairs))(*pairs)
    return api.llama_sampler_init_logit_bias(size, len(entries), entries)
