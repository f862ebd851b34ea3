"""Measuring models: exactly on a simulated clock, and for real through the worker."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edge_agent.adapters.model_bench import (
    Measured,
    known_speeds,
    load_results,
    measure,
    save_results,
)
from edge_agent.adapters.model_bench.measure import BatchSpeed
from edge_agent.adapters.sqlite_books_file import lock
from edge_agent.app import cli
from edge_agent.ports import (
    ArmFailed,
    ChatCall,
    ChatEvent,
    DeviceSensors,
    EmbedCall,
    Embedded,
    Finished,
    LocalModel,
    LocalModels,
    ModelState,
    ModelStatus,
    Timing,
    Usage,
)
from shared.decision.types import ArmSpeed, DeviceState
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

LOAD_MS = 700.0
PROMPT_MS = 2.0
TOKEN_MS = 10.0
TEMPLATE_TOKENS = 5


class Model(LocalModels):
    """A model that takes so long for each token of a prompt, and for each one that it writes.

    It writes one token after the other, however many answers there are.
    """

    def __init__(self, *, answer_tokens: int = 10**6, embeddings: bool = False) -> None:
        self._answer_tokens = answer_tokens
        self._embeddings = embeddings
        self._loaded = False
        self._writing = 0
        self.prompts: list[str] = []

    def _read(self, prompt: str) -> tuple[int, float]:
        """How many tokens a prompt has, and how long it takes, loading included."""
        self.prompts.append(prompt)
        tokens = TEMPLATE_TOKENS + 2 * len(prompt.split())
        loading, self._loaded = 0.0 if self._loaded else LOAD_MS, True
        return tokens, loading + PROMPT_MS * tokens

    async def chat(self, call: ChatCall) -> AsyncIterator[ChatEvent]:
        tokens, ttft_ms = self._read(call.body["messages"][0]["content"])
        count = min(call.body["max_tokens"], self._answer_tokens)
        self._writing += 1
        await asyncio.sleep(0)  # the others of a batch begin
        run_ms = ttft_ms + TOKEN_MS * self._writing * (count - 1)
        await asyncio.sleep(0)
        self._writing -= 1
        yield Finished(Usage(tokens, count), {}, Timing(ttft_ms, run_ms))

    async def embed(self, call: EmbedCall) -> Embedded:
        tokens, took_ms = self._read(call.inputs[0])
        return Embedded(((1.0,),), Usage(tokens, 0), Timing(took_ms, took_ms))

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    def status(self) -> Sequence[ModelStatus]:
        able = frozenset({"embeddings"}) if self._embeddings else frozenset()
        return [ModelStatus("a", ModelState.LOADABLE, capabilities=able)]

    async def keep_resident(self, arms: Sequence[str]) -> None:
        """Nothing to keep."""


class Meter(DeviceSensors):
    """A board that tells its power."""

    def read(self) -> DeviceState:
        return DeviceState(power_watts=5.0)


async def measured(model: Model, *, sequences: Sequence[int]) -> Measured:
    """Measure an arm `a`."""
    return await measure(
        model,
        arm="a",
        sequences=sequences,
        prompt_tokens=200,
        answer_tokens=20,
        sensors=Meter(),
        told=lambda _: None,
    )


async def test_what_is_measured_is_what_the_model_takes() -> None:
    """Loading, reading, and writing, each by itself."""
    found = await measured(Model(), sequences=[1, 4])
    assert pytest.approx(LOAD_MS) == found.load_ms
    assert pytest.approx(200, abs=3) == found.prompt_tokens
    assert pytest.approx(1_000 / PROMPT_MS) == found.prompt_tokens_per_s
    assert [1, 4] == [batch.sequences for batch in found.batches]
    assert [pytest.approx(1_000 / TOKEN_MS)] * 2 == [b.tokens_per_s for b in found.batches]


async def test_a_model_that_makes_embeddings_writes_nothing() -> None:
    """How fast it reads is all there is to know."""
    found = await measured(Model(embeddings=True), sequences=[1, 4])
    assert pytest.approx(1_000 / PROMPT_MS) == found.prompt_tokens_per_s
    assert () == found.batches


async def test_no_prompt_begins_like_another() -> None:
    """Else the worker would take its beginning from its prefix cache."""
    model = Model()
    await measured(model, sequences=[1, 2])
    firsts = [prompt.split()[0] for prompt in model.prompts]
    assert len(firsts) == len(set(firsts))


async def test_a_model_that_says_next_to_nothing_is_not_measured() -> None:
    """The figure would mean nothing."""
    with pytest.raises(ArmFailed, match="too few to measure"):
        await measured(Model(answer_tokens=1), sequences=[1])


def result(arm: str = "tiny") -> Measured:
    """A result."""
    return Measured(arm, 900.0, 128, 250.0, (BatchSpeed(1, 12.5, 6.0), BatchSpeed(4, 30.0)))


def test_a_result_holds_as_long_as_its_model_does(tmp_path: Path) -> None:
    """Another file or other settings are another model."""
    path = tmp_path / "tiny.gguf"
    shutil.copy(TINY, path)
    model = LocalModel(arm="tiny", path=str(path))
    save_results(tmp_path, [(model, result())], unix_ms=5)
    assert (ArmSpeed("tiny", 250.0, 12.5),) == known_speeds(tmp_path, [model])
    threaded = LocalModel(arm="tiny", path=str(path), threads=1)
    assert () == known_speeds(tmp_path, [threaded])
    os.utime(path, ns=(1, 1))
    assert () == known_speeds(tmp_path, [model])


def test_results_of_other_arms_are_kept(tmp_path: Path) -> None:
    """A bench of one arm says nothing of the others."""
    one = LocalModel(arm="tiny", path=str(TINY))
    other = LocalModel(arm="other", path=str(TINY))
    save_results(tmp_path, [(one, result())], unix_ms=5)
    save_results(tmp_path, [(other, result("other"))], unix_ms=6)
    assert [5, 6] == [load_results(tmp_path)[arm]["unix_ms"] for arm in ("tiny", "other")]
    assert 2 == len(known_speeds(tmp_path, [one, other]))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tiny": 3}', '{"tiny": {"model": {}}}'])
def test_a_damaged_file_of_results_is_no_obstacle(tmp_path: Path, text: str) -> None:
    """The agent starts, and tells the coordinator nothing."""
    (tmp_path / "bench.json").write_text(text)
    assert () == known_speeds(tmp_path, [LocalModel(arm="tiny", path=str(TINY))])


def run(folder: Path, *arguments: str) -> Result:
    """Run `tidegate-agent bench` on the demo's smallest model."""
    config = folder / "agent.toml"
    config.write_text(
        f'state_dir = "{folder / "state"}"\n[[models]]\narm = "tiny"\npath = "{TINY}"\n'
        "context_tokens = 256\nthreads = 1\nbatch_sequences = 2\n"
        '[[models]]\narm = "gone"\npath = "/no/such.gguf"\n'
    )
    return CliRunner().invoke(cli, ["bench", "--config", str(config), *arguments])


def test_the_command_measures_through_the_production_worker(tmp_path: Path) -> None:
    """And keeps what it found."""
    done = run(tmp_path, "tiny", "--format", "json")
    assert 0 == done.exit_code, done.output
    (found,) = json.loads(done.stdout)["models"]
    assert ["tiny", [1, 2]] == [found["arm"], [each["sequences"] for each in found["generation"]]]
    assert all(each["tokens_per_s"] > 0 for each in found["generation"])
    assert 60 <= found["prompt"]["tokens"] <= 160
    assert found["prompt"]["tokens_per_s"] > 0
    kept: Any = load_results(tmp_path / "state")["tiny"]
    assert found["prompt"] == kept["prompt"]
    text = run(tmp_path, "tiny", "--no-save", "--sequences", "1").stdout
    assert ["tiny", "1"] == [text.splitlines()[1].split()[at] for at in (0, 2)]


def test_a_model_that_cannot_be_measured_is_named(tmp_path: Path) -> None:
    """The others are measured all the same; the exit code says that one is missing."""
    done = run(tmp_path, "--sequences", "1")
    assert 1 == done.exit_code
    assert "gone: the model file /no/such.gguf cannot be read" in done.stderr
    assert "tiny" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "no model for the arm 'nosuch' is configured; known: tiny, gone"),
        (["tiny", "--sequences", "3"], "from 1 to the model's 2"),
        (["tiny", "--sequences", "many"], "from 1 to the model's 2"),
    ],
)
def test_a_mistake_is_explained(tmp_path: Path, arguments: list[str], says: str) -> None:
    """With what would be right."""
    assert says in str(run(tmp_path, *arguments).exception)


def test_a_running_agent_is_not_measured_beside_by_mistake(tmp_path: Path) -> None:
    """Both would be slower than they are."""
    (tmp_path / "state").mkdir()
    held = lock(tmp_path / "state" / "books.db")
    assert "stop it, or say --beside" in str(run(tmp_path, "tiny").exception)
    assert 0 == run(tmp_path, "tiny", "--beside", "--sequences", "1").exit_code
    held.release()


def test_books_that_cannot_be_locked_are_no_running_agent(tmp_path: Path) -> None:
    """The reason is told, not guessed."""
    (tmp_path / "state" / "books.db.lock").mkdir(parents=True)
    assert "cannot create the lock file" in str(run(tmp_path, "tiny").exception)
