"""llama.cpp's sampler chains."""

from __future__ import annotations

from typing import Any

import llama_cpp.llama_cpp as api
from llama_cpp.llama_grammar import json_schema_to_gbnf

from edge_agent.adapters.llama_cpp.sampling import SamplingSettings, invalid
from edge_agent.ports import ArmFailed


class Sampler:
    """A chain of llama.cpp samplers with its own state.

    Raises
    ------
    ArmFailed
        `invalid_request`, when a grammar or a token id is wrong for the model.
    """

    def __init__(self, settings: SamplingSettings, *, vocab: Any, tokens_max: int) -> None:
        self._vocab_size: int = api.llama_vocab_n_tokens(vocab)
        self._chain: Any = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        try:
            for part in self._parts(settings, vocab, tokens_max):
                api.llama_sampler_chain_add(self._chain, part)
        except ArmFailed:
            self.close()
            raise

    def sample(self, context: Any, row: int) -> int:
        """Draw a token from the logits of a batch row."""
        return int(api.llama_sampler_sample(self._chain, context, row))

    def close(self) -> None:
        """Free the chain; may be called twice."""
        if self._chain is not None:
            api.llama_sampler_free(self._chain)
            self._chain = None

    def _parts(self, settings: SamplingSettings, vocab: Any, tokens_max: int) -> list[Any]:
        parts = []
        if settings.logit_bias:
            parts.append(self._logit_bias(settings))
        if settings.grammar or settings.json_schema:
            parts.append(_grammar(settings, vocab))
        if settings.penalises:
            penalties = (
                settings.repeat_penalty,
                settings.frequency_penalty,
                settings.presence_penalty,
            )
            parts.append(api.llama_sampler_init_penalties(self._vocab_size, tokens_max, *penalties))
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

    def _logit_bias(self, settings: SamplingSettings) -> Any:
        for token, _ in settings.logit_bias:
            if token >= self._vocab_size:
                remedy = f"the model has tokens 0 to {self._vocab_size - 1}"
                raise invalid("logit_bias", token, remedy)
        pairs = [api.llama_logit_bias(token, bias) for token, bias in settings.logit_bias]
        entries = (api.llama_logit_bias * len(pairs))(*pairs)
        return api.llama_sampler_init_logit_bias(self._vocab_size, len(entries), entries)


def _grammar(settings: SamplingSettings, vocab: Any) -> Any:
    field, text = "grammar", settings.grammar
    if not text:
        field = "response_format"
        try:
            text = json_schema_to_gbnf(settings.json_schema)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            remedy = f"the JSON schema cannot be turned into a grammar ({error}): simplify it"
            raise invalid(field, settings.json_schema, remedy) from error
    sampler = api.llama_sampler_init_grammar(vocab, text.encode("utf-8", "replace"), b"root")
    if not sampler:
        raise invalid(field, text, "llama.cpp cannot parse the grammar; see its GBNF guide")
    return sampler
