"""A thin, typed wrapper around llama-cpp-python's low-level API.

Only this module and `sampler` touch `llama_cpp`. One `LlamaModel` may be loaded in any thread,
and must then be used by one thread at a time.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import llama_cpp.llama_cpp as api
import numpy as np
import psutil
from jinja2 import TemplateError
from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE, Jinja2ChatFormatter

from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, read_shape
from edge_agent.adapters.llama_cpp.sampler import Sampler
from edge_agent.adapters.llama_cpp.sampling import SamplingSettings
from edge_agent.adapters.llama_cpp.sequence_model import BatchPart, DecodeError
from edge_agent.ports import ArmFailed, LocalModel

BATCH_TOKENS: Final = 512
# The values of ggml.h; llama-cpp-python's own table is off by one.
_LEVELS: Final = {3: "warning", 4: "error"}
_LEVEL_CONTINUED: Final = 5
_PIECE_BYTES: Final = 256
SMALL_FILE_BYTES: Final = 16 * 1024 * 1024
"""Below it a step is over before a second thread has woken up."""

LogSink = Callable[[str, str], None]


class _Log:
    """llama.cpp's log: warnings and errors go to a sink, the last errors are remembered."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=4)
        self._sink: LogSink | None = None
        self._level = 0
        # The pointer must live as long as llama.cpp may call it.
        self._callback = api.llama_log_callback(self._receive)

    def install(self, sink: LogSink) -> None:
        self._sink = sink
        api.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _: object) -> None:
        self._level = self._level if level == _LEVEL_CONTINUED else level
        name = _LEVELS.get(self._level)
        line = text.decode("utf-8", "replace").strip() if name else ""
        if not line or name is None or self._sink is None:
            return
        if name == "error":
            self.errors.append(line)
        self._sink(name, line)


_log = _Log()


def start_backend(sink: LogSink) -> None:
    """Initialise llama.cpp once per process; its warnings and errors go to `sink`."""
    _log.install(sink)
    api.llama_backend_init()


class _Batch:
    """The arrays of a `llama_batch`, filled through NumPy."""

    def __init__(self, size: int) -> None:
        self.token = np.zeros(size, dtype=np.int32)
        self.position = np.zeros(size, dtype=np.int32)
        self.slot = np.zeros(size, dtype=np.int32)
        self.wanted = np.zeros(size, dtype=np.int8)
        self._one = np.ones(size, dtype=np.int32)
        start, stride = self.slot.ctypes.data, self.slot.itemsize
        self._slots = (ctypes.POINTER(ctypes.c_int32) * size)(
            *(
                ctypes.cast(start + stride * index, ctypes.POINTER(ctypes.c_int32))
                for index in range(size)
            )
        )
        self.struct = api.llama_batch(
            n_tokens=0,
            token=_pointer(self.token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self.position, ctypes.c_int32),
            n_seq_id=_pointer(self._one, ctypes.c_int32),
            seq_id=self._slots,
            logits=_pointer(self.wanted, ctypes.c_int8),
        )

    def fill(self, parts: Sequence[BatchPart]) -> list[int]:
        """Lay out the parts one after the other; the row of each part's last token."""
        rows, end = [], 0
        for part in parts:
            start, end = end, end + len(part.tokens)
            self.token[start:end] = part.tokens
            self.position[start:end] = range(part.position, part.position + end - start)
            self.slot[start:end] = part.slot
            self.wanted[start:end] = 0
            self.wanted[end - 1] = part.wanted
            rows.append(end - 1)
        self.struct.n_tokens = end
        return rows


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


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
        read_shape(Path(settings.path))
        self.arm = settings.arm
        self.sequences = settings.batch_sequences
        self.batch_tokens = BATCH_TOKENS
        self._context: Any = None
        self._model = self._load(settings)
        self._vocab: Any = api.llama_model_get_vocab(self._model)
        trained: int = api.llama_model_n_ctx_train(self._model)
        self.context_tokens = min(settings.context_tokens, trained or settings.context_tokens)
        self._context = self._open(settings)
        self._memory: Any = api.llama_get_memory(self._context)
        self._batch = _Batch(self.batch_tokens)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._formatter, self._bos = self._chat_formatter()

    def _load(self, settings: LocalModel) -> Any:
        params = api.llama_model_default_params()
        params.n_gpu_layers = settings.gpu_layers
        _log.errors.clear()
        model = api.llama_model_load_from_file(os.fsencode(settings.path), params)
        if not model:
            raise ModelFileError(
                f"llama.cpp cannot load {settings.path} ({'; '.join(_log.errors)}): download the "
                "file again, or convert it with a llama.cpp of this agent's age"
            )
        return model

    def _open(self, settings: LocalModel) -> Any:
        params = api.llama_context_default_params()
        params.n_ctx = self.context_tokens * self.sequences
        params.n_seq_max = self.sequences
        params.n_batch = params.n_ubatch = self.batch_tokens
        # Logits are kept for one token of each sequence, not for a whole prompt.
        params.n_outputs_max = self.sequences
        # An answer must not depend on its company, so each sequence has a buffer of its own, and
        # on CPUs flash attention is off: its sums depend on the batch. Beyond a few hundred
        # tokens it is slower there as well (81 against 53 tokens/s with 600 tokens in each of
        # four slots, 113 M parameters, one core).
        params.kv_unified = False
        if settings.gpu_layers == 0:
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = settings.threads or default_threads(settings)
        params.no_perf = True
        context = api.llama_init_from_model(self._model, params)
        if not context:
            self.close()
            raise ModelFileError(
                f"llama.cpp cannot make a context of {params.n_ctx} tokens for {settings.path} "
                f"({'; '.join(_log.errors)}): lower `context_tokens` or `batch_sequences`"
            )
        return context

    def _chat_formatter(self) -> tuple[Jinja2ChatFormatter, str]:
        raw = api.llama_model_chat_template(self._model, None)
        template = raw.decode("utf-8", "replace") if raw else CHATML_CHAT_TEMPLATE
        bos = self._token_text(api.llama_vocab_bos(self._vocab))
        eos = self._token_text(api.llama_vocab_eos(self._vocab))
        try:
            return Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos), bos
        except TemplateError as error:
            self.close()
            raise ModelFileError(
                f"the chat template of {self.arm} is broken ({error}): take another GGUF"
            ) from error

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        text = api.llama_vocab_get_text(self._vocab, token)
        return text.decode("utf-8", "replace") if text else ""

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The messages as tokens, rendered with the model's chat template.

        Raises
        ------
        ArmFailed
            `invalid_request`, when the template refuses the messages.
        """
        try:
            text = self._formatter(messages=list(messages)).prompt  # type: ignore[arg-type]  # plain mappings for its TypedDicts
        except (TemplateError, ValueError, TypeError) as error:
            raise ArmFailed(
                "invalid_request",
                f"the chat template of {self.arm} refuses the messages ({error}): change their "
                "roles or order, or choose another arm",
            ) from error
        # A template that writes the BOS token itself must not get a second one.
        return self._tokenise(text, add_special=not (self._bos and text.startswith(self._bos)))

    def _tokenise(self, text: str, *, add_special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        if len(data) > self.context_tokens * _PIECE_BYTES:
            # Told apart early: to tokenise megabytes would hold up every other answer.
            raise ArmFailed(
                "context_length_exceeded",
                f"the prompt has {len(data)} bytes, far more than the {self.context_tokens} tokens "
                f"of {self.arm}: shorten the messages, or choose an arm with a longer context",
            )
        size = len(data) + 2
        tokens = (api.llama_token * size)()
        count = api.llama_tokenize(self._vocab, data, len(data), tokens, size, add_special, True)
        if count < 0:
            raise ArmFailed(
                "invalid_request", f"a prompt of {len(data)} bytes cannot be turned into tokens"
            )
        return list(tokens[:count])

    def sampler(self, settings: SamplingSettings) -> Sampler:
        """A fresh sampler for one answer."""
        return Sampler(settings, vocab=self._vocab, tokens_max=self.context_tokens)

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

    def piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        size = _PIECE_BYTES
        while True:
            buffer = (ctypes.c_char * size)()
            count = api.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def is_end(self, token: int) -> bool:
        """Whether a token ends the generation."""
        end = self._ends.get(token)
        if end is None:
            end = self._ends[token] = bool(api.llama_vocab_is_eog(self._vocab, token))
        return end

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


def default_threads(settings: LocalModel) -> int:
    """As many threads as this process may use physical cores; one for a very small model."""
    if Path(settings.path).stat().st_size < SMALL_FILE_BYTES:
        return 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    physical = psutil.cpu_count(logical=False) or 0
    counts = [count for count in (allowed, physical) if count > 0]
    return min(counts) if counts else 1
