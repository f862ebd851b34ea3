"""What every implementation of the port `LocalModels` must do.

The answers' text is forced by grammars and logit biases, so nothing here depends on what the
demo models have learned.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from edge_agent.adapters.llama_cpp.supervisor import LlamaWorker
from edge_agent.ports import (
    ArmFailed,
    ChatCall,
    ChatEvent,
    Chunk,
    EmbedCall,
    Finished,
    LocalModel,
    LocalModels,
    ModelState,
    ModelStatus,
    Usage,
)
from shared.clock import SystemClock
from shared.decision.types import Arm, ArmKind
from tests.bench.random_model import Shape, random_model

TINY = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "models" / "tiny.gguf"
CONTEXT_TOKENS = 256
WAIT_S = 30.0
TOOLS_TEMPLATE = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }} Answer with <tool_call>{...}</tool_call>"
    "{% endif %}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}{% endfor %}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
        },
    },
}
HELLO = [{"role": "user", "content": "hello"}]

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


def _configured(folder: Path) -> list[LocalModel]:
    """Arms: `tiny` is fast, `slow` is paced and answers one at a time, others are broken."""
    good = shutil.copy(TINY, folder / "good.gguf")
    cut = folder / "cut.gguf"
    cut.write_bytes(TINY.read_bytes()[: TINY.stat().st_size // 2])
    common = {"context_tokens": CONTEXT_TOKENS, "threads": 1}
    return [
        LocalModel(arm="tiny", path=str(good), **common),
        LocalModel(arm="paced", path=str(good), tokens_per_second_max=50.0, **common),
        LocalModel(
            arm="slow", path=str(good), tokens_per_second_max=20.0, batch_sequences=1, **common
        ),
        LocalModel(arm="spare", path=str(good), **common),
        LocalModel(
            arm="tools",
            path=str(_made(folder, "tools", template=TOOLS_TEMPLATE)),
            context_tokens=4 * CONTEXT_TOKENS,
            threads=1,
        ),
        LocalModel(arm="vectors", path=str(_made(folder, "vectors", pooling=1)), **common),
        LocalModel(arm="cut", path=str(cut)),
        LocalModel(arm="gone", path=str(folder / "gone.gguf")),
    ]


def _made(folder: Path, name: str, **traits: Any) -> Path:
    """A model of random weights."""
    shape = Shape(
        name, width=64, layers=1, heads=2, kv_heads=2, hidden=64, vocabulary=400, **traits
    )
    return random_model(shape, folder=folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalModels]:
    """One started implementation for the whole suite."""
    configured = _configured(tmp_path_factory.mktemp("models"))
    worker = LlamaWorker(models=configured, clock=SystemClock())
    await worker.start()
    yield worker
    await worker.stop()


def _call(arm: str = "tiny", *, stream: bool = False, **fields: Any) -> ChatCall:
    bound = Arm(arm, ArmKind.LOCAL, arm, CONTEXT_TOKENS, 64)
    body = {"model": arm, "messages": HELLO, "max_tokens": 64} | fields
    return ChatCall(request_id="req-1", arm=bound, body=body, stream=stream)


def _says(text: str) -> dict[str, Any]:
    """Fields that force an answer."""
    return {"grammar": f"root ::= {json.dumps(text, ensure_ascii=False)}"}


def _says_for_ever() -> dict[str, Any]:
    """Fields that force an answer without an end: one byte again and again."""
    return {"logit_bias": {str(7 + ord("x")): 100}, "temperature": 0}


async def _events(models: LocalModels, call: ChatCall) -> list[ChatEvent]:
    async with asyncio.timeout(WAIT_S):
        return [event async for event in models.chat(call)]


async def _whole(models: LocalModels, call: ChatCall) -> dict[str, Any]:
    """The response of a call that is not streamed."""
    (event,) = await _events(models, call)
    assert isinstance(event, Finished)
    assert event.response is not None
    return dict(event.response)


async def _failure(models: LocalModels, call: ChatCall) -> ArmFailed:
    with pytest.raises(ArmFailed) as caught:
        await _events(models, call)
    return caught.value


def _status(models: LocalModels, arm: str) -> ModelStatus:
    (status,) = [status for status in models.status() if status.arm == arm]
    return status


async def _until(models: LocalModels, holds: Callable[[], bool]) -> None:
    """Let the worker's reports come in until something holds."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110  # the port tells states, not their changes
            await asyncio.sleep(0.005)


async def test_an_answer_is_a_chat_completion(models: LocalModels) -> None:
    """With the arm as its model, the request's id, and the usage as it was counted."""
    response = await _whole(models, _call(**_says("Hi there.")))
    assert "chatcmpl-req-1" == response["id"]
    assert "chat.completion" == response["object"]
    assert "tiny" == response["model"]
    assert abs(response["created"] - SystemClock().unix_ms() / 1000) < 60
    (choice,) = response["choices"]
    assert {"role": "assistant", "content": "Hi there."} == choice["message"]
    assert ("stop", 0) == (choice["finish_reason"], choice["index"])
    usage = response["usage"]
    assert len("Hi there.") == usage["completion_tokens"]
    assert usage["prompt_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_a_streamed_answer_comes_in_order(models: LocalModels) -> None:
    """Role first, then text, then the reason, then `Finished` with the usage, once."""
    *chunks, last = await _events(models, _call(stream=True, **_says("one two")))
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    parts = [chunk.data["choices"][0] for chunk in chunks if isinstance(chunk, Chunk)]
    assert "assistant" == parts[0]["delta"]["role"]
    assert "one two" == "".join(part["delta"].get("content", "") for part in parts)
    assert [None] * (len(parts) - 1) + ["stop"] == [part["finish_reason"] for part in parts]
    assert len(parts) > 2
    assert isinstance(last, Finished)
    assert last.response is None
    assert isinstance(last.usage, Usage)
    assert len("one two") == last.usage.completion_tokens


async def test_max_tokens_ends_an_answer(models: LocalModels) -> None:
    """The reason is `length`, and exactly so many tokens are counted."""
    response = await _whole(models, _call(max_tokens=7, **_says_for_ever()))
    assert ("x" * 7, "length") == (
        response["choices"][0]["message"]["content"],
        response["choices"][0]["finish_reason"],
    )
    assert 7 == response["usage"]["completion_tokens"]


async def test_characters_of_several_tokens_stay_whole(models: LocalModels) -> None:
    """The model says bytes; each chunk holds whole characters."""
    *chunks, _ = await _events(models, _call(stream=True, **_says("é漢🙂")))
    texts = [
        chunk.data["choices"][0]["delta"].get("content", "")
        for chunk in chunks
        if isinstance(chunk, Chunk)
    ]
    assert ["é", "漢", "🙂"] == [text for text in texts if text]


async def test_a_stop_string_is_not_shown(models: LocalModels) -> None:
    """Though it comes in several tokens, of which the first ones look harmless."""
    response = await _whole(models, _call(stop=["##END"], **_says("one # ## ##END two")))
    assert "one # ## " == response["choices"][0]["message"]["content"]
    assert "stop" == response["choices"][0]["finish_reason"]


async def test_several_choices_share_a_prompt(models: LocalModels) -> None:
    """The prompt is counted once, the answers all."""
    response = await _whole(models, _call(n=3, **_says("abc")))
    alone = await _whole(models, _call(**_says("abc")))
    assert ["abc"] * 3 == [choice["message"]["content"] for choice in response["choices"]]
    assert [0, 1, 2] == [choice["index"] for choice in response["choices"]]
    assert 9 == response["usage"]["completion_tokens"]
    assert alone["usage"]["prompt_tokens"] == response["usage"]["prompt_tokens"]


async def test_an_answer_can_be_forced_into_a_schema(models: LocalModels) -> None:
    """Whatever the model would rather say."""
    schema = {
        "type": "object",
        "properties": {"size": {"enum": ["small", "large"]}},
        "required": ["size"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "size", "schema": schema}}
    response = await _whole(models, _call(response_format=wanted, max_tokens=200))
    content = json.loads(response["choices"][0]["message"]["content"])
    assert content["size"] in ("small", "large")


async def test_the_same_seed_gives_the_same_answer(models: LocalModels) -> None:
    """And the temperature may be anything."""
    answers = [
        (await _whole(models, _call(seed=11, temperature=1.5, max_tokens=12)))["choices"]
        for _ in range(2)
    ]
    assert answers[0] == answers[1]


async def test_requests_are_answered_together(models: LocalModels) -> None:
    """Each of four has its first text before any of them ends."""
    calls = [_call("paced", stream=True, **_says_for_ever()) for _ in range(4)]
    streams = [models.chat(call) for call in calls]
    async with asyncio.timeout(WAIT_S):
        firsts = await asyncio.gather(*(anext(stream) for stream in streams))
        seconds = await asyncio.gather(*(anext(stream) for stream in streams))
    assert all(isinstance(event, Chunk) for event in [*firsts, *seconds])
    await asyncio.gather(*(stream.aclose() for stream in streams))  # type: ignore[attr-defined]  # the port promises an iterator with aclose


async def test_closing_an_answer_early_frees_its_place(models: LocalModels) -> None:
    """Three answers of several seconds each are given up; the next one does not wait for them."""
    for _ in range(3):
        stream = models.chat(_call("slow", stream=True, max_tokens=200, **_says_for_ever()))
        assert isinstance(await anext(stream), Chunk)
        await stream.aclose()  # type: ignore[attr-defined]  # the port promises an iterator with aclose
    async with asyncio.timeout(5.0):
        response = await _whole(models, _call("slow", max_tokens=1, **_says_for_ever()))
    assert "x" == response["choices"][0]["message"]["content"]


async def test_the_queue_is_told(models: LocalModels) -> None:
    """A request that came behind a running one would wait."""
    await _whole(models, _call("slow", max_tokens=2, **_says_for_ever()))
    assert 0.0 == _status(models, "slow").queue_ms
    stream = models.chat(_call("slow", stream=True, **_says_for_ever()))
    await anext(stream)
    assert _status(models, "slow").queue_ms > 0.0
    await stream.aclose()  # type: ignore[attr-defined]  # the port promises an iterator with aclose
    assert 0.0 == _status(models, "slow").queue_ms


async def test_a_prompt_over_the_context_fails_with_the_numbers(models: LocalModels) -> None:
    """Another arm may have a longer context, so it is not the client's error."""
    long = [{"role": "user", "content": "x" * 2 * CONTEXT_TOKENS}]
    failure = await _failure(models, _call(messages=long))
    assert "context_length_exceeded" == failure.reason
    assert not failure.client_error
    assert str(CONTEXT_TOKENS) in str(failure)
    longer = [{"role": "user", "content": "x" * 1_000 * CONTEXT_TOKENS}]
    assert "context_length_exceeded" == (await _failure(models, _call(messages=longer))).reason


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": -1}, "temperature"),
        ({"messages": []}, "messages"),
        ({"grammar": "no grammar at all"}, "grammar"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
    ],
)
async def test_a_wrong_field_is_refused_by_name(
    models: LocalModels, fields: dict[str, Any], named: str
) -> None:
    """No other arm would take it."""
    failure = await _failure(models, _call(**fields))
    assert ("invalid_request", True) == (failure.reason, failure.client_error)
    assert f"`{named}`" in str(failure)
    assert named == failure.param


async def test_every_token_tells_how_likely_it_was(models: LocalModels) -> None:
    """With the likeliest ones in its place; the probabilities are the model's own."""
    response = await _whole(models, _call(logprobs=True, top_logprobs=3, **_says("Hi")))
    entries = response["choices"][0]["logprobs"]["content"]
    assert ["H", "i"] == [entry["token"] for entry in entries]
    for entry in entries:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert 3 == len(tops)
        assert sorted(tops, reverse=True) == tops
        assert entry["logprob"] <= tops[0] <= 0.0
        assert list(entry["token"].encode()) == entry["bytes"]


async def test_a_stream_tells_likelihoods_with_the_text(models: LocalModels) -> None:
    """In the chunk of the token."""
    *chunks, _ = await _events(models, _call(stream=True, logprobs=True, **_says("Hi")))
    parts = [chunk.data["choices"][0] for chunk in chunks if isinstance(chunk, Chunk)]
    told = [
        (part["delta"]["content"], part["logprobs"]["content"][0]["token"])
        for part in parts
        if part["delta"].get("content")
    ]
    assert [("H", "H"), ("i", "i")] == told


async def test_text_is_continued_without_a_template(models: LocalModels) -> None:
    """With `prompt` in place of messages: no more tokens than it has, and one to begin with."""
    call = _call(**_says("x"))
    body = {name: value for name, value in call.body.items() if name != "messages"}
    response = await _whole(models, replace(call, body={**body, "prompt": "abc"}))
    assert "x" == response["choices"][0]["message"]["content"]
    assert 4 == response["usage"]["prompt_tokens"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_required_tool_is_called_with_arguments_of_its_schema(
    models: LocalModels, stream: bool
) -> None:
    """Though the model has learned nothing at all."""
    call = _call("tools", stream=stream, tools=[WEATHER], tool_choice="required", max_tokens=200)
    call = replace(call, body={**call.body, "parallel_tool_calls": False})
    if stream:
        *chunks, _ = await _events(models, call)
        parts = [chunk.data["choices"][0] for chunk in chunks if isinstance(chunk, Chunk)]
        pieces = [piece for part in parts for piece in part["delta"].get("tool_calls", ())]
        name = pieces[0]["function"]["name"]
        arguments = "".join(piece["function"]["arguments"] for piece in pieces)
        assert pieces[0]["id"]
        assert {0} == {piece["index"] for piece in pieces}
        reason = parts[-1]["finish_reason"]
    else:
        (choice,) = (await _whole(models, call))["choices"]
        (made,) = choice["message"]["tool_calls"]
        assert ("function", None) == (made["type"], choice["message"]["content"])
        name, arguments = made["function"]["name"], made["function"]["arguments"]
        reason = choice["finish_reason"]
    assert ("weather", "tool_calls") == (name, reason)
    given = json.loads(arguments)
    assert given["city"] in ("Rome", "Oslo")
    assert given["days"] in (1, 2)


async def test_a_tools_result_goes_back_to_the_model(models: LocalModels) -> None:
    """The conversation so far is rendered with its calls."""
    called = {
        "id": "call12345",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 1}'},
    }
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call12345", "content": "rain"},
    ]
    response = await _whole(models, _call("tools", messages=messages, max_tokens=1))
    assert 1 == len(response["choices"])


async def test_a_model_without_tools_leaves_them_to_another_arm(models: LocalModels) -> None:
    """It is no error of the client."""
    failure = await _failure(models, _call(tools=[WEATHER]))
    assert ("unsupported", False) == (failure.reason, failure.client_error)


async def test_texts_become_vectors_of_length_one(models: LocalModels) -> None:
    """The same text gives the same vector, in its place, also in other company."""
    arm = Arm("vectors", ArmKind.LOCAL, "vectors", CONTEXT_TOKENS, 64)
    async with asyncio.timeout(WAIT_S):
        several = await models.embed(EmbedCall("req-1", arm, ("abc", "something else", "abc")))
        alone = await models.embed(EmbedCall("req-2", arm, ("abc",)))
    first, other, again = several.vectors
    assert len(first) == len(other) == 64
    assert first == pytest.approx(again, abs=1e-4)
    assert first == pytest.approx(alone.vectors[0], abs=1e-4)
    assert first != pytest.approx(other, abs=1e-2)
    assert sum(value * value for value in first) == pytest.approx(1.0, abs=1e-3)
    assert several.usage is not None
    assert several.usage.prompt_tokens > 3


async def test_what_a_model_can_do_is_told(models: LocalModels) -> None:
    """From its file, before it is loaded."""
    told = {status.arm: status.capabilities for status in models.status()}
    assert frozenset({"json_schema", "logprobs"}) == told["tiny"]
    assert frozenset({"json_schema", "logprobs", "tools"}) == told["tools"]
    assert frozenset({"embeddings"}) == told["vectors"]


async def test_answers_tell_how_long_they_took(models: LocalModels) -> None:
    """Where they were made: the first token came before the end."""
    (event,) = await _events(models, _call(**_says("Hi there.")))
    assert isinstance(event, Finished)
    assert event.timing is not None
    assert event.timing.ttft_ms > 0.0
    assert event.timing.run_ms > 0.0


async def test_an_unknown_arm_fails(models: LocalModels) -> None:
    """The fleet may have local arms that this device has no file for."""
    assert "not_configured" == (await _failure(models, _call("elsewhere"))).reason


async def test_a_missing_file_is_told(models: LocalModels) -> None:
    """Before anyone asks for the model."""
    status = _status(models, "gone")
    assert ModelState.BROKEN is status.state
    assert "gone.gguf" in status.problem
    assert "model_broken" == (await _failure(models, _call("gone"))).reason


async def test_a_truncated_file_breaks_its_own_arm_alone(models: LocalModels) -> None:
    """Its header is fine; the load finds out. The others go on."""
    failure = await _failure(models, _call("cut"))
    assert "model_broken" == failure.reason
    status = _status(models, "cut")
    assert ModelState.BROKEN is status.state
    assert "cut.gguf" in status.problem
    assert "download" in status.problem
    assert "Hi" == (await _whole(models, _call(**_says("Hi"))))["choices"][0]["message"]["content"]


async def test_resident_arms_are_loaded_without_a_request(models: LocalModels) -> None:
    """And names that this device does not have are passed over."""
    assert ModelState.LOADABLE is _status(models, "spare").state
    await models.keep_resident(["spare", "elsewhere", "gone"])
    await _until(models, lambda: _status(models, "spare").state is ModelState.LOADED)


async def test_stopping_fails_what_is_running(tmp_path: Path) -> None:
    """And waits for the end of the worker."""
    worker: LocalModels = LlamaWorker(models=_configured(tmp_path), clock=SystemClock())
    await worker.start()
    stream = worker.chat(_call("slow", stream=True, **_says_for_ever()))
    await anext(stream)
    await worker.stop()
    with pytest.raises(ArmFailed) as caught:
        await _drain(stream)
    assert "worker_stopped" == caught.value.reason
    loaded: Sequence[ModelStatus] = worker.status()
    assert all(status.state is not ModelState.LOADED for status in loaded)


async def _drain(stream: AsyncIterator[ChatEvent]) -> None:
    async with asyncio.timeout(WAIT_S):
        async for _ in stream:
            pass
