"""Child processes: started in their own groups, logged to files, always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LOG_TAIL_LINES: Final = 25
STOP_S_MAX: Final = 8.0
POLL_S: Final = 0.1


class DemoError(Exception):
    """The demo cannot go on; says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a child process runs.

    Attributes
    ----------
    advice : str
        What to do when it fails.
    finite : bool
        Whether the process may end by itself, with status 0.
    """

    name: str
    argv: Sequence[str]
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    advice: str = "read its log"
    nice: int = 0
    finite: bool = False


class Child:
    """A running process with its own process group and log file."""

    def __init__(self, command: Command, *, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.command = command
        self.log = logs / f"{command.name}.log"
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                list(command.argv),
                cwd=command.cwd,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if command.nice:
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, command.nice)

    @property
    def exit_code(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """The id of the process, which is also that of its group."""
        return self._process.pid

    def check(self) -> None:
        """Raise `DemoError` with the end of the log if the process has ended."""
        if self.exit_code is not None:
            raise DemoError(
                f"{self.command.name} ended with status {self.exit_code}: {self.command.advice}\n"
                f"The end of {self.log}:\n{self.log_tail()}"
            )

    def log_tail(self) -> str:
        """The last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:])

    def wait(self, *, within_s: float) -> int:
        """Wait for the end of a process that ends by itself; its exit status.

        Raises
        ------
        DemoError
            When it still runs after `within_s`.
        """
        try:
            return self._process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise DemoError(
                f"{self.command.name} still runs after {within_s:.0f} s; see {self.log}"
            ) from None

    def interrupt(self) -> None:
        """Ask the process to end; a process that has ended is left alone."""
        if self.exit_code is None:
            self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the process and its group: ask first, then insist. May be called twice."""
        self.interrupt()
        try:
            self._process.wait(timeout=STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        # A supervised worker of a process that was killed may have outlived it.
        self._signal(signal.SIGKILL, whole_group=True)

    def _signal(self, number: signal.Signals, *, whole_group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            if whole_group or number is signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


class Children:
    """All processes of a run, ended in reverse order of their start."""

    def __init__(self, *, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    def start(self, command: Command) -> Child:
        """Start a process and remember to end it."""
        child = Child(command, logs=self._logs)
        self._children.append(child)
        return child

    def stop(self, child: Child) -> None:
        """End one process and forget it."""
        # Forgotten first: a check meanwhile must not take it for a process that died.
        self._children.remove(child)
        child.stop()

    def check(self) -> None:
        """Raise `DemoError` if a process has ended that should run."""
        for child in list(self._children):
            if not (child.command.finite and child.exit_code == 0):
                child.check()

    def stop_all(self) -> None:
        """End every process that still runs."""
        for child in self._children:
            child.interrupt()
        while self._children:
            self._children.pop().stop()


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]


def wait_until(
    ready: Callable[[], bool],
    *,
    child: Child,
    within_s: float,
    what: str,
    others: Callable[[], None] = lambda: None,
) -> None:
    """Wait until a process is ready; `others` looks after the processes it depends on.

    Raises
    ------
    DemoError
        When it ends before, or is not ready in time.
    """
    deadline = time.monotonic() + within_s
    while not ready():
        child.check()
        others()
        if time.monotonic() > deadline:
            raise DemoError(
                f"{what} was not there within {within_s:.0f} s: {child.command.advice}\n"
                f"The end of {child.log}:\n{child.log_tail()}"
            )
        time.sleep(POLL_S)
