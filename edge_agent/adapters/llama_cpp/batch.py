"""llama.cpp's batch, filled through NumPy; one is used again and again."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as api
import numpy as np

from edge_agent.adapters.llama_cpp.sequence_model import BatchPart


class Batch:
    """The arrays of a `llama_batch`.

    Parameters
    ----------
    size : int
        Tokens at most.

    Attributes
    ----------
    struct : llama_batch
        What llama.cpp takes.
    """

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

    def fill(self, parts: Sequence[BatchPart], *, all_wanted: bool = False) -> list[int]:
        """Lay out the parts one after the other; the row of each part's last token."""
        rows, end = [], 0
        for part in parts:
            start, end = end, end + len(part.tokens)
            self.token[start:end] = part.tokens
            self.position[start:end] = range(part.position, part.position + end - start)
            self.slot[start:end] = part.slot
            self.wanted[start:end] = all_wanted
            self.wanted[end - 1] = part.wanted
            rows.append(end - 1)
        self.struct.n_tokens = end
        return rows


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
