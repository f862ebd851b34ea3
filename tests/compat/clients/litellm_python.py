"""LiteLLM as a client: the agent is a custom endpoint, its models are `openai/...`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import litellm

from tests.compat.clients.checks import (
    API_KEY,
    BASE_URL,
    POOR_BASE_URL,
    SHAPE,
    TOOL,
    ask,
    failure,
    print_found,
)

litellm.suppress_debug_info = True
HERE: dict[str, Any] = {"api_base": BASE_URL, "api_key": API_KEY, "max_retries": 0}


def complete(model: str, messages: list[dict[str, Any]], **more: Any) -> Any:
    """One completion."""
    return litellm.completion(model=f"openai/{model}", messages=messages, **{**HERE, **more})


def chat() -> dict[str, Any]:
    """A whole answer with its headers."""
    answer = complete("local", ask("copy: banana"), max_tokens=12, temperature=0)
    headers = answer._response_headers
    return {
        "text": answer.choices[0].message.content,
        "usage": answer.usage.model_dump(),
        "arm": headers["x-tidegate-arm"],
        "cost": headers["x-tidegate-cost-usd"],
    }


def choices() -> dict[str, Any]:
    """Two answers to one question."""
    answer = complete("auto", ask("ll choices"), n=2, max_tokens=3)
    texts = [each.message.content for each in answer.choices]
    return {"texts": texts, "usage": answer.usage.model_dump()}


def collected(stream: Any) -> dict[str, Any]:
    """Everything that a stream brings."""
    found: dict[str, Any] = {"text": "", "reasons": [], "usage": None, "chunks": 0}
    for chunk in stream:
        found["chunks"] += 1
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            found["usage"] = usage.model_dump()
        for choice in chunk.choices:
            found["text"] += choice.delta.content or ""
            if choice.finish_reason:
                found["reasons"].append(choice.finish_reason)
    return found


def stream() -> dict[str, Any]:
    """A local stream with usage."""
    wanted = {"include_usage": True}
    return collected(
        complete(
            "local",
            ask("copy: banana"),
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options=wanted,
        )
    )


def paid_stream() -> dict[str, Any]:
    """A paid stream without usage."""
    return collected(complete("auto", ask("ll paid stream"), max_tokens=6, stream=True))


def async_stream() -> dict[str, Any]:
    """The asynchronous call."""

    async def run() -> str:
        chunks = await litellm.acompletion(
            model="openai/auto", messages=ask("ll async"), max_tokens=6, stream=True, **HERE
        )
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])

    return {"text": asyncio.run(run())}


def tools() -> dict[str, Any]:
    """A call of a tool, and the answer to its result."""
    messages = ask("ll tools")
    answer = complete("auto", messages, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    more = [*messages, answer.choices[0].message.model_dump(exclude_none=True), result]
    second = complete("auto", more, tools=[TOOL])
    return {
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
        "reason": answer.choices[0].finish_reason,
        "text": second.choices[0].message.content,
    }


def streamed_tools() -> dict[str, Any]:
    """A call of a tool in pieces."""
    chunks = list(complete("auto", ask("ll streamed tools"), tools=[TOOL], stream=True))
    final: Any = litellm.stream_chunk_builder(chunks)
    (call,) = final.choices[0].message.tool_calls
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def structured() -> dict[str, Any]:
    """Answers that follow a schema."""
    answers = {}
    for model in ("local", "auto"):
        answer = complete(model, ask("ll structured"), max_tokens=20, response_format=SHAPE)
        answers[model] = json.loads(answer.choices[0].message.content)
    return answers


def errors() -> dict[str, Any]:
    """What can be wrong with a request."""

    def create(model: str = "local", **more: Any) -> dict[str, Any]:
        return failure(lambda: complete(model, ask("x"), **more))

    return {
        "key": create(api_key="wrong"),
        "model": create("nobody"),
        "field": create(extra_body={"nonsense": 1}),
        "value": create(temperature=9),
        "tools": create(tools=[TOOL]),
        "budget": create("dear", max_retries=2, api_base=POOR_BASE_URL),
    }


def broken_stream() -> dict[str, Any]:
    """A stream that breaks off in the middle."""
    stream = complete("cloud", ask("!break ll"), stream=True)
    return failure(lambda: collected(stream))


def retry() -> dict[str, Any]:
    """A 429 that is over after a second."""
    answer = complete("cloud", ask("!once=429 ll retry"), max_tokens=2, max_retries=2)
    return {"text": answer.choices[0].message.content}


def cancel() -> dict[str, Any]:
    """Streams that nobody reads to their end."""
    for model in ("cloud", "hasty"):
        tag = {"x-tidegate-tag": f"ll-{model}"}
        stream = complete(model, ask(f"!slow ll {model}"), stream=True, extra_headers=tag)
        next(iter(stream))
        stream.completion_stream.close()
    return {}


def completions() -> dict[str, Any]:
    """The legacy endpoint."""
    legacy: dict[str, Any] = {
        "model": "text-completion-openai/local",
        "max_tokens": 12,
        "temperature": 0,
        **HERE,
    }
    answer = litellm.text_completion(prompt=["copy: banana", "copy: orange"], **legacy)
    chunks = litellm.text_completion(prompt="copy: banana", stream=True, **legacy)
    streamed = "".join(chunk.choices[0].text or "" for chunk in chunks if chunk.choices)
    return {"texts": [each.text for each in answer.choices], "streamed": streamed}


def embeddings() -> dict[str, Any]:
    """Vectors of two texts."""
    answer = litellm.embedding(model="openai/embed", input=["ab", "abcd"], **HERE)
    vectors = [each["embedding"] for each in answer.data]
    return {"vectors": vectors, "usage": answer.usage.model_dump()}


CHECKS = (
    *(chat, choices, stream, paid_stream, async_stream, tools, streamed_tools, structured),
    *(errors, broken_stream, retry, cancel, completions, embeddings),
)

if __name__ == "__main__":
    print_found({check.__name__: check for check in CHECKS})
