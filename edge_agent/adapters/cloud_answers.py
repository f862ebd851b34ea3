"""What an OpenAI-compatible endpoint sends back, read with distrust. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from edge_agent.json_bytes import parsed
from edge_agent.ports import Chunk, Usage
from shared.errors import TidegateError
from shared.limits import ERROR_CHARS_MAX

TOKENS_MAX: Final = 10**9
"""A count beyond this is garbage and counts as no report at all."""

FLOAT32_MAX: Final = 3.4028234663852886e38
"""No value of a vector is beyond it: clients ask for vectors as base64 of 32-bit floats."""

# Some servers write NaN and Infinity, as in log probabilities; no client could read them.
_DECODER: Final = json.JSONDecoder(parse_constant=lambda _name: None)
_DETAILS: Final = ("prompt_tokens_details", "completion_tokens_details")


class AnswerError(TidegateError):
    """An answer that cannot be used.

    Attributes
    ----------
    reason : str
        `upstream_error` if it says itself that it failed, else `bad_response`.
    usage : Usage or None
        What it reports all the same.
    """

    code = "bad_answer"

    def __init__(self, reason: str, message: str, *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.usage = usage


def usage_of(answer: Mapping[str, Any], *, generated: bool = True) -> Usage | None:
    """The tokens that an answer reports, or None where it reports none that make sense.

    Embeddings are not `generated`: only their prompt is counted.

    Some providers leave a model's hidden thinking out of `completion_tokens` and bill it all the
    same; it shows in `total_tokens`, and counts as output here.
    """
    reported = answer.get("usage")
    if not isinstance(reported, dict):
        return None
    prompt = _count(reported.get("prompt_tokens"))
    completion = _count(reported.get("completion_tokens", None if generated else 0))
    if prompt is None or completion is None:
        return None
    total = _count(reported.get("total_tokens"))
    if total is not None:
        completion = max(completion, total - prompt)
    details = {name: reported[name] for name in _DETAILS if isinstance(reported.get(name), dict)}
    cached = _count(details.get(_DETAILS[0], {}).get("cached_tokens")) or 0
    return Usage(prompt, completion, cached, details)


def _count(value: object) -> int | None:
    """A plausible number of tokens, or None."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
        return None
    return value


def error_of(answer: object) -> tuple[str, str]:
    """The message and the code of an error object; both empty if there is no error in it."""
    if isinstance(answer, list) and answer:
        return error_of(answer[0])
    if not isinstance(answer, dict) or not answer.get("error"):
        return "", ""
    error = answer["error"]
    if not isinstance(error, dict):
        return str(error), ""
    message = error.get("message")
    code = error.get("code") or error.get("type") or ""
    return str(message or "no message"), str(code)


def error_text(body: bytes, *, secret: str) -> tuple[str, str]:
    """An error reply's message, shortened and without the secret, and its code."""
    try:
        message, code = error_of(json.loads(body))
    except (ValueError, RecursionError):
        message, code = "", ""
    if not message:
        message = body.decode("utf-8", errors="replace").strip() or "an empty reply"
    return shortened(message, secret=secret), shortened(code, secret=secret)


def shortened(message: str, *, secret: str) -> str:
    """Text of a stranger, fit for logs and clients: one line, short, without the secret."""
    if secret:
        message = message.replace(secret, "[api key]")
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return line if len(line) <= ERROR_CHARS_MAX else line[: ERROR_CHARS_MAX - 3] + "..."


def whole_answer(body: bytes, *, texts: bool = False) -> tuple[dict[str, Any], Usage | None]:
    """The `chat.completion` object of a call that was not streamed, and its usage.

    Where the reply holds `texts`, it is a `text_completion` and put into the other's form.

    Raises
    ------
    AnswerError
        When it is no such object.
    """
    answer = _json_object(body, what="reply")
    usage = usage_of(answer)
    message, _ = error_of(answer)
    if message:
        raise AnswerError("upstream_error", message, usage=usage)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise AnswerError("bad_response", "the reply has no choices", usage=usage)
    if not all(_is_choice(each, said="message", among=len(choices)) for each in choices):
        raise AnswerError("bad_response", "a choice of the reply is malformed", usage=usage)
    if texts:
        answer["choices"] = [chat_form(each, streamed=False) for each in choices]
    return answer, usage


def embeddings_answer(
    body: bytes, *, inputs: int
) -> tuple[tuple[tuple[float, ...], ...], Usage | None]:
    """The vectors of so many inputs, in their order, each value a 32-bit float, and the usage.

    Raises
    ------
    AnswerError
        When the reply is no list of embeddings.
    """
    answer = _json_object(body, what="reply")
    usage = usage_of(answer, generated=False)
    message, _ = error_of(answer)
    if message:
        raise AnswerError("upstream_error", message, usage=usage)
    data = answer.get("data")
    if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
        raise AnswerError("bad_response", "the reply has no array of embeddings", usage=usage)
    vectors = {each.get("index"): each.get("embedding") for each in data}
    if set(vectors) != set(range(inputs)) or not all(map(_is_vector, vectors.values())):
        problem = f"the reply has not one array of numbers for each of {inputs} inputs"
        raise AnswerError("bad_response", problem, usage=usage)
    return tuple(tuple(vectors[index] or ()) for index in range(inputs)), usage


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and all(
        type(each) in (float, int) and abs(each) <= FLOAT32_MAX for each in value
    )


def chat_form(choice: Mapping[str, Any], *, streamed: bool) -> dict[str, Any]:
    """A choice of a `text_completion` as one of a chat, so that all that follows knows one form."""
    said = {"role": "assistant", "content": choice.get("text") or ""}
    return {
        "index": choice.get("index", 0),
        "delta" if streamed else "message": said,
        "finish_reason": choice.get("finish_reason"),
        "logprobs": _chat_logprobs(choice.get("logprobs")),
    }


def _chat_logprobs(found: object) -> dict[str, Any] | None:
    """The older API's parallel lists as the chat API's list of tokens."""
    if not isinstance(found, dict) or not found.get("tokens"):
        return None
    likeliest = found.get("top_logprobs") or [None] * len(found["tokens"])
    triples = zip(found["tokens"], found.get("token_logprobs") or (), likeliest, strict=False)
    tokens = [
        {
            "token": token,
            "logprob": logprob,
            "top_logprobs": [
                {"token": other, "logprob": each} for other, each in (others or {}).items()
            ],
        }
        for token, logprob, others in triples
    ]
    return {"content": tokens}


class StreamTally:
    """Follows a stream: passes its chunks on, keeps the usage, knows if the answer is whole.

    Parameters
    ----------
    choices : int
        How many answers were asked for (`n`).
    texts : bool
        Whether the chunks are those of a `text_completion`.

    Attributes
    ----------
    started : bool
        Whether there was a chunk for the client.
    usage : Usage or None
        The last one reported.
    """

    def __init__(self, *, choices: int, texts: bool = False) -> None:
        self._texts = texts
        self.started = False
        self.usage: Usage | None = None
        self._choices = choices
        self._open = set(range(choices))
        self._begun: set[object] = set()

    @property
    def complete(self) -> bool:
        """Whether every choice has given its reason to end."""
        return not self._open

    def take(self, data: bytes) -> Chunk | None:
        """Read one event; the chunk to pass on, if there is anything in it for the client.

        Raises
        ------
        AnswerError
            When the event is an error or no chunk at all.
        """
        chunk = _json_object(data, what="chunk")
        message, _ = error_of(chunk)
        if message:
            raise AnswerError("upstream_error", message)
        if chunk.get("usage") is not None:
            self.usage = usage_of(chunk)
        # Whoever asked for the usage gets it from the agent, with the cost.
        chunk.pop("usage", None)
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not all(
            _is_choice(each, said="delta", among=self._choices) for each in choices
        ):
            raise AnswerError("bad_response", "a chunk has no array of well-formed choices")
        for choice in choices:
            index = choice.get("index", 0)
            if index not in self._begun:
                self._begun.add(index)
                delta = choice.get("delta")
                if isinstance(delta, dict):
                    # OpenAI's client for JavaScript insists on it; not every endpoint sends it.
                    delta.setdefault("role", "assistant")
            if choice.get("finish_reason") and isinstance(index, int):
                self._open.discard(index)
        if not choices:
            return None
        if self._texts:
            chunk["choices"] = [chat_form(choice, streamed=True) for choice in choices]
        self.started = True
        return Chunk(chunk)


def _is_choice(value: object, *, said: str, among: int) -> bool:
    """Whether something is one of so many choices, and what it says an object or absent."""
    if not isinstance(value, dict) or not isinstance(value.get(said) or {}, dict):
        return False
    index = value.get("index")
    return index is None or (type(index) is int and 0 <= index < among)


def _json_object(data: bytes, *, what: str) -> dict[str, Any]:
    """A JSON object, or the error that it is none."""
    try:
        found = parsed(data, otherwise=_DECODER)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        start = data[:80].decode("utf-8", errors="replace")
        raise AnswerError("bad_response", f"a {what} is no JSON object; it starts with {start!r}")
    return found
