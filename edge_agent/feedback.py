"""Grades that clients give, up to a day after the answer, each request's first one counting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from edge_agent.bookkeeper import Bookkeeper
from edge_agent.books import BookEffect
from edge_agent.engine import AgentEngine
from edge_agent.requests import part_id
from shared.clock import Clock
from shared.decision.reward import reward_ppm
from shared.decision.types import Feedback, Outcome, SpoolBody
from shared.errors import ConflictError, NotFoundError
from shared.limits import PROMPTS_MAX

Graded = tuple[Outcome, Feedback | None]
"""A finished request and the grade that it has."""


class ClientFeedback:
    """Looks up what is graded, and spools the grade.

    Attributes
    ----------
    lock : asyncio.Lock
        Held while a grade is looked up and given: of two at once, the second must see the first.
    """

    def __init__(
        self,
        engine: AgentEngine,
        *,
        bookkeeper: Bookkeeper,
        clock: Clock,
        on_spooled: Callable[[SpoolBody], None],
    ) -> None:
        self._engine = engine
        self._bookkeeper = bookkeeper
        self._clock = clock
        self._on_spooled = on_spooled
        self.lock = asyncio.Lock()

    async def is_graded(self, request_id: str) -> bool:
        """Whether a request has a full grade."""
        _, grade = await self._bookkeeper.find(request_id)
        return grade is not None

    async def give(self, request_id: str, *, score: float, source: str, key_tag: str) -> bool:
        """Grade a request; see `AgentFacade.feedback`."""
        async with self.lock:
            found = await self._finished(request_id)
            if not found or not all(_is_of(outcome, key_tag) for outcome, _ in found):
                raise NotFoundError(
                    f"no finished request {request_id!r} is kept here; grade within 24 h, on the "
                    "agent that answered, with the id from x-tidegate-request-id"
                )
            return await self._grade(found, score=score, source=source)

    async def _finished(self, request_id: str) -> list[Graded]:
        """A request, or each of the prompts of a completion, whose own id is in no book."""
        outcome, grade = await self._bookkeeper.find(request_id)
        if outcome is not None:
            return [(outcome, grade)]
        found: list[Graded] = []
        for number in range(1, PROMPTS_MAX + 1):
            outcome, grade = await self._bookkeeper.find(part_id(request_id, number))
            if outcome is None:
                break
            found.append((outcome, grade))
        return found

    async def _grade(self, found: Sequence[Graded], *, score: float, source: str) -> bool:
        """Grade all of them alike, or none; whether that was new."""
        grades = [self._grade_of(outcome, score=score, source=source) for outcome, _ in found]
        given = list(zip(grades, (earlier for _, earlier in found), strict=True))
        for grade, earlier in given:
            if earlier is not None:  # one that differs refuses all, before anything is spooled
                self._engine.graded(grade, earlier=earlier)
        fresh = [grade for grade, earlier in given if earlier is None]
        effects: list[BookEffect] = []
        for grade in fresh:
            effects += self._engine.graded(grade, earlier=None)[1]
        await self._bookkeeper.commit(effects)
        for grade in fresh:
            self._on_spooled(grade)
        return bool(fresh)

    def _grade_of(self, outcome: Outcome, *, score: float, source: str) -> Feedback:
        if not outcome.arm:
            raise ConflictError(f"request {outcome.request_id} was not answered: nothing to grade")
        return Feedback(
            request_id=outcome.request_id,
            task_class=outcome.task_class,
            arm=outcome.arm,
            reward_ppm=reward_ppm(score),
            source=source,
            at_unix_ms=self._clock.unix_ms(),
        )


def _is_of(outcome: Outcome, key_tag: str) -> bool:
    """Whether a request is an application's, which may have said more than its key's tag."""
    return not key_tag or outcome.tag == key_tag or outcome.tag.startswith(f"{key_tag}/")
