"""What goes wrong, when and for how long: drawn from a seed before the run, then played."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.demo.processes import free_ports
from edge_agent.books import BOOKS_FULL, MetaKey
from edge_agent.config import BOOKS_FILE
from tests.chaos.load import Load, draw
from tests.chaos.proxy import HalfOpen
from tests.chaos.scene import Scene
from tests.e2e.fleet import Agent, wait_for

GAP_S_MEAN: Final = 1.8
AT_ONCE_MAX: Final = 4
FILL_BYTES: Final = 1024 * 1024
CLONE_REQUESTS: Final = 8
QUIET_S: Final = 3.0
"""Before the end no fault begins any more."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault.

    Attributes
    ----------
    targets : str
        "agents", "links", "all_links", "small_disk", or the name of a process.
    lasts_s : (float, float)
        Least and greatest length.
    """

    targets: str
    lasts_s: tuple[float, float]


KINDS: Final[Mapping[str, Kind]] = {
    "kill_agent": Kind(targets="agents", lasts_s=(0.2, 3.0)),
    "kill_coordinator": Kind(targets="coordinator", lasts_s=(0.2, 5.0)),
    "kill_worker": Kind(targets="agents", lasts_s=(0.0, 0.0)),
    "kill_cloud": Kind(targets="cloud", lasts_s=(0.2, 3.0)),
    "kill_provider": Kind(targets="provider", lasts_s=(0.2, 3.0)),
    "pause_agent": Kind(targets="agents", lasts_s=(0.5, 5.0)),
    "pause_coordinator": Kind(targets="coordinator", lasts_s=(0.5, 5.0)),
    "pause_worker": Kind(targets="agents", lasts_s=(0.5, 3.0)),
    "pause_cloud": Kind(targets="cloud", lasts_s=(0.5, 4.0)),
    "pause_provider": Kind(targets="provider", lasts_s=(0.5, 4.0)),
    "cut": Kind(targets="links", lasts_s=(0.0, 6.0)),
    "delay": Kind(targets="links", lasts_s=(1.0, 6.0)),
    "half_open": Kind(targets="links", lasts_s=(1.0, 8.0)),
    "full_disk": Kind(targets="small_disk", lasts_s=(2.0, 6.0)),
    "clone": Kind(targets="agents", lasts_s=(2.0, 5.0)),
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One planned fault.

    Attributes
    ----------
    at_s : float
        When, from the start of the load.
    seed : int
        For what the fault itself draws.
    """

    kind: str
    target: str
    at_s: float
    lasts_s: float
    seed: int


def plan_faults(
    *, seed: int, seconds: float, targets: Mapping[str, Sequence[str]], without: Container[str] = ()
) -> tuple[Fault, ...]:
    """Draw the faults of a run: each kind in turn, in an order that is drawn anew each time.

    Parameters
    ----------
    targets : mapping of str to sequence of str
        What each of `Kind.targets` stands for; kinds without any are left out.
    without : container of str
        Kinds that are left out besides.
    """
    rng = random.Random(f"{seed}/faults")
    turns: dict[str, int] = Counter()
    faults: list[Fault] = []
    round_: list[str] = []
    at_s = 1.0
    while at_s < seconds - QUIET_S:
        if not round_:
            round_ = [
                name
                for name, kind in KINDS.items()
                if targets.get(kind.targets) and name not in without
            ]
            rng.shuffle(round_)
        name = round_.pop()
        kind = KINDS[name]
        choices = targets[kind.targets]
        faults.append(
            Fault(
                kind=name,
                target=choices[(turns[name] + rng.randrange(2)) % len(choices)],
                at_s=at_s,
                lasts_s=rng.uniform(*kind.lasts_s),
                seed=rng.randrange(2**32),
            )
        )
        turns[name] += 1
        at_s += rng.uniform(0.5, 1.5) * GAP_S_MEAN
    return tuple(faults)


class Chaos:
    """Plays faults on a scene.

    Attributes
    ----------
    played : Counter of str
        Faults by kind that have really happened.
    under_way : list of str
        What is going on now, for people.
    """

    def __init__(self, scene: Scene, *, load: Load) -> None:
        self._scene = scene
        self._load = load
        self._ended = threading.Event()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE_MAX, thread_name_prefix="fault")
        self._futures: list[Future[None]] = []
        self.played: Counter[str] = Counter()
        self.under_way: list[str] = []

    def begin(self, fault: Fault) -> None:
        """Let a fault happen as soon as its target is in no other."""
        self._futures.append(self._pool.submit(self._play, fault))

    def check(self) -> None:
        """Raise what made a fault fail: a defect of what was hit, or of this module."""
        for future in self._futures:
            if future.done():
                future.result()

    def end(self) -> None:
        """End every fault and wait until what was hit is back."""
        self._ended.set()
        self._pool.shutdown(wait=True)
        self.check()

    def _play(self, fault: Fault) -> None:
        with self._guard:
            lock = self._locks.setdefault(_victim(fault), threading.Lock())
        with lock:
            if self._ended.is_set():
                return
            what = f"{fault.kind} {fault.target}"
            self.under_way.append(what)
            try:
                played = self._act(fault)
            finally:
                self.under_way.remove(what)
            self.played[fault.kind] += played

    def _act(self, fault: Fault) -> bool:
        verb, _, noun = fault.kind.partition("_")
        if noun == "worker":
            return self._hit_worker(fault, kill=verb == "kill")
        actions: Mapping[str, Callable[[Fault], None]] = {
            "kill": self._kill,
            "pause": self._pause,
            "cut": self._cut,
            "delay": self._delay,
            "half": self._half_open,
            "full": self._fill_disk,
            "clone": self._clone,
        }
        actions[verb](fault)
        return True

    def _last(self, fault: Fault) -> None:
        """Wait as long as the fault lasts, or until the run ends."""
        self._ended.wait(fault.lasts_s)

    # Processes.

    def _kill(self, fault: Fault) -> None:
        with self._scene.noted(self._scene.killed, fault.target):
            self._scene.kill(fault.target)
            self._last(fault)
            self._scene.start_again(fault.target)

    def _pause(self, fault: Fault) -> None:
        with self._stopped(self._scene.child(fault.target).pid):
            self._last(fault)

    def _hit_worker(self, fault: Fault, *, kill: bool) -> bool:
        workers = self._scene.agent(fault.target).workers()
        for pid in workers:
            if kill:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            else:
                with self._stopped(pid):
                    self._last(fault)
        return bool(workers)

    @contextmanager
    def _stopped(self, pid: int) -> Iterator[None]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # Links.

    def _cut(self, fault: Fault) -> None:
        link = self._scene.links[fault.target]
        link.cut()
        self._last(fault)
        link.heal(drop=False)

    def _delay(self, fault: Fault) -> None:
        link = self._scene.links[fault.target]
        link.delay(random.Random(fault.seed).uniform(0.02, 0.6))
        self._last(fault)
        link.heal(drop=False)

    def _half_open(self, fault: Fault) -> None:
        rng = random.Random(fault.seed)
        link = self._scene.links[fault.target]
        link.half_open(rng.choice(list(HalfOpen)))
        self._last(fault)
        link.heal(drop=rng.random() < 0.5)

    # Disks.

    def _fill_disk(self, fault: Fault) -> None:
        """Fill an agent's disk, and wait until the agent has written what it kept meanwhile.

        What an agent keeps in memory because its disk is full ends with its process; that is the
        one loss that no rule forbids, so the agent is not killed before.
        """
        agent = self._scene.agent(fault.target)
        filler = agent.state.parent / "filler"
        try:
            _fill(filler)
            self._last(fault)
        finally:
            filler.unlink(missing_ok=True)
        wait_for(lambda: not _books_are_full(agent), what=f"room in the books of {agent.name}")

    def _clone(self, fault: Fault) -> None:
        """Start a copy of a device beside it; afterwards an operator lets the device back."""
        original = self._scene.agent(fault.target)
        with self._scene.noted(self._scene.cloned, fault.target):
            self._run_clone(original, fault)
            self._scene.readmit(fault.target)

    def _run_clone(self, original: Agent, fault: Fault) -> None:
        name = f"{fault.target}-clone-{fault.seed}"
        state = self._scene.folder / name
        with self._stopped(original.child.pid):
            _copy_books(original.state, state)
        (port,) = free_ports(1)
        config = original.config.read_text()
        config = config.replace(str(original.state), str(state))
        config = config.replace(original.url.removeprefix("http://"), f"127.0.0.1:{port}")
        fleet = self._scene.fleet
        clone = fleet.run_agent(
            name,
            config=fleet.write(f"{name}.toml", config),
            url=f"http://127.0.0.1:{port}",
            state=state,
            wait=False,
        )
        try:
            self._ask_clone(clone, fault)
        finally:
            fleet.children.stop(clone.child)
        self._scene.stranded |= _unsent(state)

    def _ask_clone(self, clone: Agent, fault: Fault) -> None:
        rng = random.Random(fault.seed)
        until = time.monotonic() + fault.lasts_s
        for number in range(CLONE_REQUESTS):
            wanted = draw(rng, tag=f"{clone.name}.{number}", target=clone.name)
            self._load.ask(wanted, url=clone.url)
            self._ended.wait(max(0.0, until - time.monotonic()) / (CLONE_REQUESTS - number))


def _victim(fault: Fault) -> str:
    """What of the scene a fault occupies: an agent's link is not the agent."""
    return f"link {fault.target}" if KINDS[fault.kind].targets == "links" else fault.target


def _books_are_full(agent: Agent) -> bool:
    problems: list[str] = agent.get("/health")["problems"]
    return any(problem.startswith(BOOKS_FULL) for problem in problems)


def _fill(path: Path) -> None:
    """Write a file until the disk has no room for another byte."""
    size = FILL_BYTES
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2


def _unsent(state: Path) -> set[str]:
    """Requests whose outcomes a stopped device has not handed over."""
    with closing(sqlite3.connect(f"file:{state / BOOKS_FILE}?mode=ro", uri=True)) as books:
        meta = dict(books.execute("SELECT key, value FROM meta"))
        rows = books.execute(
            "SELECT request_id FROM spool WHERE sequence > ? AND kind = 'outcome'",
            (int(meta.get(MetaKey.SEQUENCE_ACKED, "0")),),
        )
        return {request_id for (request_id,) in rows}


def _copy_books(source: Path, target: Path) -> None:
    """Copy what a device keeps, as a backup of its folder would have it; it must stand still."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock", "*-shm", "filler"))
