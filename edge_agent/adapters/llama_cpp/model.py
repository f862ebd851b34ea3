"""A thin, typed wrapper around llama-cpp-python's low-level API.

One `LlamaModel` may be loaded in any thread, and must then be used by one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import llama_cpp.llama_cpp as api
import numpy as np
import psutil

from edge_agent.adapters.llama_cpp.batch import Batch
from edge_agent.adapters.llama_cpp.chat_template import ChatTemplate
from edge_agent.adapters.llama_cpp.gbnf import GrammarError
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError
from edge_agent.adapters.llama_cpp.native_log import native_log
from edge_agent.adapters.llama_cpp.outputs import TokenLogprob
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.sampler import Candidates, Sampler, logits_of
from edge_agent.adapters.llama_cpp.sampling import unsupported
from edge_agent.adapters.llama_cpp.sequence_model import BatchPart, DecodeError
from edge_agent.adapters.llama_cpp.tools import CallGrammar, ToolFormat, call_grammar
from edge_agent.adapters.llama_cpp.vocabulary import Vocabulary
from edge_agent.ports import LocalModel

BATCH_TOKENS: Final = 512
PIECE_TOKENS: Final = 64
"""Prompt tokens that are processed at once: how long an answer waits for another's prompt.

More are no faster on a CPU (294 tokens/s by 64, 286 by 128, 300 by 512), and 32 are much slower
(180): flash attention has a better kernel from 64 on. A GPU likes as many as it can get.
"""

SMALL_FILE_BYTES: Final = 16 * 1024 * 1024
"""Below it a step is over before a second thread has woken up."""


class LlamaModel:
    """A loaded model with a context for several sequences.

    Parameters
    ----------
    settings : LocalModel
        `context_tokens` holds per sequence and is capped by what the model was trained for.

    Raises
    ------
    ModelFileError
        When the file cannot be loaded, or memory does not suffice.
    """

    def __init__(self, settings: LocalModel) -> None:
        self.arm = settings.arm
        self.sequences = settings.batch_sequences
        self.batch_tokens = BATCH_TOKENS
        self.piece_tokens = BATCH_TOKENS if settings.gpu_layers else PIECE_TOKENS
        self._context: Any = None
        self._model = load_file(settings)
        try:
            trained: int = api.llama_model_n_ctx_train(self._model)
            self.context_tokens = min(settings.context_tokens, trained or settings.context_tokens)
            self._vocabulary = Vocabulary(self._model, arm=settings.arm)
            self._template = self._read_template()
            self._context = open_context(self._model, self._parameters(settings), settings)
        except ModelFileError:
            self.close()
            raise
        self._memory: Any = api.llama_get_memory(self._context)
        self._batch = Batch(self.batch_tokens)
        self._candidates = Candidates(self._vocabulary)

    @property
    def tools(self) -> ToolFormat | None:
        """How the model writes calls of tools; None if it knows no tools."""
        return self._template.tools

    def _read_template(self) -> ChatTemplate:
        raw = api.llama_model_chat_template(self._model, None)
        source = raw.decode("utf-8", "replace") if raw else ""
        template = ChatTemplate(source, vocabulary=self._vocabulary, arm=self.arm)
        if template.tools is not None:
            for marker in filter(None, (template.tools.begin, template.tools.end)):
                self._vocabulary.show(marker)
        return template

    def _parameters(self, settings: LocalModel) -> Any:
        params = api.llama_context_default_params()
        params.n_ctx = self.context_tokens * self.sequences
        params.n_seq_max = self.sequences
        params.n_batch = params.n_ubatch = self.batch_tokens
        # Logits are kept for one token of each sequence, not for a whole prompt.
        params.n_outputs_max = self.sequences
        # An answer must not depend on its company, so each sequence has a buffer of its own.
        # Flash attention, llama.cpp's default, keeps that: the logits of one sequence and of the
        # same one among eight are equal to the last bit (Q4_0, contexts of 100 to 1,500 tokens).
        params.kv_unified = False
        return params

    def prompt(self, spec: ChatSpec) -> list[int]:
        """A request's prompt as tokens: its messages in the model's chat template, or its text.

        Raises
        ------
        ArmFailed
            `unsupported`, when the template refuses the messages or knows no tools.
        """
        if spec.tools is not None and self.tools is None:
            raise unsupported("tools", f"the chat template of {self.arm} knows no tools")
        if spec.prompt is None:
            tools = spec.tools.tools if spec.tools is not None else ()
            text, add_special = self._template.render(spec.messages, tools=tools)
        else:
            text, add_special = spec.prompt, True
        return self._vocabulary.tokens(
            text, tokens_max=self.context_tokens, add_special=add_special
        )

    def sampler(self, spec: ChatSpec, choice: int) -> Sampler:
        """A fresh sampler for one of a request's answers.

        Raises
        ------
        ArmFailed
            When its grammar or its token ids are wrong for the model.
        """
        return Sampler(
            spec.sampling.for_choice(choice),
            vocabulary=self._vocabulary,
            candidates=self._candidates,
            tokens_max=self.context_tokens,
            calls=self._call_grammar(spec),
        )

    def _call_grammar(self, spec: ChatSpec) -> CallGrammar | None:
        if spec.tools is None or self.tools is None:
            return None
        try:
            return call_grammar(spec.tools, self.tools, otherwise=spec.sampling.json_schema)
        except GrammarError as error:
            raise unsupported("tools", f"in a JSON schema {error}") from error

    def decode(self, parts: Sequence[BatchPart]) -> list[int]:
        """Run one batch; the row of each part's last token, to sample from.

        Raises
        ------
        DecodeError
            When llama.cpp refuses the batch; what the slots hold is then unknown.
        """
        rows = self._batch.fill(parts)
        code = api.llama_decode(self._context, self._batch.struct)
        if code != 0:
            raise DecodeError(
                f"llama_decode gave {code} for {self._batch.struct.n_tokens} tokens of {self.arm}"
            )
        return rows

    def sample(self, sampler: Sampler, row: int) -> int:
        """Draw a token from a row of the last batch."""
        return sampler.sample(self._context, row)

    def logprob(self, token: int, row: int, top: int) -> TokenLogprob:
        """How likely a token was in a row of the last batch, and which were the likeliest."""
        logits = logits_of(self._context, row, self._vocabulary.size).astype(np.float64)
        highest = logits.max()
        logprobs = logits - (highest + np.log(np.exp(logits - highest).sum()))
        best = np.argpartition(-logprobs, top)[:top] if top else np.empty(0, dtype=np.int64)
        return TokenLogprob(
            float(logprobs[token]),
            self.piece(token),
            tuple(
                (float(logprobs[other]), self.piece(int(other)))
                for other in best[np.argsort(-logprobs[best], kind="stable")]
            ),
        )

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        return self._vocabulary.piece(token)

    def is_end(self, token: int) -> bool:
        """Whether a token ends the generation."""
        return self._vocabulary.is_end(token)

    def trim(self, slot: int, length: int) -> bool:
        """Forget what a slot holds from position `length` on.

        False if the model's memory cannot forget in part; the slot is then unchanged.
        """
        return bool(api.llama_memory_seq_rm(self._memory, slot, length, -1))

    def copy(self, source: int, target: int, length: int) -> bool:
        """Make `target` hold the first `length` tokens of `source`; False if it cannot."""
        api.llama_memory_seq_rm(self._memory, target, -1, -1)
        # Between buffers llama.cpp copies all or nothing.
        api.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        return self.trim(target, length)

    def clear(self) -> None:
        """Forget what all slots hold."""
        api.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the memory; may be called twice."""
        if self._context is not None:
            api.llama_free(self._context)
            self._context = None
        if self._model is not None:
            api.llama_model_free(self._model)
            self._model = None


def load_file(settings: LocalModel) -> Any:
    """The weights of a model.

    Raises
    ------
    ModelFileError
        When llama.cpp cannot load it.
    """
    params = api.llama_model_default_params()
    params.n_gpu_layers = settings.gpu_layers
    native_log.errors.clear()
    model = api.llama_model_load_from_file(os.fsencode(settings.path), params)
    if not model:
        raise ModelFileError(
            f"llama.cpp cannot load {settings.path} ({'; '.join(native_log.errors)}): download the "
            "file again, or convert it with a llama.cpp of this agent's age"
        )
    return model


def open_context(model: Any, params: Any, settings: LocalModel) -> Any:
    """A context with these parameters, which get the threads.

    Raises
    ------
    ModelFileError
        When there is no memory for it.
    """
    params.n_threads = params.n_threads_batch = settings.threads or default_threads(settings)
    params.no_perf = True
    native_log.errors.clear()
    context = api.llama_init_from_model(model, params)
    if not context:
        raise ModelFileError(
            f"llama.cpp cannot make a context of {params.n_ctx} tokens for {settings.path} "
            f"({'; '.join(native_log.errors)}): lower `context_tokens` or `batch_sequences`"
        )
    return context


def default_threads(settings: LocalModel) -> int:
    """As many threads as this process may use physical cores; one for a very small model."""
    if Path(settings.path).stat().st_size < SMALL_FILE_BYTES:
        return 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    physical = psutil.cpu_count(logical=False) or 0
    counts = [count for count in (allowed, physical) if count > 0]
    return min(counts) if counts else 1
