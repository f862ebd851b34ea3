"""LangChain's chat model for OpenAI's API."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from tests.compat.clients.checks import (
    API_KEY,
    BASE_URL,
    POOR_BASE_URL,
    SHAPE,
    TOOL,
    failure,
    print_found,
)

HERE: dict[str, Any] = {"base_url": BASE_URL, "api_key": API_KEY, "max_retries": 0}


def model(name: str, **more: Any) -> Any:
    """A chat model."""
    return ChatOpenAI(model=name, **{**HERE, **more})


def chat() -> dict[str, Any]:
    """A whole answer with its headers."""
    answer = model("local", max_tokens=12, temperature=0, include_response_headers=True).invoke(
        "copy: banana"
    )
    headers = answer.response_metadata["headers"]
    return {
        "text": answer.content,
        "usage": answer.response_metadata["token_usage"],
        "arm": headers["x-tidegate-arm"],
        "cost": headers["x-tidegate-cost-usd"],
    }


def choices() -> dict[str, Any]:
    """Two answers to one question."""
    found = model("auto", n=2, max_tokens=3).generate([[HumanMessage("lc choices")]])
    texts = [each.text for each in found.generations[0]]
    return {"texts": texts, "usage": found.llm_output["token_usage"]}


def collected(chunks: Any) -> dict[str, Any]:
    """Everything that a stream brings."""
    found: dict[str, Any] = {"text": "", "reasons": [], "usage": None, "chunks": 0}
    for chunk in chunks:
        found["chunks"] += 1
        found["text"] += chunk.content
        counted = chunk.usage_metadata
        if counted:
            found["usage"] = {
                "prompt_tokens": counted["input_tokens"],
                "completion_tokens": counted["output_tokens"],
                "total_tokens": counted["total_tokens"],
            }
        if reason := chunk.response_metadata.get("finish_reason"):
            found["reasons"].append(reason)
    return found


def stream() -> dict[str, Any]:
    """A local stream with usage."""
    return collected(
        model("local", max_tokens=12, temperature=0, stream_usage=True).stream("copy: banana")
    )


def paid_stream() -> dict[str, Any]:
    """A paid stream without usage."""
    return collected(model("auto", max_tokens=6).stream("lc paid stream"))


def async_stream() -> dict[str, Any]:
    """The asynchronous stream."""

    async def run() -> str:
        chunks = model("auto", max_tokens=6).astream("lc async")
        return "".join([chunk.content async for chunk in chunks])

    return {"text": asyncio.run(run())}


def tools() -> dict[str, Any]:
    """A call of a tool, and the answer to its result."""
    bound = model("auto").bind_tools([TOOL])
    question = HumanMessage("lc tools")
    answer = bound.invoke([question])
    (call,) = answer.tool_calls
    second = bound.invoke([question, answer, ToolMessage("sunny", tool_call_id=call["id"])])
    return {
        "name": call["name"],
        "arguments": call["args"],
        "reason": answer.response_metadata["finish_reason"],
        "text": second.content,
    }


def streamed_tools() -> dict[str, Any]:
    """A call of a tool in pieces."""
    whole: Any = None
    for chunk in model("auto").bind_tools([TOOL]).stream("lc streamed tools"):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    return {"name": call["name"], "arguments": call["args"]}


def structured() -> dict[str, Any]:
    """Answers that follow a schema, by `response_format` and by a tool."""
    schema = {"title": "verdict", **SHAPE["json_schema"]["schema"]}
    local = model("local", max_tokens=20).with_structured_output(schema, method="json_schema")
    paid = model("auto").with_structured_output(schema, method="function_calling")
    return {"local": local.invoke("lc structured"), "auto": paid.invoke("lc structured")}


def errors() -> dict[str, Any]:
    """What can be wrong with a request."""

    def create(name: str = "local", tools: bool = False, **more: Any) -> dict[str, Any]:
        made = model(name, **more)
        return failure(lambda: (made.bind_tools([TOOL]) if tools else made).invoke("x"))

    return {
        "key": create(api_key="wrong"),
        "model": create("nobody"),
        "field": create(extra_body={"nonsense": 1}),
        "value": create(temperature=9),
        "tools": create(tools=True),
        "budget": create("dear", max_retries=2, base_url=POOR_BASE_URL),
    }


def broken_stream() -> dict[str, Any]:
    """A stream that breaks off in the middle."""
    return failure(lambda: collected(model("cloud").stream("!break lc")))


def retry() -> dict[str, Any]:
    """A 429 that is over after a second."""
    answer = model("cloud", max_tokens=2, max_retries=2).invoke("!once=429 lc retry")
    return {"text": answer.content}


def cancel() -> dict[str, Any]:
    """Streams that nobody reads to their end."""
    for name in ("cloud", "hasty"):
        tagged = model(name, default_headers={"x-tidegate-tag": f"lc-{name}"})
        chunks = tagged.stream(f"!slow lc {name}")
        next(chunks)
        chunks.close()
    return {}


def completions() -> dict[str, Any]:
    """The legacy endpoint."""
    legacy = OpenAI(model="local", max_tokens=12, temperature=0, **HERE)
    texts = [each[0].text for each in legacy.generate(["copy: banana", "copy: orange"]).generations]
    return {"texts": texts, "streamed": "".join(legacy.stream("copy: banana"))}


def embeddings() -> dict[str, Any]:
    """Vectors of two texts, sent as texts: only OpenAI's own models share a tokeniser."""
    embedder = OpenAIEmbeddings(model="embed", check_embedding_ctx_length=False, **HERE)
    return {"vectors": embedder.embed_documents(["ab", "abcd"])}


CHECKS = (
    *(chat, choices, stream, paid_stream, async_stream, tools, streamed_tools, structured),
    *(errors, broken_stream, retry, cancel, completions, embeddings),
)

if __name__ == "__main__":
    print_found({check.__name__: check for check in CHECKS})
