"""Concurrent clients: streamed and plain, `auto` and pinned, keyed, impatient, and insistent.

A client that loses its connection sends the request again, as OpenAI's own clients do, until it
is answered or refused. Every send is noted with all that its client got to know.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import aiohttp

ANSWER_S_MAX: Final = 240.0
SEND_S_MAX: Final = 140.0
RETRY_S: Final = 0.4
THINK_S: Final = 0.7
SHARES: Final = {"auto": 0.50, "metered": 0.22, "large": 0.12, "tiny": 0.06, "private": 0.10}
"""How often a request asks for what; `private` is `auto` that must not leave the device."""
STREAM_SHARE: Final = 0.4
LEAVE_SHARE: Final = 0.12
KEY_SHARE: Final = 0.2
AGAIN_SHARE: Final = 0.5
MOODS: Final = {"!slow": 0.12, "!nousage": 0.04, "!status=500": 0.02, "!status=429": 0.03}
"""What is asked of the metered provider besides answering at once; see `tests.e2e.provider`."""


class End(StrEnum):
    """How a send ended, as its client saw it."""

    ANSWERED = "answered"
    REFUSED = "refused"  # an error in the envelope, or as the last event of a stream
    LEFT = "left"  # the client went away on purpose
    BROKEN = "broken"  # the connection failed or ended in the middle


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One request of a client, drawn before anything happens.

    Attributes
    ----------
    leave_s : float
        When the client goes away, in seconds after sending; 0 if it stays.
    again : bool
        Whether the same request is sent a second time, at the same time.
    """

    tag: str
    target: str
    model: str
    text: str
    private: bool = False
    stream: bool = False
    leave_s: float = 0.0
    key: str = ""
    again: bool = False

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.text}],
            "max_tokens": 16,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers."""
        headers = {"x-tidegate-tag": self.tag}
        if self.private:
            headers["x-tidegate-privacy"] = "local"
        if self.key:
            headers["idempotency-key"] = self.key
        return headers


@dataclass
class Sent:
    """One send of a request, and what came of it.

    Attributes
    ----------
    started_s, ended_s : float
        On `time.monotonic`.
    request_id, arm : str
        From the headers; empty if none came.
    """

    wanted: Wanted
    started_s: float
    ended_s: float = 0.0
    end: End = End.BROKEN
    status: int = 0
    code: str = ""
    problem: str = ""
    request_id: str = ""
    arm: str = ""


@dataclass
class Log:
    """Everything that the clients saw.

    Attributes
    ----------
    pending : dict of str to Wanted
        Requests by tag that have neither been answered nor refused yet.
    """

    sent: list[Sent] = field(default_factory=list)
    pending: dict[str, Wanted] = field(default_factory=dict)
    requests: int = 0

    def count(self, end: End) -> int:
        """How many requests ended that way."""
        return sum(each.end is end for each in self.sent)


def draw(rng: random.Random, *, tag: str, target: str) -> Wanted:
    """Draw one request."""
    kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
    mood = rng.choices(["", *MOODS], [1.0 - sum(MOODS.values()), *MOODS.values()])[0]
    text = f"{mood} copy: {tag}".strip()
    stream = rng.random() < STREAM_SHARE
    leaves = rng.random() < LEAVE_SHARE
    keyed = not leaves and rng.random() < KEY_SHARE
    return Wanted(
        tag=tag,
        target=target,
        model="auto" if kind == "private" else kind,
        text=text,
        private=kind == "private",
        stream=stream,
        leave_s=rng.choice((0.002, 0.01, 0.04, 0.2)) if leaves else 0.0,
        key=f"key-{tag}" if keyed else "",
        again=keyed and rng.random() < AGAIN_SHARE,
    )


class Load:
    """The clients, on a loop in a thread of their own.

    Parameters
    ----------
    urls : mapping of str to str
        The agents' addresses by name.
    clients : int
        Concurrent clients at each agent.
    """

    def __init__(self, urls: Mapping[str, str], *, clients: int, seed: int) -> None:
        self.log = Log()
        self._urls = dict(urls)
        self._clients = clients
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="load", daemon=True)
        self._resting = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._problem: BaseException | None = None

    def start(self) -> None:
        """Let the clients begin."""
        self._thread.start()

    def rest(self) -> None:
        """Begin no more requests; those under way go on until they are answered."""
        self._loop.call_soon_threadsafe(self._resting.set)

    def join(self, *, within_s: float) -> bool:
        """Wait until every request has ended; False if some have not.

        Raises
        ------
        BaseException
            What made a client fail, which would be a defect of this module.
        """
        self._thread.join(within_s)
        if self._problem is not None:
            raise self._problem
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Give up what is under way. May be called twice."""
        if self._thread.is_alive() and self._main is not None:
            self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join(10.0)

    def ask(self, wanted: Wanted, *, url: str) -> Sent:
        """Send one request now, from any thread, to an address that may be none of the agents'."""
        work = self._ask_at(wanted, url)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SEND_S_MAX + 20.0)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._run())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - told by `join`, on the main thread
            self._problem = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _run(self) -> None:
        # A connection for each request: an idle one that a server closes would look like a fault.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                timeout=aiohttp.ClientTimeout(total=SEND_S_MAX),
            ) as self._session,
            asyncio.TaskGroup() as group,
        ):
            for target in self._urls:
                for number in range(self._clients):
                    group.create_task(self._client(target, number))

    async def _client(self, target: str, number: int) -> None:
        rng = random.Random(f"{self._seed}/client/{target}/{number}")
        count = 0
        while not self._resting.is_set():
            count += 1
            wanted = draw(rng, tag=f"{target}.{number}.{count}", target=target)
            pause_s = rng.expovariate(1.0 / THINK_S)
            await self._until_answered(wanted)
            try:
                async with asyncio.timeout(pause_s):
                    await self._resting.wait()
            except TimeoutError:
                continue

    async def _until_answered(self, wanted: Wanted) -> None:
        """Send a request until it is answered or refused, or its client goes away."""
        self.log.requests += 1
        self.log.pending[wanted.tag] = wanted
        deadline = time.monotonic() + ANSWER_S_MAX
        url = self._urls[wanted.target]
        while True:
            if wanted.again:
                first, second = await asyncio.gather(
                    self._send(wanted, url), self._send(wanted, url)
                )
                ended = End.BROKEN not in (first.end, second.end)
            else:
                ended = (await self._send(wanted, url)).end is not End.BROKEN
            if ended:
                del self.log.pending[wanted.tag]
                return
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(RETRY_S)

    async def _ask_at(self, wanted: Wanted, url: str) -> Sent:
        return await self._send(wanted, url)

    async def _send(self, wanted: Wanted, url: str) -> Sent:
        """One send; whatever happens is noted."""
        sent = Sent(wanted, started_s=time.monotonic())
        self.log.sent.append(sent)
        try:
            if wanted.leave_s:
                async with asyncio.timeout(wanted.leave_s):
                    await self._exchange(sent, url)
            else:
                await self._exchange(sent, url)
        except TimeoutError as error:
            # The session's own limit is a broken send, unless the client was to leave anyway.
            sent.end = End.LEFT if wanted.leave_s else End.BROKEN
            sent.problem = repr(error)
        except (aiohttp.ClientError, OSError) as error:
            sent.end, sent.problem = End.BROKEN, repr(error)
        finally:
            sent.ended_s = time.monotonic()
        return sent

    async def _exchange(self, sent: Sent, url: str) -> None:
        wanted = sent.wanted
        async with self._session.post(
            f"{url}/v1/chat/completions", json=wanted.body, headers=wanted.headers
        ) as reply:
            sent.status = reply.status
            sent.request_id = reply.headers.get("x-tidegate-request-id", "")
            sent.arm = reply.headers.get("x-tidegate-arm", "")
            if reply.status == 200 and wanted.stream:
                await _read_stream(sent, reply)
                return
            content = await reply.json()
            if reply.status == 200:
                sent.end = End.ANSWERED
                if not content["choices"]:
                    sent.end, sent.problem = End.BROKEN, "an answer without choices"
            else:
                sent.end, sent.code = End.REFUSED, str(content["error"]["code"])
                sent.problem = str(content["error"]["message"])


async def _read_stream(sent: Sent, reply: aiohttp.ClientResponse) -> None:
    """Read a stream to its end, which is `[DONE]` or an error event and nothing else."""
    sent.problem = "the stream ended in the middle"
    async for line in reply.content:
        if not line.startswith(b"data: "):
            continue
        data = line.removeprefix(b"data: ").strip()
        if data == b"[DONE]":
            sent.end, sent.problem = End.ANSWERED, ""
            return
        event = json.loads(data)
        if "error" in event:
            sent.end, sent.code = End.REFUSED, str(event["error"]["code"])
            sent.problem = str(event["error"]["message"])
            return


def outages_s(log: Log, *, targets: Sequence[str]) -> dict[str, float]:
    """For each agent the longest time from a failing send to the next that was answered."""
    longest = dict.fromkeys(targets, 0.0)
    since: dict[str, float] = {}
    for sent in sorted(log.sent, key=lambda each: each.ended_s):
        target = sent.wanted.target
        if target not in longest or sent.end is End.LEFT:
            continue
        if sent.end is End.BROKEN:
            since.setdefault(target, sent.ended_s)
        elif target in since:
            longest[target] = max(longest[target], sent.ended_s - since.pop(target))
    return longest
