"""Keys that the coordinator delivers: what they open, and where they never show."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from edge_agent.adapters.cloud_client import OpenAiCloud
from edge_agent.ports import ArmFailed, ChatCall, Finished
from edge_agent.provider_keys import ProviderKeys
from edge_agent.session import FleetSession
from shared.clock import SystemClock
from shared.decision.types import Arm
from tests.fakes.samples import cloud_arm, device_config, local_arm
from tests.unit.edge_agent.test_running_requests import Agent, ask, read

SECRET = "sk-very-secret"
KEYED = cloud_arm(api_key_ref="coordinator:big")


def session_of(agent: Agent) -> FleetSession:
    """The session of an agent."""
    return FleetSession(
        agent.engine,
        bookkeeper=agent.keeper,
        service=agent.service,
        clock=SystemClock(),
        credential=None,
        on_connected=lambda _: None,
        provider_keys=agent.service.provider_keys,
    )


async def test_an_arm_without_its_key_is_no_candidate() -> None:
    """Nothing is reserved for it; with the key it answers."""
    agent = Agent(KEYED)
    await agent.lend()
    answer = await agent.chat(ask())
    await read(answer)
    assert ("tiny", "table;without:cloud=no_provider_key") == (
        answer.head.arm,
        answer.head.reason,
    )
    client = OpenAiCloud(environ={}, keys=agent.service.provider_keys)
    said = "the key of arm cloud, 'big', has not come from the coordinator yet"
    assert (said, ["tiny"]) == (
        client.key_problem(KEYED),
        agent.service.readiness().details["arms"],
    )
    session_of(agent).keys_received({"big": SECRET})
    assert "" == client.key_problem(KEYED)
    assert ["tiny", "cloud"] == agent.service.readiness().details["arms"]
    answer = await agent.chat(ask("r2"))
    await read(answer)
    assert ("cloud", "table") == (answer.head.arm, answer.head.reason)


async def test_keys_end_with_their_arms_and_with_the_device_s_standing() -> None:
    """A new configuration without the arm, or a quarantine, takes them away."""
    agent = Agent(KEYED)
    session, keys = session_of(agent), agent.service.provider_keys
    session.keys_received({"big": SECRET, "other": "x"})
    await session.configured(device_config(local_arm(), KEYED))
    assert (SECRET, None) == (keys.get("big"), keys.get("other"))
    await session.configured(device_config(local_arm(), cloud_arm()))
    assert keys.get("big") is None
    session.keys_received({"big": SECRET})
    await session.quarantined("a clone")
    assert keys.get("big") is None


async def test_keys_are_held_in_memory_only() -> None:
    """Nothing of them is in the books, in a representation, or in what is served."""
    agent = Agent(KEYED)
    session = session_of(agent)
    session.keys_received({"big": SECRET})
    await session.configured(device_config(local_arm(), KEYED))
    shown = f"{vars(agent.books.disk.state)} {agent.service.provider_keys!r} {vars(session)}"
    assert SECRET not in f"{shown} {agent.service.readiness()} {agent.service.device_state()}"
    assert "ProviderKeys(['big'])" == repr(agent.service.provider_keys)


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[str, list[str]]]:
    """A paid endpoint that notes the keys it is shown."""
    shown: list[str] = []

    async def chat(request: web.Request) -> web.Response:
        shown.append(request.headers.get("authorization", ""))
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", shown
    await runner.cleanup()


def call_of(arm: Arm) -> ChatCall:
    """A call of an arm."""
    body = {"model": "big", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return ChatCall("r1", arm, body, stream=False)


async def test_the_endpoint_is_shown_the_key_of_the_moment(
    endpoint: tuple[str, list[str]],
) -> None:
    """A rotated key counts from the next call on; without one nothing is sent."""
    url, shown = endpoint
    keys = ProviderKeys()
    client = OpenAiCloud(environ={}, keys=keys)
    arm = cloud_arm(base_url=url, api_key_ref="coordinator:big")
    with pytest.raises(ArmFailed) as caught:
        await anext(aiter(client.chat(call_of(arm))))
    assert ("no_provider_key", []) == (caught.value.reason, shown)
    for key in (SECRET, "sk-rotated"):
        keys.replace({"big": key})
        assert [Finished] == [type(event) async for event in client.chat(call_of(arm))]
    assert [f"Bearer {SECRET}", "Bearer sk-rotated"] == shown
    await client.close()
