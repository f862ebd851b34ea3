"""llama.cpp's log: warnings and errors go to a sink, the last errors are remembered."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from typing import Final

import llama_cpp.llama_cpp as api

# The values of ggml.h; llama-cpp-python's own table is off by one.
_LEVELS: Final = {3: "warning", 4: "error"}
_LEVEL_CONTINUED: Final = 5

LogSink = Callable[[str, str], None]


class NativeLog:
    """Receives what llama.cpp logs.

    Attributes
    ----------
    errors : deque of str
        The last ones; whoever wants only those of its own call clears it before.
    """

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=4)
        self._sink: LogSink | None = None
        self._level = 0
        # The pointer must live as long as llama.cpp may call it.
        self._callback = api.llama_log_callback(self._receive)

    def install(self, sink: LogSink) -> None:
        """Send everything from now on to `sink`, which gets the level's name and a line."""
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


native_log: Final = NativeLog()


def start_backend(sink: LogSink) -> None:
    """Initialise llama.cpp once per process; its warnings and errors go to `sink`."""
    native_log.install(sink)
    api.llama_backend_init()
