"""The worker's process under violence: kills, hangs, and the death of the agent."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from edge_agent.adapters.llama_cpp.gguf_header import memory_bytes
from edge_agent.adapters.llama_cpp.process import WORKER_COMMAND
from edge_agent.adapters.llama_cpp.supervisor import LlamaWorker, backoff_s
from edge_agent.ports import ArmFailed, ChatCall, ChatEvent, Chunk, Finished, LocalModel, ModelState
from shared.clock import SystemClock
from shared.decision.types import Arm, ArmKind
from tests.bench.random_model import Shape, random_model

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "deploy" / "demo" / "models" / "tiny.gguf"
HANG_TIMEOUT_S = 1.0
MEMORY_BYTES = 3 * 1024**3
MEMORY_TOKENS = 1_000_000
"""In 64 sequences: far more than `MEMORY_BYTES` of keys and values."""
WAIT_S = 30.0

pytestmark = pytest.mark.e2e


def _models(folder: Path) -> list[LocalModel]:
    path = str(shutil.copy(TINY, folder / "tiny.gguf"))
    return [
        LocalModel(arm="fast", path=path, threads=1, context_tokens=256),
        LocalModel(
            arm="slow", path=path, threads=1, context_tokens=256, tokens_per_second_max=20.0
        ),
    ]


@pytest_asyncio.fixture
async def worker(tmp_path: Path) -> AsyncIterator[LlamaWorker]:
    """A worker that is declared hanging after a second."""
    running = LlamaWorker(
        models=_models(tmp_path), clock=SystemClock(), hang_timeout_s=HANG_TIMEOUT_S
    )
    await running.start()
    yield running
    await running.stop()


def _call(arm: str = "fast", *, stream: bool = False, max_tokens: int = 3) -> ChatCall:
    bound = Arm(arm, ArmKind.LOCAL, arm, 256, 64)
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": max_tokens,
        "logit_bias": {"2": -100},
    }
    return ChatCall(request_id="req-1", arm=bound, body=body, stream=stream)


def _long_context(path: Path) -> Path:
    """A model of one small layer that was made for very long texts."""
    shape = Shape(
        name=path.stem, width=64, layers=1, heads=2, kv_heads=2, hidden=64, vocabulary=400,
        context=MEMORY_TOKENS,
    )  # fmt: skip
    return random_model(shape, folder=path.parent)


def _oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def _begun(worker: LlamaWorker) -> AsyncIterator[ChatEvent]:
    """An answer that is under way and has seconds to go."""
    stream = worker.chat(_call("slow", stream=True, max_tokens=200))
    await asyncio.wait_for(anext(stream), WAIT_S)
    return stream


async def _failure_of(stream: AsyncIterator[ChatEvent]) -> ArmFailed:
    with pytest.raises(ArmFailed) as caught:
        async with asyncio.timeout(WAIT_S):
            async for _ in stream:
                pass
    return caught.value


async def _answers(worker: LlamaWorker) -> bool:
    (event,) = [event async for event in worker.chat(_call())]
    return isinstance(event, Finished)


def _process(worker: LlamaWorker) -> int:
    assert worker.pid is not None
    return worker.pid


async def test_a_killed_worker_fails_its_answers_and_the_next_one_works(
    worker: LlamaWorker,
) -> None:
    """`kill -9` in mid-answer: the answer fails at once, the next request works within 5 s."""
    stream = await _begun(worker)
    killed = _process(worker)
    os.kill(killed, signal.SIGKILL)
    assert "worker_crashed" == (await _failure_of(stream)).reason
    async with asyncio.timeout(5.0):
        assert await _answers(worker)
    assert killed != worker.pid
    assert 1 == worker.restarts


async def test_a_request_in_the_moment_of_the_crash_is_not_lost(worker: LlamaWorker) -> None:
    """What the dead worker never saw goes to the next one."""
    assert await _answers(worker)
    os.kill(_process(worker), signal.SIGKILL)
    async with asyncio.timeout(5.0):
        assert await _answers(worker)


async def test_the_agent_knows_that_nothing_is_loaded_after_a_crash(worker: LlamaWorker) -> None:
    """Until it is used again."""
    assert await _answers(worker)
    assert {"fast": ModelState.LOADED, "slow": ModelState.LOADABLE} == {
        status.arm: status.state for status in worker.status()
    }
    stream = await _begun(worker)
    os.kill(_process(worker), signal.SIGKILL)
    await _failure_of(stream)
    assert [ModelState.LOADABLE] * 2 == [status.state for status in worker.status()]


async def test_resident_models_are_loaded_again_after_a_crash(worker: LlamaWorker) -> None:
    """Without a request: the first one after the crash must not wait for the load."""
    await worker.keep_resident(["fast"])
    stream = await _begun(worker)
    os.kill(_process(worker), signal.SIGKILL)
    await _failure_of(stream)
    async with asyncio.timeout(WAIT_S):
        while worker.status()[0].state is not ModelState.LOADED:  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(0.005)


async def test_a_hanging_worker_is_replaced(worker: LlamaWorker) -> None:
    """SIGSTOP: no word for the hang timeout, then a new worker answers."""
    stream = await _begun(worker)
    os.kill(_process(worker), signal.SIGSTOP)
    assert "worker_crashed" == (await _failure_of(stream)).reason
    async with asyncio.timeout(5.0):
        assert await _answers(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice is set on Linux alone")
async def test_the_kernel_would_end_the_worker_before_the_agent(worker: LlamaWorker) -> None:
    """When memory runs out: the worker is started again, the agent holds the books."""
    assert await _answers(worker)
    assert _oom_score(_process(worker)) > _oom_score(os.getpid())


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="limits a process with prlimit")
async def test_a_model_for_which_there_is_no_memory_is_told_and_the_other_one_answers(
    tmp_path: Path,
) -> None:
    """The system gives no more: an error of that model, not the end of the worker."""
    small, *_ = _models(tmp_path)
    large = replace(small, arm="large", context_tokens=MEMORY_TOKENS, batch_sequences=64)
    path = _long_context(tmp_path / "long.gguf")
    command = ["prlimit", f"--as={MEMORY_BYTES}", *WORKER_COMMAND]
    limited = LlamaWorker(
        models=[small, replace(large, path=str(path))], clock=SystemClock(), command=command
    )
    await limited.start()
    try:
        failure = await _failure_of(limited.chat(_call("large")))
        assert "model_broken" == failure.reason
        assert "lower `context_tokens`" in str(failure)
        assert await _answers(limited)
        assert 0 == limited.restarts
    finally:
        await limited.stop()


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"<html>Not Found</html>", "is no GGUF file"), (TINY.read_bytes()[:30_000], "file bounds")],
)
async def test_a_file_that_is_no_model_breaks_its_own_arm_alone(
    tmp_path: Path, data: bytes, problem: str
) -> None:
    """What a failed download leaves behind; it works once the file was replaced."""
    good, _ = _models(tmp_path)
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    bad = replace(good, arm="bad", path=str(path))
    worker = LlamaWorker(models=[good, bad], clock=SystemClock())
    await worker.start()
    try:
        failure = await _failure_of(worker.chat(_call("bad")))
        assert ("model_broken", False) == (failure.reason, failure.client_error)
        assert problem in str(failure)
        assert await _answers(worker)
        assert 0 == worker.restarts
        shutil.copy(TINY, path)
        async with asyncio.timeout(WAIT_S):
            while worker.status()[1].state is ModelState.BROKEN:  # noqa: ASYNC110  # no event for it
                await asyncio.sleep(0.05)
            (event,) = [event async for event in worker.chat(_call("bad"))]
        assert isinstance(event, Finished)
    finally:
        await worker.stop()


async def test_a_model_over_the_memory_budget_breaks_its_own_arm_alone(tmp_path: Path) -> None:
    """The budget and what the model takes are named."""
    good, _ = _models(tmp_path)
    wide = replace(good, arm="wide", context_tokens=4_096, batch_sequences=64)
    worker = LlamaWorker(
        models=[good, wide], clock=SystemClock(), memory_bytes_max=memory_bytes(wide) - 1
    )
    await worker.start()
    try:
        failure = await _failure_of(worker.chat(_call("wide")))
        assert "model_broken" == failure.reason
        assert f"takes {memory_bytes(wide)} bytes" in str(failure)
        assert await _answers(worker)
    finally:
        await worker.stop()


async def test_ctrl_c_does_not_reach_the_worker(worker: LlamaWorker) -> None:
    """It is no member of the terminal's foreground group, and ignores SIGINT besides."""
    stream = await _begun(worker)
    assert os.getpgid(_process(worker)) != os.getpgid(0)
    os.kill(_process(worker), signal.SIGINT)
    assert await _answers(worker)
    assert isinstance(await anext(stream), Chunk)
    assert 0 == worker.restarts


async def test_a_worker_that_cannot_start_is_told() -> None:
    """The request fails after its patience, with where to look."""
    model = LocalModel(arm="fast", path=str(TINY))
    broken = LlamaWorker(
        models=[model],
        clock=SystemClock(),
        start_timeout_s=0.3,
        command=[sys.executable, "-c", "raise SystemExit('no llama here')"],
    )
    await broken.start()
    try:
        failure = await _failure_of(broken.chat(_call()))
    finally:
        await broken.stop()
    assert "worker_unavailable" == failure.reason


_AGENT = """
import asyncio, sys
from edge_agent.adapters.llama_cpp.supervisor import LlamaWorker
from edge_agent.ports import ChatCall, LocalModel
from shared.clock import SystemClock
from shared.decision.types import Arm, ArmKind

async def main():
    worker = LlamaWorker(models=[LocalModel(arm="a", path=sys.argv[1])], clock=SystemClock())
    await worker.start()
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    async for _ in worker.chat(ChatCall("r", Arm("a", ArmKind.LOCAL, "a", 256, 9), body, False)):
        pass
    print('worker', worker.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process by its descriptor")
def test_the_worker_does_not_outlive_a_killed_agent() -> None:
    """The pipe closes with the agent, whatever ended it."""
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT, str(TINY)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert agent.stdout is not None
    with agent:
        try:
            pid = next(line.split()[1] for line in agent.stdout if line.startswith("worker "))
            handle = os.pidfd_open(int(pid))
        finally:
            agent.kill()
    ended, _, _ = select.select([handle], [], [], WAIT_S)
    os.close(handle)
    assert ended


def test_restarts_come_at_once_and_then_ever_slower() -> None:
    """The first crash is an accident; a worker that always crashes must not burn the CPU."""
    assert [0.0, 0.25, 0.5, 1.0] == [backoff_s(failures) for failures in (1, 2, 3, 4)]
    assert 10.0 == backoff_s(50)
