"""The body of the legacy `/v1/completions`: each prompt becomes a chat request of its own.

Instruct models, local and paid ones, need their chat template, so a prompt is put to them as a
user's message. An arm that lists the capability `completions` continues the bare prompt instead.
What neither can serve is refused by name: `suffix`, token ids, and `best_of` above `n`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edge_agent.openai_request.body import FIELDS, CheckedBody, checked_body
from edge_agent.openai_request.checks import (
    Check,
    array,
    flag,
    integer,
    missing_field,
    refusal,
    text,
    unknown_field,
    wrong_type,
)
from edge_agent.openai_request.json_text import parse_object
from shared.limits import N_MAX, PROMPTS_MAX

MAX_TOKENS_DEFAULT: Final = 16
"""OpenAI's own default for this endpoint."""

TOP_LOGPROBS_MAX: Final = 5

_OF_CHAT: Final = (
    "frequency_penalty",
    "grammar",
    "logit_bias",
    "max_tokens",
    "min_p",
    "model",
    "n",
    "presence_penalty",
    "repeat_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_k",
    "top_p",
    "user",
)


@dataclass(frozen=True)
class CheckedCompletion:
    """A completion request as the chat requests that answer it.

    Attributes
    ----------
    chats : tuple of CheckedBody
        One for each prompt, in their order.
    prompts : tuple of str
    echo : bool
        Whether to put the prompt before each text.
    n : int
        Choices for each prompt.
    """

    chats: tuple[CheckedBody, ...]
    prompts: tuple[str, ...]
    echo: bool
    n: int


def _prompt(value: Any, path: str) -> list[str]:
    """One text or several."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or any(isinstance(each, int | list) for each in value):
        raise wrong_type(path, "a string or an array of strings (no token ids)", value)
    checked: list[str] = array(text(), low=1, high=PROMPTS_MAX, of="strings")(value, path)
    return checked


_FIELDS: Final[Mapping[str, Check]] = {
    **{name: FIELDS[name] for name in _OF_CHAT},
    "best_of": integer(1, N_MAX),
    "echo": flag,
    "logprobs": integer(0, TOP_LOGPROBS_MAX),
    "prompt": _prompt,
    "suffix": text(),
}


def parse_completion(raw: bytes) -> CheckedCompletion:
    """Check the body of a completion request.

    Raises
    ------
    RequestRefused
        400 that names the field at fault and what would be right.
    """
    body: dict[str, Any] = {}
    for name, value in parse_object(raw).items():
        if name not in _FIELDS:
            raise unknown_field(name, _FIELDS)
        if value is not None:
            body[name] = _FIELDS[name](value, name)
    for name in ("model", "prompt"):
        if name not in body:
            raise missing_field(name)
    if body.pop("suffix", ""):
        raise _unsupported("suffix", "no arm fills in text before an ending: leave it out")
    if body.pop("best_of", body.get("n", 1)) != body.get("n", 1):
        raise _unsupported("best_of", "every answer is returned: leave it out, or set it to 'n'")
    prompts, echo = body.pop("prompt"), body.pop("echo", False)
    likeliest = body.pop("logprobs", None)
    if echo and likeliest is not None:
        raise _unsupported("echo", "a prompt has no log probabilities: leave out 'logprobs'")
    if likeliest is not None:
        body |= {"logprobs": True, "top_logprobs": likeliest}
    body.setdefault("max_tokens", MAX_TOKENS_DEFAULT)
    return CheckedCompletion(
        chats=tuple(checked_body({**body, "messages": _asked(prompt)}) for prompt in prompts),
        prompts=tuple(prompts),
        echo=echo,
        n=body.get("n", 1),
    )


def _asked(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _unsupported(name: str, remedy: str) -> Exception:
    return refusal("unsupported_parameter", f"'{name}' is not supported: {remedy}", param=name)
