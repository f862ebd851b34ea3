"""The provider's side: a metered provider that may be killed, and what both providers billed.

The metered provider is that of the end-to-end tests in a process of its own. Every charge is in
its log before anybody gets the answer, so that `kill -9` loses none of the bill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from deploy.demo.bill import BillEntry
from deploy.demo.processes import Command
from tests.e2e.fleet import ROOT
from tests.e2e.provider import PRICE, Provider


@dataclass
class LoggedProvider(Provider):
    """A provider on a fixed port whose bill is a file.

    Attributes
    ----------
    log : int
        Descriptor of the bill, opened for appending; one JSON object a line.
    """

    log: int = field(default=-1, kw_only=True)

    async def serve(self) -> None:
        """Serve on `port` until SIGTERM."""
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        await stopped.wait()
        await runner.cleanup()

    def _charge(self, text: str, *, prompt: int, completion: int) -> None:
        cost = PRICE.cost_nanos(prompt_tokens=prompt, completion_tokens=completion)
        os.write(self.log, json.dumps({"text": text, "cost_nanos": cost}).encode() + b"\n")


def provider_command(*, port: int, bill: Path) -> Command:
    """How the metered provider is started."""
    return Command(
        name="provider",
        argv=[sys.executable, "-m", "tests.chaos.meter", str(port), str(bill)],
        cwd=ROOT,
    )


@dataclass(frozen=True)
class Bills:
    """What the providers billed, in nano-dollars.

    Attributes
    ----------
    by_text : mapping of str to int
        The metered provider's charges by the text of the request's last message.
    cloud_nanos : int
        What the third-party server's meter billed.
    """

    by_text: Counter[str]
    cloud_nanos: int

    @property
    def total_nanos(self) -> int:
        """The whole bill."""
        return self.by_text.total() + self.cloud_nanos


def read_bills(*, provider: Path, cloud: Path | None) -> Bills:
    """Add up both logs; they may still be written to."""
    by_text: Counter[str] = Counter()
    for line in provider.read_text().splitlines():
        entry = json.loads(line)
        by_text[entry["text"]] += entry["cost_nanos"]
    entries: list[BillEntry] = []
    if cloud is not None:
        entries = [BillEntry(**json.loads(line)) for line in cloud.read_text().splitlines()]
    return Bills(by_text, sum(entry.cost_nanos for entry in entries))


def main() -> None:
    """Serve the metered provider."""
    parser = argparse.ArgumentParser(description="A paid provider whose bill is a file.")
    parser.add_argument("port", type=int)
    parser.add_argument("bill", type=Path)
    options = parser.parse_args()
    log = os.open(options.bill, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    asyncio.run(_serve(LoggedProvider(port=options.port, log=log)))


async def _serve(provider: LoggedProvider) -> None:
    await provider.serve()


if __name__ == "__main__":
    main()
