"""The worker's process, seen from the agent."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from edge_agent.adapters.llama_cpp.frames import Frame, FrameDecoder, encode
from shared.errors import invariant

WORKER_MODULE: Final = "edge_agent.adapters.llama_cpp.worker"
# `-P`: the directory that the agent was started in is no place to import from.
WORKER_COMMAND: Final = (sys.executable, "-P", "-m", WORKER_MODULE)

_READ_BYTES: Final = 256 * 1024
_LAST_LINES: Final = 12
_LINE_CHARS_MAX: Final = 400


class WorkerProcess:
    """One run of the worker, with its frames."""

    def __init__(self, process: Process) -> None:
        invariant(
            process.stdin is not None and process.stdout is not None and process.stderr is not None,
            "the worker is started with three pipes",
        )
        self._process = process
        self._decoder = FrameDecoder()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._listener = asyncio.create_task(self._listen())

    @staticmethod
    async def start(command: Sequence[str] = WORKER_COMMAND) -> WorkerProcess:
        """Start the worker in a session of its own, out of the terminal's reach."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=_environment(),
            start_new_session=True,
        )
        return WorkerProcess(process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The last lines that the worker wrote to standard error."""
        return "\n".join(self._last_lines)

    def send(self, frame: Frame) -> None:
        """Hand over a frame without waiting; lost if the worker is gone.

        Raises
        ------
        FrameTooLargeError
            When the frame is over the limit.
        """
        data = encode(frame)
        stdin = self._process.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(data)

    async def frames(self) -> AsyncIterator[Frame]:
        """What the worker says, until it ends.

        Raises
        ------
        ProtocolError
            When it says what is no frame.
        """
        stdout = self._process.stdout
        while stdout is not None and (data := await stdout.read(_READ_BYTES)):
            for frame in self._decoder.feed(data):
                yield frame

    def kill(self) -> None:
        """End the worker at once, also if it is stopped or hangs."""
        if self._process.returncode is None:
            self._process.kill()

    async def close(self, *, timeout_s: float) -> None:
        """Ask the worker to end, and make it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self.kill()

    async def wait(self) -> int:
        """The exit code, once the worker has ended; negative for a signal."""
        code = await self._process.wait()
        await self._listener
        return code

    async def _listen(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (data := await stderr.read(_READ_BYTES)):
            lines = data.decode("utf-8", "replace").splitlines()
            self._last_lines.extend(line[:_LINE_CHARS_MAX] for line in lines if line.strip())


def _environment() -> dict[str, str]:
    """The agent's environment, with the agent's own code importable."""
    environment = dict(os.environ)
    root = Path(__file__).resolve().parents[3]
    if root.name not in ("site-packages", "dist-packages"):
        earlier = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{earlier}" if earlier else str(root)
    return environment
