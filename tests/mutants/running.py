"""Runs mutants in forks of one pytest that has collected its tests once.

Each fork swaps one function's code and runs the tests that reach that function, the likeliest to
fail first, until one fails. So a mutant costs its tests and nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.mutants.making import Mutant
from tests.mutants.swapping import swap

PROCESSOR_S_MIN = 3.0
PROCESSOR_FACTOR = 10.0
WALL_S = 120.0
TEST_S_MIN = 0.01
PASSED, FAILED, BROKEN = 0, 1, 3


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    TIMEOUT = "timeout"
    UNREACHED = "unreached"


@dataclass(frozen=True)
class Ended:
    """A mutant and its fate; `by` is the test that noticed it."""

    mutant: Mutant
    fate: Fate
    by: str = ""


class BaselineError(Exception):
    """The tests do not pass as they are, or the machinery fails; the message says where."""


@dataclass(frozen=True)
class Reach:
    """One test: how long it takes, and which functions (`path:name`) it calls."""

    seconds: float
    functions: frozenset[str]


class MutantRunner:
    """A pytest plugin that runs mutants where pytest would run tests.

    Parameters
    ----------
    root : Path
        Of the repository.
    mutants : sequence of Mutant
    tests : mapping of a module's path to the test files that answer for it
    report : callable
        Called with each mutant's end.
    """

    def __init__(
        self,
        *,
        root: Path,
        mutants: Sequence[Mutant],
        tests: Mapping[str, Sequence[str]],
        report: Callable[[Ended], None],
    ) -> None:
        self._root = root
        self._mutants = mutants
        self._tests = tests
        self._report = report
        self._failed: list[str] = []
        self.problem: BaselineError | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        """Nobody reads why a mutant's test failed, and to tell it takes longer than the test."""
        config.option.tbstyle = "no"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected stops everything."""
        if report.failed:
            self.problem = BaselineError(f"{report.nodeid} cannot be collected: {report.longrepr}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember what failed, in whichever fork this is."""
        if report.failed:
            self._failed.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the mutants instead of the tests."""
        if self.problem:
            return True
        try:
            self._run(session.items)
        except BaselineError as error:
            self.problem = error
        return True

    def _run(self, items: Sequence[pytest.Item]) -> None:
        reaches = self._measure(items)
        kills: Counter[tuple[str, str]] = Counter()

        def likeliest(item: pytest.Item, function: str) -> tuple[float, int, float]:
            """What killed neighbours fastest comes first, then what tests little else."""
            reach = reaches[item.nodeid]
            rate = kills[function, item.nodeid] / (reach.seconds + TEST_S_MIN)
            return -rate, len(reach.functions), reach.seconds

        for mutant in self._mutants:
            files = tuple(f"{path}::" for path in self._tests[mutant.module])
            function = f"{mutant.module}:{mutant.function}"
            chosen = [
                item
                for item in items
                if item.nodeid.startswith(files) and function in reaches[item.nodeid].functions
            ]
            chosen.sort(key=partial(likeliest, function=function))
            ended = self._try(mutant, chosen, seconds=_total(chosen, reaches))
            kills[function, ended.by] += 1
            self._report(ended)

    def _measure(self, items: Sequence[pytest.Item]) -> dict[str, Reach]:
        """Run every test once, without a mutant."""
        status, said = _fork(lambda say: self._observe(items, say), processor_s=3600, wall_s=3600)
        if status != PASSED:
            raise BaselineError(f"the tests do not pass without a mutant: {said[-2000:] or status}")
        return {
            nodeid: Reach(seconds, frozenset(functions))
            for nodeid, (seconds, functions) in json.loads(said).items()
        }

    def _observe(self, items: Sequence[pytest.Item], say: Callable[[str], None]) -> int:
        modules = {str(self._root / module): module for module in self._tests}
        measured: dict[str, tuple[float, list[str]]] = {}
        for item, following in _followed(items):
            called: set[str] = set()

            def note(frame: FrameType, event: str, _: Any, *, into: set[str] = called) -> None:
                if event == "call" and frame.f_code.co_filename in modules:
                    name = frame.f_code.co_qualname.partition(".<locals>")[0]
                    into.add(f"{modules[frame.f_code.co_filename]}:{name}")

            began = time.process_time()
            threading.setprofile(note)
            sys.setprofile(note)
            _protocol(item, following)
            sys.setprofile(None)
            measured[item.nodeid] = time.process_time() - began, sorted(called)
            if self._failed:
                say(f"{self._failed[0]} fails")
                return FAILED
        say(json.dumps(measured))
        return PASSED

    def _try(self, mutant: Mutant, items: Sequence[pytest.Item], *, seconds: float) -> Ended:
        if not items:
            return Ended(mutant, Fate.UNREACHED)
        limit_s = max(PROCESSOR_S_MIN, PROCESSOR_FACTOR * seconds)
        status, said = _fork(
            lambda say: self._attack(mutant, items, say), processor_s=limit_s, wall_s=WALL_S
        )
        if status == PASSED:
            return Ended(mutant, Fate.SURVIVED)
        if status == FAILED:
            return Ended(mutant, Fate.KILLED, by=said)
        if status in (-signal.SIGPROF, -signal.SIGALRM):
            return Ended(mutant, Fate.TIMEOUT)
        raise BaselineError(f"{status} from the mutant of {mutant.function}: {said}")

    def _attack(
        self, mutant: Mutant, items: Sequence[pytest.Item], say: Callable[[str], None]
    ) -> int:
        name = mutant.module.removesuffix(".py").replace("/", ".")
        swap(importlib.import_module(name), mutant)
        for item, following in _followed(items):
            _protocol(item, following)
            if self._failed:
                say(self._failed[0])
                return FAILED
        return PASSED


def _protocol(item: pytest.Item, following: pytest.Item | None) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def _followed(items: Sequence[pytest.Item]) -> Iterable[tuple[pytest.Item, pytest.Item | None]]:
    return zip(items, [*items[1:], None], strict=True)


def _total(items: Sequence[pytest.Item], reaches: Mapping[str, Reach]) -> float:
    return sum(reaches[item.nodeid].seconds for item in items)


def _fork(
    work: Callable[[Callable[[str], None]], int], *, processor_s: float, wall_s: float
) -> tuple[int, str]:
    """Do something in a fork; its exit status, negative for a signal, and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os._exit(_work(work, writing, processor_s=processor_s, wall_s=wall_s))
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said
    except KeyboardInterrupt:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def _work(
    work: Callable[[Callable[[str], None]], int],
    pipe: int,
    *,
    processor_s: float,
    wall_s: float,
) -> int:
    def say(text: str) -> None:
        os.write(pipe, text.encode())

    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        # The default of both signals ends the process, wherever it hangs.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, wall_s)
        signal.setitimer(signal.ITIMER_PROF, processor_s)
        return work(say)
    except BaseException as error:  # noqa: BLE001 - said to the parent, which stops
        say(f"{type(error).__name__}: {error}")
        return BROKEN
