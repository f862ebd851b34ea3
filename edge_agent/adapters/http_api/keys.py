"""API keys: who may ask, and as which application."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from edge_agent.requests import ClientRequest, RequestRefused, TaskSource
from shared.limits import TAG_CHARS_MAX

_TAG: Final = "x-tidegate-tag"


@dataclass(frozen=True)
class ApiKey:
    """One application's key.

    Attributes
    ----------
    tag : str
        Names the application in outcomes, metrics and the export; may have a budget of its own.
    task_class : str
        Of requests that name none; empty to leave it to the classifier.
    refine_tag : bool
        Whether a request may say more in `x-tidegate-tag`: its tag is then `TAG/MORE`.
    """

    secret: str = field(repr=False)
    tag: str
    task_class: str = ""
    refine_tag: bool = False

    def asked(self, request: ClientRequest) -> ClientRequest:
        """The request as one of this application's.

        Raises
        ------
        RequestRefused
            400 if it names a tag that the key does not allow.
        """
        if not request.task_class and self.task_class:
            request = replace(request, task_class=self.task_class, task_source=TaskSource.KEY)
        return replace(
            request,
            key_tag=self.tag,
            tag=self._tag_of(request),
            # Applications do not know each other's keys.
            idempotency_key=request.idempotency_key and f"{self.tag} {request.idempotency_key}",
        )

    def _tag_of(self, request: ClientRequest) -> str:
        if not request.tag:
            return self.tag
        if not self.refine_tag:
            raise RequestRefused(
                400,
                "tag_not_allowed",
                f"requests with this API key have the tag {self.tag!r}: leave '{_TAG}' out, or "
                "set refine_tag = true for the key in the agent's configuration",
                param=_TAG,
            )
        refined = f"{self.tag}/{request.tag}"
        if len(refined) > TAG_CHARS_MAX:
            raise RequestRefused(
                400,
                "invalid_value",
                f"'{_TAG}' makes the tag {refined!r}, longer than {TAG_CHARS_MAX} characters: "
                "shorten it",
                param=_TAG,
            )
        return refined


class ApiKeys:
    """The keys that clients of `/v1` have to show; with none set, everybody is let in."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """From now on these keys count, and no others."""
        self._keys = [(_digest(key.secret), key) for key in keys]

    @property
    def required(self) -> bool:
        """Whether any are set."""
        return bool(self._keys)

    def check(self, headers: Mapping[str, str]) -> ApiKey | None:
        """The key behind an `Authorization: Bearer` header; None if no keys are set.

        Raises
        ------
        RequestRefused
            401 without a valid one.
        """
        if not self._keys:
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        digest = _digest(shown.strip()) if scheme.lower() == "bearer" else b""
        # Every key is looked at, so that the time tells nothing.
        found = [key for each, key in self._keys if hmac.compare_digest(digest, each)]
        if not found:
            raise RequestRefused(
                401,
                "invalid_api_key",
                "the API key is missing or wrong: send 'Authorization: Bearer KEY' with one of "
                "the agent's API keys",
            )
        return found[0]


def _digest(key: str) -> bytes:
    """A key in a form of fixed length, which is safe to compare and to keep."""
    return hashlib.sha256(key.encode()).digest()
