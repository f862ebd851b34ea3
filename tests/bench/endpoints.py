"""Real servers on loopback, side by side: an agent with a local model, and `llama_cpp.server`."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx2 as httpx

from deploy.demo.processes import Child, Children, Command, free_ports
from shared.errors import ConfigError
from tests.e2e.fleet import wait_for

ROOT: Final = Path(__file__).resolve().parents[2]
ARM: Final = "random"
CONTEXT_TOKENS: Final = 2_048
READY_S: Final = 60.0
TEMPLATE_TOKENS: Final = 3
THREADS: Final = max(1, (os.cpu_count() or 2) // 2)
"""The other half of the cores is left to the clients, so that they do not get in the way."""


@dataclass(frozen=True)
class Endpoint:
    """A running OpenAI-compatible server."""

    name: str
    url: str
    child: Child


@dataclass(frozen=True)
class Streamed:
    """An answer that was streamed.

    Attributes
    ----------
    ttft_s : float
        From the request to its first text.
    tokens : int
        As many as were asked for: an answer that ends earlier is an error.
    """

    ttft_s: float
    took_s: float
    tokens: int
    text: str


@contextmanager
def agent(folder: Path, model: Path, *, sequences: int) -> Iterator[Endpoint]:
    """An agent of its own, without a coordinator, whose only arm is the model."""
    (port,) = free_ports(1)
    config = folder / "agent.toml"
    config.write_text(
        f'listen = "127.0.0.1:{port}"\nstate_dir = "{folder / "state"}"\n'
        f'[[models]]\narm = "{ARM}"\npath = "{model}"\ncontext_tokens = {CONTEXT_TOKENS}\n'
        f"threads = {THREADS}\nbatch_sequences = {sequences}\n"
    )
    argv = [sys.executable, "-m", "edge_agent.app", "run", "--config", str(config)]
    with _serving(folder, Command(name="agent", argv=argv, cwd=ROOT), port=port) as endpoint:
        yield endpoint


@contextmanager
def llama_server(folder: Path, model: Path) -> Iterator[Endpoint]:
    """`llama_cpp.server` with the same model, context and threads.

    Raises
    ------
    ConfigError
        When its environment is not there.
    """
    python = Path(os.environ.get("CLOUD_VENV", ROOT / ".venv-cloud")).absolute() / "bin" / "python"
    if not python.exists():
        raise ConfigError("CLOUD_VENV", f"{python} does not exist: run `make install`")
    (port,) = free_ports(1)
    options = {
        "--model": model,
        "--model_alias": ARM,
        "--port": port,
        "--n_ctx": CONTEXT_TOKENS,
        "--n_threads": THREADS,
        "--n_threads_batch": THREADS,
        # By default a new request cuts off a stream that runs.
        "--interrupt_requests": "False",
        "--verbose": "False",
    }
    flags = [str(part) for pair in options.items() for part in pair]
    command = Command(
        name="llama-server", argv=[str(python), "-m", "llama_cpp.server", *flags], cwd=folder
    )
    with _serving(folder, command, port=port) as endpoint:
        yield endpoint


@contextmanager
def _serving(folder: Path, command: Command, *, port: int) -> Iterator[Endpoint]:
    children = Children(logs=folder / "logs")
    try:
        url = f"http://127.0.0.1:{port}/v1"
        endpoint = Endpoint(command.name, url, children.start(command))
        wait_for(lambda: _warm(endpoint), within_s=READY_S, what=f"the start of {command.name}")
        yield endpoint
    finally:
        children.stop_all()


def _warm(endpoint: Endpoint) -> bool:
    """Whether it has answered once, with its model loaded."""
    endpoint.child.check()
    body = {**chat_body([user("warm up")], max_tokens=2), "stream": False}
    try:
        with httpx.Client(timeout=READY_S, trust_env=False) as client:
            reply = client.post(f"{endpoint.url}/chat/completions", json=body)
    except httpx.TransportError:
        return False
    return bool(reply.status_code == 200)


def user(text: str) -> dict[str, str]:
    """A message of the user."""
    return {"role": "user", "content": text}


def chat_body(messages: Sequence[Mapping[str, Any]], *, max_tokens: int) -> dict[str, Any]:
    """A streamed chat request; the sampling parameters are written out, for defaults differ."""
    return {
        "model": ARM,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": 0.8,
        "top_p": 0.95,
        "stream": True,
    }


def text_of(tokens: int, rng: random.Random) -> str:
    """Random words that make a message of about so many tokens, with the template's."""
    words = ("".join(rng.choices("abcdefghijklm", k=3)) for _ in range(tokens - TEMPLATE_TOKENS))
    return " ".join(words)


async def stream(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
) -> Streamed:
    """One streamed answer.

    Raises
    ------
    RuntimeError
        When the server fails or the answer ends before `max_tokens`.
    """
    begun = time.perf_counter()
    first: float | None = None
    pieces: list[str] = []
    reason = None
    body = chat_body(messages, max_tokens=max_tokens)
    async with session.post(f"{endpoint.url}/chat/completions", json=body) as reply:
        if reply.status != 200:
            raise RuntimeError(f"{endpoint.name}: {reply.status} {await reply.text()}")
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                reason = choice.get("finish_reason") or reason
                piece = choice["delta"].get("content")
                if piece:
                    first = first or time.perf_counter()
                    pieces.append(piece)
    if reason != "length" or first is None:
        raise RuntimeError(f"{endpoint.name}: an answer ended with {reason!r} before its length")
    return Streamed(first - begun, time.perf_counter() - begun, max_tokens, "".join(pieces))
