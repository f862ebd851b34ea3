"""What the agent's service needs from the outside world.

Each port has one conformance suite in `tests/contract/`, run on every implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from edge_agent.books import BookEffect, BooksSnapshot
from shared.decision.types import Arm, DeviceState, Feedback, Outcome, SettleKind, SpoolRecord
from shared.errors import TidegateError
from shared.rows import quick_dataclass


@quick_dataclass(frozen=True)
class Usage:
    """Tokens as the backend counted them.

    Attributes
    ----------
    cached_tokens : int
        Those of the prompt that did not have to be processed again.
    details : mapping
        What a provider says beside that (`completion_tokens_details`, ...), for the client.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


@quick_dataclass(frozen=True)
class Timing:
    """How long an answer took, measured where it was made.

    Attributes
    ----------
    ttft_ms : float
        From the call's arrival to its first token, the wait for a model and a place included.
    run_ms : float
        From the start of the work to its end.
    """

    ttft_ms: float
    run_ms: float


@quick_dataclass(frozen=True)
class ChatCall:
    """One attempt of one arm, ready to be sent.

    Attributes
    ----------
    body : mapping
        The OpenAI chat-completions request: validated, `model` and `max_tokens` set for the arm.
        Local models, and other arms that list `completions`, also take `prompt`, a string, instead
        of `messages`: text that is continued without a chat template.
    stream : bool
        Whether the client wants chunks.
    """

    request_id: str
    arm: Arm
    body: Mapping[str, Any]
    stream: bool


@quick_dataclass(frozen=True)
class Chunk:
    """One `chat.completion.chunk` object in OpenAI's form, to be relayed at once.

    A chunk that carries usage only (empty `choices`) is not sent as a `Chunk`: its numbers
    come with `Finished`.
    """

    data: Mapping[str, Any]


@quick_dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes
    ----------
    usage : Usage or None
        None when the backend never reported any.
    response : mapping or None
        The whole `chat.completion` object when the call was not streamed.
    timing : Timing or None
        None when the backend does not measure it.
    """

    usage: Usage | None
    response: Mapping[str, Any] | None = None
    timing: Timing | None = None


ChatEvent = Chunk | Finished


@dataclass(frozen=True)
class EmbedCall:
    """Texts to be turned into vectors by one arm.

    Attributes
    ----------
    inputs : tuple of str
    token_inputs : tuple of tuple of int
        In their place, texts as ids of the model's own tokens; only for arms that list
        `token_input`.
    fields : mapping
        Further fields of the request: `dimensions`, `user`.
    """

    request_id: str
    arm: Arm
    inputs: tuple[str, ...]
    token_inputs: tuple[tuple[int, ...], ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """The vectors of a call's texts, in their order.

    Attributes
    ----------
    usage : Usage or None
        None when the backend never reported any.
    """

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None
    timing: Timing | None = None


class ArmFailed(TidegateError):
    """An attempt failed; the next candidate may be tried if nothing was sent to the client.

    Attributes
    ----------
    reason : str
        A short stable word for metrics and `x-tidegate-reason`: `connect_failed`, `timeout`,
        `http_503`, `worker_crashed`, `context_length_exceeded`, `invalid_request`, ...;
        `unsupported` if the arm works but cannot do what the request asks for.
    settle : SettleKind
        What is known of the cost (rule S_2): RELEASED if the provider cannot have executed the
        call, else UNKNOWN, or REPORTED together with `usage`.
    client_error : bool
        The request itself is at fault (an upstream 400): another arm would refuse it as well.
    param : str or None
        The field of the request that is at fault.
    retry_after_s : int
        How long the endpoint wants to be left alone; 0 if it did not say.
    """

    code = "arm_failed"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        settle: SettleKind = SettleKind.RELEASED,
        usage: Usage | None = None,
        client_error: bool = False,
        param: str | None = None,
        retry_after_s: int = 0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.param = param
        self.settle = settle
        self.usage = usage
        self.client_error = client_error
        self.retry_after_s = retry_after_s


class ModelState(StrEnum):
    """What a local arm can do now."""

    LOADED = "loaded"
    LOADING = "loading"
    LOADABLE = "loadable"
    BROKEN = "broken"
    ABSENT = "absent"


@dataclass(frozen=True)
class LocalModel:
    """A model file on this device, bound to a local arm of the fleet.

    A file that makes embeddings serves `embed`; every other one serves `chat`.
    """

    arm: str
    path: str
    context_tokens: int = 2048
    threads: int = 0
    batch_sequences: int = 4
    gpu_layers: int = 0
    tokens_per_second_max: float = 0.0


@dataclass(frozen=True)
class ModelStatus:
    """The present condition of a local model.

    Attributes
    ----------
    problem : str
        Why it is broken, in a sentence that says what to do; empty otherwise.
    queue_ms : float
        Expected wait of a request that came now.
    capabilities : frozenset of str
        What the model's file says that it can do: `json_schema`, `logprobs`, `tools`, or
        `embeddings`.
    """

    arm: str
    state: ModelState
    problem: str = ""
    queue_ms: float = 0.0
    capabilities: frozenset[str] = frozenset()


NOTHING_SENT: Final = "no byte of the call was sent"


class ChatBackend(ABC):
    """Something that answers chat calls: llama.cpp or a cloud endpoint."""

    @abstractmethod
    def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        """Answer a call.

        A streamed call yields `Chunk`s as they come and then one `Finished`; a call that is not
        streamed yields one `Finished` with the whole response. Closing the iterator early
        (`aclose`) stops the work and frees its resources.

        Raises
        ------
        ArmFailed
            Whatever goes wrong, with what is known of the cost.
        """


class EmbeddingBackend(ABC):
    """Something that turns texts into vectors."""

    @abstractmethod
    async def embed(self, call: EmbedCall) -> Embedded:
        """The vectors of a call's texts. Cancelling it stops the work.

        Raises
        ------
        ArmFailed
            Whatever goes wrong, with what is known of the cost.
        """


class LocalModels(ChatBackend, EmbeddingBackend):
    """The supervised llama.cpp worker."""

    @abstractmethod
    async def start(self) -> None:
        """Start supervising. Returns without waiting for models to load."""

    @abstractmethod
    async def stop(self) -> None:
        """End the worker and wait for it; running answers fail."""

    @abstractmethod
    def status(self) -> Sequence[ModelStatus]:
        """The condition of every configured model, from memory."""

    @abstractmethod
    async def keep_resident(self, arms: Sequence[str]) -> None:
        """Prefer these arms in memory: load them, unload others where memory is short."""


class CloudClient(ChatBackend, EmbeddingBackend):
    """Paid, OpenAI-compatible endpoints. Never retries by itself (rule S_1).

    A call that is cancelled raises `CancelledError(NOTHING_SENT)` if, and only if, it is certain
    that no byte of it has left this machine (rule S_2).
    """

    @abstractmethod
    def key_problem(self, arm: Arm) -> str:
        """Why a paid arm cannot be called for want of its key; empty if it can."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""


Told = Callable[[Exception | None], None]
"""Takes what became of a commit."""


def nobody(_: Exception | None) -> None:
    """Nobody wants to know."""


class Books(ABC):
    """The device's durable books: leases, reservations and the spool, in one place.

    Raises
    ------
    BooksFullError
        When the disk is full; nothing of the commit was applied.
    BooksCorruptError
        When the books cannot be trusted.
    """

    @abstractmethod
    def load(self) -> BooksSnapshot:
        """Everything that was committed, read once at the start."""

    @abstractmethod
    async def commit(
        self,
        effects: Sequence[BookEffect],
        *,
        sync: bool = False,
        after_full: bool = False,
        told: Told = nobody,
    ) -> None:
        """Apply effects in one transaction, in order with every earlier commit.

        Once a commit has found the disk full, every later one MUST fail alike, so that nothing
        overtakes what was refused, until one comes that says `after_full`.

        Parameters
        ----------
        sync : bool
            They survive the loss of power; without it, the end of the process.
        after_full : bool
            This commit begins with all that was refused.
        told : callable
            Called once with what became of the commit, None or the error, in the order of the
            commits, also when the caller is gone.
        """

    @abstractmethod
    async def spooled(self, *, after: int, limit: int) -> Sequence[SpoolRecord]:
        """Up to `limit` spool records with a sequence above `after`, in order.

        A record that cannot be read comes as a `SpoolSummary` that says so, and of no incarnation.
        """

    @abstractmethod
    async def find(self, request_id: str) -> tuple[Outcome | None, Feedback | None]:
        """The spooled outcome of a request and its full grade, as far as they are still kept."""

    @abstractmethod
    async def size_bytes(self) -> int:
        """How much disk the books take."""

    @abstractmethod
    async def close(self) -> None:
        """Finish pending commits and close the file."""


@dataclass(frozen=True)
class Guess:
    """What the classifier makes of a request.

    Attributes
    ----------
    task_class : str
        The likeliest, or `other` where that is not sure enough.
    likeliest : str
        One of the fleet's classes.
    confidence : float
        The probability of the likeliest, 0 to 1.
    """

    task_class: str
    likeliest: str
    confidence: float


class Classifier(ABC):
    """Tells a request's task class where the client named none. Its text goes nowhere else."""

    @property
    @abstractmethod
    def classes(self) -> Sequence[str]:
        """The fleet's classes that it can tell apart, `other` aside; empty while it is idle."""

    @property
    @abstractmethod
    def problem(self) -> str:
        """Why it cannot work, in a sentence that says what to do; empty otherwise."""

    @abstractmethod
    async def prepare(self, classes: Collection[str]) -> None:
        """The fleet has these task classes; a model that cannot be used is a `problem`."""

    @abstractmethod
    def classify(self, text: str) -> Guess | None:
        """The class of a request with this text, or None while it is idle. Never raises."""


class DeviceSensors(ABC):
    """Readings of the machine."""

    @abstractmethod
    def read(self) -> DeviceState:
        """The machine's state now; fields that the machine cannot tell keep their defaults."""
