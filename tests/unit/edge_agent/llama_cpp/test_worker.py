"""The worker's routing: loads, swaps and answers, with fake models in a thread."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.adapters.llama_cpp import worker as worker_module
from edge_agent.adapters.llama_cpp.frames import Frame
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, memory_bytes
from edge_agent.adapters.llama_cpp.model import LlamaModel
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.worker import Worker
from edge_agent.ports import LocalModel
from tests.unit.edge_agent.llama_cpp.fake_model import FakeModel
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

WAIT_S = 10.0


@dataclass
class Bench:
    """A running worker; what it sends is read in order."""

    worker: Worker
    sent: queue.Queue[Frame]
    thread: threading.Thread
    loads: list[str] = field(default_factory=list)

    def chat(self, key: int, arm: str, *, tokens: int = 3) -> None:
        spec = ChatSpec(messages=({"role": "user", "content": "hello"},), max_tokens=tokens)
        frame = {"op": "chat", "id": key, "arm": arm, "stream": True, "spec": spec.to_json()}
        self.worker.events.put(frame)

    def say(self, **frame: Any) -> None:
        self.worker.events.put(frame)

    def until(self, wanted: Callable[[list[Any]], bool]) -> list[list[Any]]:
        """Everything that was said up to a fact; model states are facts as well."""
        facts: list[list[Any]] = []
        while not facts or not wanted(facts[-1]):
            frame = self.sent.get(timeout=WAIT_S)
            if frame["op"] == "model":
                facts.append(["m", frame["arm"], str(frame["state"])])
                if facts[-1] and wanted(facts[-1]):
                    return facts
            for fact in frame.get("out", ()):
                facts.append(fact)
                if wanted(fact):
                    return facts
        return facts

    def until_done(self, *keys: int) -> list[list[Any]]:
        left, facts = set(keys), list[list[Any]]()
        while left:
            facts += self.until(lambda fact: fact[0] in "df" and fact[1] in left)
            left.discard(facts[-1][1])
        return facts


def _states(facts: list[list[Any]]) -> list[tuple[str, str]]:
    return [(fact[1], fact[2]) for fact in facts if fact[0] == "m"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Starts a worker with models `a` and `b`, each of the size of the smallest demo model."""
    benches: list[Bench] = []

    def _start(*, room_for: int | None = None, broken: str = "", rate: float = 0.0) -> Bench:
        paths = [shutil.copy(TINY, tmp_path / f"{arm}.gguf") for arm in "ab"]
        models = [
            LocalModel(arm=arm, path=str(path), tokens_per_second_max=rate if arm == "a" else 0.0)
            for arm, path in zip("ab", paths, strict=True)
        ]
        loads: list[str] = []

        def _load(settings: LocalModel) -> LlamaModel:
            loads.append(settings.arm)
            if settings.arm == broken:
                raise ModelFileError("it is broken: replace it")
            return cast("LlamaModel", FakeModel(arm=settings.arm, script=b"x" * 150))

        sent: queue.Queue[Frame] = queue.Queue()
        limit = None if room_for is None else room_for * memory_bytes(models[0])
        worker = Worker(send=sent.put, models=models, memory_bytes_max=limit, load=_load)
        thread = threading.Thread(target=worker.run, daemon=True)
        benches.append(Bench(worker, sent, thread, loads))
        thread.start()
        return benches[-1]

    yield _start
    for bench in benches:
        bench.worker.events.put(worker_module._InputEnded())
        bench.thread.join(timeout=WAIT_S)
        assert not bench.thread.is_alive(), "the worker ends with its input"


def test_a_model_is_loaded_on_first_use_and_then_kept(start: Callable[..., Bench]) -> None:
    """The second request does not wait for a load."""
    bench = start()
    bench.chat(1, "a")
    facts = bench.until_done(1)
    assert [("a", "loading"), ("a", "loaded")] == _states(facts)
    assert ["xxx"] == ["".join(fact[3] for fact in facts if fact[0] == "t")]
    bench.chat(2, "a")
    assert [] == _states(bench.until_done(2))
    assert ["a"] == bench.loads


def test_every_request_is_acknowledged_first(start: Callable[..., Bench]) -> None:
    """So the agent knows which ones it may give to the next worker."""
    bench = start()
    bench.chat(1, "a")
    assert ["a", 1] == bench.until_done(1)[0]


def test_a_broken_model_fails_its_requests_alone(start: Callable[..., Bench]) -> None:
    """The reason says what to do; the other model answers."""
    bench = start(broken="a")
    bench.chat(1, "a")
    bench.chat(2, "b")
    facts = bench.until_done(1, 2)
    assert ["f", 1, "model_broken", "it is broken: replace it", False, None] in facts
    assert ("b", "loaded") in _states(facts)


def test_a_request_that_nobody_foresaw_fails_alone(start: Callable[..., Bench]) -> None:
    """The worker, and the answers in it, live on."""
    bench = start()
    bench.chat(1, "a", tokens=20)
    bench.say(op="chat", id=2, arm="a", stream=True, spec={"messages": 7})
    bench.chat(3, "a")
    facts = bench.until_done(1, 2, 3)
    assert [(2, "worker_defect")] == [(fact[1], fact[2]) for fact in facts if fact[0] == "f"]
    assert {1, 3} == {fact[1] for fact in facts if fact[0] == "d"}


def test_a_file_that_went_away_is_broken(start: Callable[..., Bench]) -> None:
    """It was there when the agent looked, and is looked at again before the load."""
    bench = start()
    Path(bench.worker._models["a"].path).unlink()
    bench.chat(1, "a")
    facts = bench.until_done(1)
    assert [("a", "broken")] == _states(facts)
    assert "model_broken" == facts[-1][2]


def test_an_idle_model_makes_room(start: Callable[..., Bench]) -> None:
    """With memory for one model, the other one is unloaded first."""
    bench = start(room_for=1)
    bench.chat(1, "a")
    bench.until_done(1)
    bench.chat(2, "b")
    assert [("a", "loadable"), ("b", "loading"), ("b", "loaded")] == _states(bench.until_done(2))


def test_a_busy_model_runs_dry_and_then_makes_room(start: Callable[..., Bench]) -> None:
    """Requests of both models are answered, in turns, however many come for the busy one."""
    bench = start(room_for=1, rate=200.0)
    bench.chat(1, "a", tokens=20)
    bench.until(lambda fact: fact[0] == "t")
    bench.chat(2, "b")
    bench.chat(3, "a", tokens=20)
    facts = bench.until_done(1, 2, 3)
    assert [1, 2, 3] == [fact[1] for fact in facts if fact[0] == "d"]
    assert ["a", "b", "a"] == bench.loads


def test_a_model_that_can_never_fit_is_broken(start: Callable[..., Bench]) -> None:
    """The limit is named."""
    bench = start(room_for=0)
    bench.chat(1, "a")
    (failure,) = [fact for fact in bench.until_done(1) if fact[0] == "f"]
    assert "`memory_bytes_max` is 0" in failure[3]


def test_a_preference_loads_but_does_not_push_out_another(start: Callable[..., Bench]) -> None:
    """With memory for one model, two preferred ones must not take turns."""
    bench = start(room_for=1)
    bench.say(op="resident", arms=["a", "b"])
    bench.until(lambda fact: fact == ["m", "a", "loaded"])
    bench.chat(1, "a")
    assert [] == _states(bench.until_done(1))
    assert ["a"] == bench.loads


def test_a_preferred_model_is_loaded_once_another_has_run_dry(start: Callable[..., Bench]) -> None:
    """The table wants it in memory, though nobody has asked for it yet."""
    bench = start(room_for=1, rate=200.0)
    bench.chat(1, "a", tokens=20)
    bench.until(lambda fact: fact[0] == "t")
    bench.say(op="resident", arms=["b"])
    facts = bench.until(lambda fact: fact == ["m", "b", "loaded"])
    assert ["d", 1] in [fact[:2] for fact in facts]
    assert ["a", "b"] == bench.loads


def test_a_preferred_model_that_is_broken_is_tried_once(start: Callable[..., Bench]) -> None:
    """The agent says when it is worth another try."""
    bench = start(broken="b")
    bench.say(op="resident", arms=["b"])
    bench.until(lambda fact: fact == ["m", "b", "broken"])
    bench.chat(1, "a")
    bench.until_done(1)
    assert ["b", "a"] == bench.loads


def test_a_chat_model_makes_no_embeddings(start: Callable[..., Bench]) -> None:
    """Another arm may, so it is no error of the client."""
    bench = start()
    bench.say(op="embed", id=1, arm="a", inputs=["text"])
    (failure,) = [fact for fact in bench.until_done(1) if fact[0] == "f"]
    assert ("unsupported", False) == (failure[2], failure[4])
    assert "no embeddings" in failure[3]


def test_a_cancelled_request_is_not_heard_of_again(start: Callable[..., Bench]) -> None:
    """Neither while it runs nor while it waits for its model."""
    bench = start(rate=50.0)
    bench.chat(1, "a", tokens=100)
    bench.until(lambda fact: fact[0] == "t")
    bench.say(op="cancel", id=1)
    bench.chat(2, "b")
    bench.say(op="cancel", id=2)
    bench.chat(3, "a", tokens=2)
    facts = bench.until_done(3)
    later = facts[facts.index(["a", 2]) :]
    assert [] == [fact for fact in later if fact[0] in "tdf" and fact[1] != 3]


def test_a_paced_model_does_not_hold_up_another(start: Callable[..., Bench]) -> None:
    """The fast one finishes between two tokens of the slow one."""
    bench = start(rate=2.0)
    bench.chat(1, "a", tokens=100)
    bench.chat(2, "b", tokens=100)
    facts = bench.until_done(2)
    assert len([fact for fact in facts if fact[:2] == ["t", 1]]) <= 3


def test_a_worker_that_waits_for_the_pace_is_heard(
    start: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its silence would look like a hang."""
    monkeypatch.setattr(worker_module, "BEAT_S", 0.01)
    bench = start(rate=0.5)
    bench.chat(1, "a", tokens=5)
    while bench.sent.get(timeout=WAIT_S)["op"] != "beat":
        pass
