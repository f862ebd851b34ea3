"""A client's request and its answer, between the HTTP face and the service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from shared.decision.types import Fallout
from shared.errors import TidegateError
from shared.rows import quick_dataclass

if TYPE_CHECKING:
    # Only named in a signature, so that the pure engine does not come to depend on it.
    import asyncio

MODEL_AUTO = "auto"


def part_id(request_id: str, number: int) -> str:
    """The id of one of several prompts of a completion, counted from 1."""
    return f"{request_id}.{number}"


class RequestKind(StrEnum):
    """What a client asks for."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"


class TaskSource(StrEnum):
    """Who said of what class a request is."""

    HEADER = "header"
    KEY = "key"
    CLASSIFIER = "classifier"
    DEFAULT = "default"


@quick_dataclass(frozen=True)
class TaskOrigin:
    """How a request came to its task class.

    Attributes
    ----------
    likeliest : str
        The classifier's first choice. Where it was not sure enough the request is `other`.
    confidence : float
        How sure the classifier was of it, 0 to 1.
    """

    source: TaskSource = TaskSource.DEFAULT
    likeliest: str = ""
    confidence: float = 0.0


NO_ORIGIN: Final = TaskOrigin()


@quick_dataclass(frozen=True)
class ClientRequest:
    """One validated request.

    Attributes
    ----------
    body : mapping
        The OpenAI request, of chat or of embeddings, checked field by field.
    body_bytes : int
        Length of the serialised body, for the worst case (rule A_2).
    model : str
        `auto`, or the arm that the client pins.
    task_class : str or None
        From the header `x-tidegate-task`, or else of the API key.
    task_source : TaskSource
        Which of them, if there is a class.
    deadline_ms : int or None
        From the header `x-tidegate-deadline-ms`; None means the class's own.
    max_cost_nanos : int or None
        From the header `x-tidegate-max-cost-usd`; None means no cap.
    prompt : str or None
        Of a legacy completion: what an arm that lists `completions` continues as it is. To every
        other arm it is a user's message, as in `body`.
    expected : str or None
        From the header `x-tidegate-expected`.
    tag, key_tag : str
        Whose request it is: of the API key, perhaps refined by `x-tidegate-tag`; and the tag of
        the key alone, empty without one.
    """

    request_id: str
    arrived_unix_ms: int
    arrived_monotonic_ms: float
    body: Mapping[str, Any]
    body_bytes: int
    model: str
    stream: bool
    include_usage: bool
    task_class: str | None = None
    task_source: TaskSource = TaskSource.HEADER
    privacy_local: bool = False
    deadline_ms: int | None = None
    max_cost_nanos: int | None = None
    tag: str = ""
    key_tag: str = ""
    expected: str | None = None
    idempotency_key: str = ""
    kind: RequestKind = RequestKind.CHAT
    prompt: str | None = None


@quick_dataclass(frozen=True)
class AnswerHead:
    """What is known when the first byte of an answer goes out; becomes headers."""

    request_id: str
    arm: str
    reason: str
    table_version: int
    max_tokens: int
    task_class: str
    origin: TaskOrigin = NO_ORIGIN


class Answer(ABC):
    """An answer under way. Exactly one of `response` and `chunks` is used.

    Attributes
    ----------
    head : AnswerHead
    response : mapping or None
        The whole object; None for a streamed answer.
    """

    head: AnswerHead
    response: Mapping[str, Any] | None

    @abstractmethod
    def chunks(self) -> AsyncIterator[Mapping[str, Any]]:
        """The `chat.completion.chunk` objects of a streamed answer, in order.

        The last one carries usage and cost when the client asked for usage. An error after the
        first token is raised as `RequestRefused` and belongs into the stream. Closing the
        iterator early means that the client has gone.
        """

    @property
    @abstractmethod
    def usage(self) -> Mapping[str, Any]:
        """Tokens and cost, as in the usage chunk; empty before the end."""

    @property
    @abstractmethod
    def cost_nanos(self) -> int:
        """What the answer cost so far, in nano-dollars; final once it has ended."""


class RequestRefused(TidegateError):
    """A request ends without an answer; becomes an OpenAI error envelope.

    Attributes
    ----------
    status : int
        HTTP status.
    code : str
        OpenAI error code such as `model_not_found` or `budget_exceeded`.
    param : str or None
        The field at fault.
    retry_after_s : int or None
        Becomes `Retry-After`.
    fallouts : sequence of Fallout
        Each arm that was no candidate, and why.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
        fallouts: Sequence[Fallout] = (),
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.fallouts = tuple(fallouts)
        self.reason = reason


@dataclass(frozen=True)
class RouteDecision:
    """The decision for a request without the call: the reply of `/v1/route`."""

    task_class: str
    arm: str
    propensity_ppm: int
    fallbacks: tuple[str, ...]
    fallouts: tuple[Fallout, ...]
    reason: str
    table_version: int
    worst_case_nanos: int
    origin: TaskOrigin = NO_ORIGIN


@dataclass(frozen=True)
class Readiness:
    """Whether the agent can answer, and what is wrong if it cannot or only in part."""

    ready: bool
    problems: tuple[str, ...]
    details: Mapping[str, Any]


@dataclass(frozen=True)
class ListedModel:
    """A name that clients may ask for: an arm, or `auto`."""

    id: str
    kind: str
    available: bool
    capabilities: frozenset[str] = frozenset()


class AgentFacade(ABC):
    """What the HTTP face asks of the service."""

    @abstractmethod
    async def answer(self, request: ClientRequest, gone: asyncio.Future[None]) -> Answer:
        """Answer a request; returns with the first chunk at hand, or with the whole response.

        `gone` is done when the client disconnects while it waits. The caller takes the first
        chunk of a streamed answer in any case, so that closing its iterator reaches the service.

        Raises
        ------
        RequestRefused
            When no arm may or can answer.
        """

    @abstractmethod
    def models(self) -> Sequence[ListedModel]:
        """The real arms; `auto` is added by the HTTP face. From memory, loads nothing."""

    @abstractmethod
    def route(self, request: ClientRequest) -> RouteDecision:
        """The decision for a request without the call.

        Raises
        ------
        RequestRefused
            When no arm would do.
        """

    @abstractmethod
    async def feedback(
        self, *, request_id: str, score: float, source: str, key_tag: str = ""
    ) -> bool:
        """Record a grade from 0 to 1; False when the same grade was already known.

        The id of a completion with several prompts stands for all of its parts.

        Parameters
        ----------
        key_tag : str
            Of the API key that was shown: it grades the requests of its own application only.

        Raises
        ------
        NotFoundError
            When the request is not, or no longer, known, or is another application's.
        ConflictError
            When another grade was recorded before.
        """

    @abstractmethod
    def readiness(self) -> Readiness:
        """Whether the agent can answer now. From memory, loads nothing."""
