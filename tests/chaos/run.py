"""One run: set up, faults and load, heal, judge."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from shared.pb.v1 import admin_pb2
from tests.chaos.faults import Chaos, plan_faults
from tests.chaos.load import ANSWER_S_MAX, End, Load
from tests.chaos.proxy import Proxies
from tests.chaos.report import Evidence, Report, judge
from tests.chaos.scene import Scene
from tests.e2e.fleet import Fleet

TICK_S: Final = 0.1
TELL_EVERY_S: Final = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to run.

    Attributes
    ----------
    seconds : float
        How long faults and load go on; setting up, healing and judging come on top.
    clients : int
        Concurrent clients at each agent.
    without : tuple of str
        Kinds of faults that are left out.
    """

    folder: Path
    seed: int = 1
    seconds: float = 300.0
    budget_usd: str = "0.22"
    agents: int = 3
    clients: int = 4
    without: tuple[str, ...] = ()


def run(settings: Settings, *, say: Say) -> Report:
    """Run the chaos and judge it; ends every process that it started, whatever happens."""
    with ExitStack() as stack:
        proxies = stack.enter_context(Proxies())
        fleet = Fleet(settings.folder)
        scene = Scene(
            folder=settings.folder,
            proxies=proxies,
            fleet=fleet,
            agents=tuple(f"edge-{number + 1}" for number in range(settings.agents)),
            seed=settings.seed,
        )
        stack.callback(scene.close)
        say("starting the coordinator, the providers and the agents")
        scene.start(budget_usd=settings.budget_usd)
        for what, why in scene.skipped.items():
            say(f"without {what}: {why}")
        urls = {name: scene.agent(name).url for name in scene.agents}
        load = Load(urls, clients=settings.clients, seed=settings.seed)
        stack.callback(load.stop)
        chaos = Chaos(scene, load=load)
        load.start()
        try:
            _play(scene, chaos, load, settings, say=say)
        finally:
            chaos.end()
        problems: list[str] = []
        say("healing: every link whole, every process up, every spool empty")
        scene.heal()
        load.rest()
        if not load.join(within_s=ANSWER_S_MAX):
            problems.append("clients still wait")
        scene.heal()
        problems += scene.died()
        say("stopping the agents, so that their leases close")
        lent = scene.end_agents()
        say("judging")
        _keep_sends(load, settings.folder / "sends.jsonl")
        return judge(
            _evidence(scene, load, lent=lent),
            seed=settings.seed,
            seconds=settings.seconds,
            faults=chaos.played,
            skipped=scene.skipped,
            problems=problems,
        )


def _play(scene: Scene, chaos: Chaos, load: Load, settings: Settings, *, say: Say) -> None:
    """Let the planned faults happen, each at its time."""
    planned = list(
        plan_faults(
            seed=settings.seed,
            seconds=settings.seconds,
            without=settings.without,
            targets={
                "agents": scene.agents,
                "links": tuple(scene.links),
                "coordinator": ("coordinator",),
                "provider": ("provider",),
                "cloud": ("cloud",) if scene.cloud is not None else (),
                "small_disk": (scene.small_disk,) if scene.small_disk else (),
            },
        )
    )
    began = time.monotonic()
    told = -TELL_EVERY_S
    while (now := time.monotonic() - began) < settings.seconds:
        while planned and planned[0].at_s <= now:
            chaos.begin(planned.pop(0))
        chaos.check()
        if now - told >= TELL_EVERY_S:
            told = now
            say(_progress(now, settings.seconds, chaos, load))
        time.sleep(TICK_S)


def _progress(now: float, seconds: float, chaos: Chaos, load: Load) -> str:
    log = load.log
    return (
        f"{now:4.0f}/{seconds:.0f} s  {log.requests} requests, {log.count(End.ANSWERED)} answered, "
        f"{log.count(End.REFUSED)} refused; {chaos.played.total()} faults"
        + (f"; now: {', '.join(chaos.under_way)}" if chaos.under_way else "")
    )


def _evidence(scene: Scene, load: Load, *, lent: int) -> Evidence:
    budget = scene.call("GetBudget", admin_pb2.GetBudgetRequest())
    return Evidence(
        log=load.log,
        decisions=scene.decisions(),
        ledger=scene.until(scene.fleet.ledger, what="the ledger"),
        bills=scene.bills(),
        killed=scene.killed,
        cloned=scene.cloned,
        stranded=scene.stranded,
        agents=scene.agents,
        booked=budget.settled_nanos + budget.unconfirmed_nanos,
        lent=lent,
        enforced=budget.enforced_nanos,
    )


def _keep_sends(load: Load, path: Path) -> None:
    """Write what the clients saw beside the books, to look for causes."""
    path.write_text("".join(json.dumps(asdict(sent)) + "\n" for sent in load.log.sent))
