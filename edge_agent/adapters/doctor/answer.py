"""Whether a model really answers: llama.cpp may load on a machine on which it cannot calculate."""

from __future__ import annotations

from edge_agent.adapters.doctor.finding import Finding, fail, ok
from edge_agent.adapters.llama_cpp.supervisor import LlamaWorker
from edge_agent.ports import ArmFailed, ChatCall, LocalModel
from shared.clock import Clock
from shared.decision.types import Arm, ArmKind

TOKENS = 4


async def answers(model: LocalModel, *, clock: Clock) -> Finding:
    """One short answer, through the worker that answers requests."""
    name = f"answer {model.arm}"
    arm = Arm(model.arm, ArmKind.LOCAL, model.arm, context_tokens_max=0, max_tokens_default=TOKENS)
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": TOKENS}
    worker = LlamaWorker(models=[model], clock=clock)
    begun_ms = clock.monotonic_ms()
    await worker.start()
    try:
        async for _ in worker.chat(ChatCall("doctor", arm, body, stream=False)):
            pass
    except ArmFailed as error:
        return fail(
            name,
            f"{model.path} does not answer: {error}",
            "free memory, or build llama.cpp for this machine: python3 deploy/dev/bootstrap.py "
            "edge VENV",
        )
    finally:
        await worker.stop()
    return ok(name, f"answered within {(clock.monotonic_ms() - begun_ms) / 1e3:.1f} s, loading it")
