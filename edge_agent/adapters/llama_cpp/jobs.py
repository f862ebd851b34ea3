"""The requests that the worker has, as the agent sees them."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge_agent.adapters.llama_cpp.answers import AnswerBuilder
from edge_agent.adapters.llama_cpp.arms import ArmCondition
from edge_agent.adapters.llama_cpp.outputs import TokenLogprob
from edge_agent.adapters.llama_cpp.tool_calls import CallPart
from edge_agent.ports import ArmFailed, ChatEvent, Embedded, Timing, Usage

Event = ChatEvent | Embedded


class NeverTaken:
    """The worker ended before it saw a request, which can go to the next one."""


class Receiver(Protocol):
    """Makes events of what the worker says of a request."""

    def take(self, kind: str, values: list[Any]) -> list[Event]:
        """The events that a piece of the worker's answer comes to."""


class ChatReceiver:
    """Receives the pieces of a chat's answer."""

    def __init__(self, builder: AnswerBuilder) -> None:
        self._builder = builder

    def take(self, kind: str, values: list[Any]) -> list[Event]:
        """The chunks of a piece of text, or the end of the answer."""
        if kind == "t":
            choice, text, finish_reason, *more = values
            calls, logprobs = more or ([], [])
            return [
                *self._builder.text(
                    choice,
                    text,
                    finish_reason,
                    [CallPart(*part) for part in calls],
                    [TokenLogprob.from_json(entry) for entry in logprobs],
                )
            ]
        prompt_tokens, completion_tokens, cached_tokens, ttft_ms, run_ms = values
        return [
            self._builder.finished(
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cached_tokens=cached_tokens,
                timing=Timing(ttft_ms, run_ms),
            )
        ]


class VectorReceiver:
    """Receives the vectors of some texts."""

    def __init__(self, texts: int) -> None:
        self._vectors: list[tuple[float, ...]] = [()] * texts

    def take(self, kind: str, values: list[Any]) -> list[Event]:
        """Nothing yet for a vector; all of them at the end."""
        if kind == "v":
            index, encoded = values
            data = base64.b64decode(encoded)
            self._vectors[index] = struct.unpack(f"<{len(data) // 4}f", data)
            return []
        prompt_tokens, _, _, ttft_ms, run_ms = values
        usage = Usage(prompt_tokens, 0)
        return [Embedded(tuple(self._vectors), usage, Timing(ttft_ms, run_ms))]


@dataclass(eq=False)
class Job:
    """A request that was given to the worker.

    Attributes
    ----------
    places : int
        How many of the model's places it takes.
    taken : bool
        Whether the worker has said that it has it.
    """

    key: int
    arm: ArmCondition
    places: int
    receiver: Receiver
    taken: bool = False
    events: asyncio.Queue[Event | ArmFailed | NeverTaken] = field(default_factory=asyncio.Queue)


class JobTable:
    """All requests under way.

    Parameters
    ----------
    measured : callable
        Told the arm and the time of every answer, in milliseconds.
    """

    def __init__(self, *, measured: Callable[[ArmCondition, Timing], None]) -> None:
        self._jobs: dict[int, Job] = {}
        self._keys = 0
        self._measured = measured

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, arm: ArmCondition, *, places: int, receiver: Receiver) -> Job:
        """Note a request that is about to be given to the worker."""
        self._keys += 1
        job = self._jobs[self._keys] = Job(self._keys, arm, places, receiver)
        arm.running += places
        return job

    def drop(self, job: Job) -> bool:
        """Forget a job; whether the worker may still be at it."""
        if self._jobs.pop(job.key, None) is None:
            return False
        job.arm.running -= job.places
        return True

    def deliver(self, output: list[Any]) -> None:
        """Pass on a piece of an answer; one for a request that nobody waits for is dropped."""
        kind, key, *rest = output
        job = self._jobs.get(key)
        if job is None:
            return
        if kind == "a":
            job.taken = True
            return
        if kind == "f":
            self.drop(job)
            reason, message, client_error, param = rest
            failure = ArmFailed(reason, message, client_error=client_error, param=param)
            job.events.put_nowait(failure)
            return
        if kind == "d":
            self.drop(job)
            *_, ttft_ms, run_ms = rest
            self._measured(job.arm, Timing(ttft_ms, run_ms))
        for event in job.receiver.take(kind, rest):
            job.events.put_nowait(event)

    def fail(self, reason: str, message: str) -> None:
        """End every request that the worker has; what it never saw goes to the next worker."""
        for job in self:
            self.drop(job)
            job.events.put_nowait(ArmFailed(reason, message) if job.taken else NeverTaken())

    def stop(self, reason: str, message: str) -> None:
        """End every request: there will be no other worker."""
        for job in self:
            self.drop(job)
            job.events.put_nowait(ArmFailed(reason, message))
