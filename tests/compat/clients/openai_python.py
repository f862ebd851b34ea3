"""OpenAI's own client for Python."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai

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

client: Any = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0)


def chat() -> dict[str, Any]:
    """A whole answer with its headers."""
    raw = client.chat.completions.with_raw_response.create(
        model="local", messages=ask("copy: banana"), max_tokens=12, temperature=0
    )
    answer = raw.parse()
    return {
        "text": answer.choices[0].message.content,
        "usage": answer.usage.model_dump(),
        "arm": raw.headers["x-tidegate-arm"],
        "cost": raw.headers["x-tidegate-cost-usd"],
    }


def choices() -> dict[str, Any]:
    """Two answers to one question."""
    answer = client.chat.completions.create(
        model="auto", messages=ask("py choices"), n=2, max_tokens=3
    )
    texts = [each.message.content for each in answer.choices]
    return {"texts": texts, "usage": answer.usage.model_dump()}


def collected(stream: Any) -> dict[str, Any]:
    """Everything that a stream brings."""
    found: dict[str, Any] = {"text": "", "reasons": [], "usage": None, "chunks": 0}
    for chunk in stream:
        found["chunks"] += 1
        if chunk.usage is not None:
            found["usage"] = chunk.usage.model_dump()
        for choice in chunk.choices:
            found["text"] += choice.delta.content or ""
            if choice.finish_reason:
                found["reasons"].append(choice.finish_reason)
    return found


def stream() -> dict[str, Any]:
    """A local stream with usage."""
    return collected(
        client.chat.completions.create(
            model="local",
            messages=ask("copy: banana"),
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )


def paid_stream() -> dict[str, Any]:
    """A paid stream without usage."""
    return collected(
        client.chat.completions.create(
            model="auto", messages=ask("py paid stream"), max_tokens=6, stream=True
        )
    )


def stream_helper() -> dict[str, Any]:
    """The client's own accumulation of a stream."""
    text = ""
    with client.chat.completions.stream(
        model="auto", messages=ask("py stream helper"), max_tokens=6
    ) as events:
        for event in events:
            if event.type == "content.delta":
                text += event.delta
        final = events.get_final_completion()
    return {"text": text, "final": final.choices[0].message.content}


def async_stream() -> dict[str, Any]:
    """The asynchronous client."""

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as asynchronous:
            created: Any = asynchronous.chat.completions.create
            chunks = await created(
                model="auto", messages=ask("py async"), max_tokens=6, stream=True
            )
            return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])

    return {"text": asyncio.run(run())}


def tools() -> dict[str, Any]:
    """A call of a tool, and the answer to its result."""
    messages = ask("py tools")
    answer = client.chat.completions.create(model="auto", messages=messages, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    second = client.chat.completions.create(
        model="auto", messages=[*messages, answer.choices[0].message, result], tools=[TOOL]
    )
    return {
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
        "reason": answer.choices[0].finish_reason,
        "text": second.choices[0].message.content,
    }


def streamed_tools() -> dict[str, Any]:
    """A call of a tool in pieces."""
    with client.chat.completions.stream(
        model="auto", messages=ask("py streamed tools"), tools=[TOOL]
    ) as events:
        final = events.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def structured() -> dict[str, Any]:
    """Answers that follow a schema."""
    return {
        model: json.loads(
            client.chat.completions.create(
                model=model, messages=ask("py structured"), max_tokens=20, response_format=SHAPE
            )
            .choices[0]
            .message.content
        )
        for model in ("local", "auto")
    }


def errors() -> dict[str, Any]:
    """What can be wrong with a request."""

    def create(who: Any = client, **more: Any) -> dict[str, Any]:
        body = {"model": "local", "messages": ask("x"), **more}
        return failure(lambda: who.chat.completions.create(**body))

    return {
        "key": create(client.with_options(api_key="wrong")),
        "model": create(model="nobody"),
        "field": create(extra_body={"nonsense": 1}),
        "value": create(temperature=9),
        "tools": create(tools=[TOOL]),
        "budget": create(client.with_options(max_retries=2, base_url=POOR_BASE_URL), model="dear"),
    }


def broken_stream() -> dict[str, Any]:
    """A stream that breaks off in the middle."""
    stream = client.chat.completions.create(model="cloud", messages=ask("!break py"), stream=True)
    return failure(lambda: collected(stream))


def retry() -> dict[str, Any]:
    """A 429 that is over after a second."""
    answer = client.with_options(max_retries=2).chat.completions.create(
        model="cloud", messages=ask("!once=429 py retry"), max_tokens=2
    )
    return {"text": answer.choices[0].message.content}


def cancel() -> dict[str, Any]:
    """Streams that nobody reads to their end."""
    for model in ("cloud", "hasty"):
        stream = client.chat.completions.create(
            model=model,
            messages=ask(f"!slow py {model}"),
            stream=True,
            extra_headers={"x-tidegate-tag": f"py-{model}"},
        )
        next(iter(stream))
        stream.close()
    return {}


def completions() -> dict[str, Any]:
    """The legacy endpoint."""
    answer = client.completions.create(
        model="local", prompt=["copy: banana", "copy: orange"], max_tokens=12, temperature=0
    )
    chunks = client.completions.create(
        model="local", prompt="copy: banana", max_tokens=12, temperature=0, stream=True
    )
    streamed = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    return {"texts": [each.text for each in answer.choices], "streamed": streamed}


def embeddings() -> dict[str, Any]:
    """Vectors of two texts."""
    answer = client.embeddings.create(model="embed", input=["ab", "abcd"])
    return {
        "vectors": [each.embedding for each in answer.data],
        "usage": answer.usage.model_dump(),
    }


def models() -> dict[str, Any]:
    """What can be asked for."""
    listed = [model.id for model in client.models.list()]
    return {"listed": listed, "one": client.models.retrieve("local").id}


CHECKS = (
    *(chat, choices, stream, paid_stream, stream_helper, async_stream, tools, streamed_tools),
    *(structured, errors, broken_stream, retry, cancel, completions, embeddings, models),
)

if __name__ == "__main__":
    print_found({check.__name__: check for check in CHECKS})
