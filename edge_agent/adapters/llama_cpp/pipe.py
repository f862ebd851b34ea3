"""The worker's end of the pipes to the agent."""

from __future__ import annotations

import os
import threading
from typing import Final

from edge_agent.adapters.llama_cpp.frames import Frame, FrameDecoder, encode

READ_BYTES: Final = 256 * 1024


class Pipe:
    """Frames on what were standard input and output."""

    def __init__(self) -> None:
        self._input = os.dup(0)
        self._output = os.dup(1)
        # A library that prints must not tear the frames apart.
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._decoder = FrameDecoder()

    def send(self, frame: Frame) -> None:
        """Write a frame at once; waits while the agent does not read."""
        data = memoryview(encode(frame))
        with self._lock:
            while data:
                data = data[os.write(self._output, data) :]

    def receive(self) -> list[Frame]:
        """The next frames; empty when the agent has closed its end."""
        frames: list[Frame] = []
        while not frames:
            data = os.read(self._input, READ_BYTES)
            if not data:
                return []
            frames = list(self._decoder.feed(data))
        return frames
