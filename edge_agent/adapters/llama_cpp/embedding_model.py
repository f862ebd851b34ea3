"""A model that turns texts into vectors; the counterpart of `LlamaModel`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import llama_cpp.llama_cpp as api
import numpy as np

from edge_agent.adapters.llama_cpp.batch import Batch
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError
from edge_agent.adapters.llama_cpp.model import load_file, open_context
from edge_agent.adapters.llama_cpp.sequence_model import BatchPart, DecodeError
from edge_agent.adapters.llama_cpp.vocabulary import Vocabulary
from edge_agent.ports import LocalModel

_POOLED: Final = (
    api.LLAMA_POOLING_TYPE_MEAN,
    api.LLAMA_POOLING_TYPE_CLS,
    api.LLAMA_POOLING_TYPE_LAST,
)


class EmbeddingModel:
    """A loaded model whose file says how the vectors of a text's tokens become one.

    Parameters
    ----------
    settings : LocalModel
        `context_tokens` is the longest text, and `batch_sequences` how many texts go together.

    Raises
    ------
    ModelFileError
        When the file cannot be loaded, or memory does not suffice.
    """

    def __init__(self, settings: LocalModel) -> None:
        self.arm = settings.arm
        self.sequences = settings.batch_sequences
        self._context: Any = None
        self._model = load_file(settings)
        trained: int = api.llama_model_n_ctx_train(self._model)
        self.context_tokens = min(settings.context_tokens, trained or settings.context_tokens)
        try:
            self._vocabulary = Vocabulary(self._model, arm=settings.arm)
            self._context = open_context(self._model, self._parameters(), settings)
            if api.llama_pooling_type(self._context) not in _POOLED:
                raise ModelFileError(f"{settings.path} makes no embeddings: take another GGUF")
        except ModelFileError:
            self.close()
            raise
        self._memory: Any = api.llama_get_memory(self._context)
        self._batch = Batch(self.context_tokens)
        self._width: int = api.llama_model_n_embd_out(self._model)
        encoder = api.llama_model_has_encoder(self._model)
        self._run = api.llama_encode if encoder or not self._memory else api.llama_decode

    def _parameters(self) -> Any:
        params = api.llama_context_default_params()
        params.embeddings = True
        # A text is looked at as a whole, so a batch must hold the longest one.
        params.n_ctx = params.n_batch = params.n_ubatch = self.context_tokens
        params.n_seq_max = self.sequences
        params.kv_unified = True
        return params

    def tokens(self, text: str) -> list[int]:
        """A text as tokens, with those that the model wants around it.

        Raises
        ------
        ArmFailed
            `context_length_exceeded`, when it is far too long.
        """
        return self._vocabulary.tokens(
            text, tokens_max=self.context_tokens, add_special=True, special=False
        )

    def embed(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
        """The vectors of some texts, which together fit the context, each of length 1.

        Raises
        ------
        DecodeError
            When llama.cpp refuses the batch.
        """
        parts = [BatchPart(slot, 0, tokens, wanted=True) for slot, tokens in enumerate(texts)]
        self._batch.fill(parts, all_wanted=True)
        if self._memory:
            api.llama_memory_clear(self._memory, True)
        code = self._run(self._context, self._batch.struct)
        if code != 0:
            raise DecodeError(f"llama.cpp gave {code} for {len(parts)} texts of {self.arm}")
        return [self._vector(slot) for slot in range(len(parts))]

    def _vector(self, slot: int) -> np.ndarray[Any, Any]:
        found = api.llama_get_embeddings_seq(self._context, slot)
        if not found:
            raise DecodeError(f"llama.cpp gave no vector for a text of {self.arm}")
        vector = np.ctypeslib.as_array(found, (self._width,)).astype(np.float32)
        length = float(np.linalg.norm(vector))
        return vector / length if length > 0.0 else vector

    def close(self) -> None:
        """Free the memory; may be called twice."""
        if self._context is not None:
            api.llama_free(self._context)
            self._context = None
        if self._model is not None:
            api.llama_model_free(self._model)
            self._model = None
