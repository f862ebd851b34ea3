"""Continuous batching, on a model that checks every batch against its memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.adapters.llama_cpp import scheduler as scheduling
from edge_agent.adapters.llama_cpp.outputs import JobDone, JobFailed, Output, TextProduced
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.sampling import SamplingSettings
from edge_agent.adapters.llama_cpp.scheduler import Scheduler
from edge_agent.adapters.llama_cpp.tools import ToolFormat, ToolRequest
from edge_agent.ports import ArmFailed
from tests.unit.edge_agent.llama_cpp.fake_model import FakeModel, FakeSampler, answer_alone


@dataclass
class Bench:
    """A scheduler with a clock that moves only by hand, and everything it said."""

    model: FakeModel = field(default_factory=FakeModel)
    rate: float = 0.0
    now_s: float = 100.0
    outputs: list[Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler: Scheduler[FakeSampler] = Scheduler(
            self.model, monotonic_s=lambda: self.now_s, tokens_per_second_max=self.rate
        )

    def add(
        self, key: int, prompt: str, *, tokens: int | None = 10, n: int = 1, stop: str = ""
    ) -> None:
        messages = ({"role": "user", "content": prompt},)
        stops = (stop,) if stop else ()
        spec = ChatSpec(messages=messages, max_tokens=tokens, n=n, stop=stops)
        self.scheduler.add(key, spec, stream=True)

    def step(self) -> list[Output]:
        outputs = self.scheduler.step()
        self.outputs += outputs
        return outputs

    def run(self) -> None:
        for _ in range(10_000):
            if self.scheduler.idle:
                return
            due_s = self.scheduler.due_s()
            assert due_s is not None, "work without a due time would wait for ever"
            self.now_s = max(self.now_s, due_s)
            self.step()
        pytest.fail("the scheduler never became idle")

    def text(self, key: int, choice: int = 0) -> str:
        return "".join(
            output.text
            for output in self.outputs
            if isinstance(output, TextProduced) and (output.job, output.choice) == (key, choice)
        )

    def reasons(self, key: int) -> list[str]:
        return [
            output.finish_reason
            for output in self.outputs
            if isinstance(output, TextProduced) and output.job == key and output.finish_reason
        ]

    def done(self, key: int) -> JobDone:
        (found,) = [o for o in self.outputs if isinstance(o, JobDone) and o.job == key]
        return found


_JOBS = st.lists(
    st.tuples(
        st.text(alphabet="ab", min_size=1, max_size=90),  # prompts that share beginnings
        st.integers(1, 25),  # max_tokens
        st.integers(1, 4),  # n
        st.integers(0, 12),  # steps before the next one comes
        st.booleans(),  # cancelled later
    ),
    min_size=1,
    max_size=8,
)


@given(jobs=_JOBS, recurrent=st.booleans(), slots=st.integers(1, 4), rate=st.sampled_from([0, 9]))
def test_an_answer_does_not_depend_on_its_company(
    jobs: list[tuple[str, int, int, int, bool]], recurrent: bool, slots: int, rate: float
) -> None:
    """Whatever joins, leaves or is reused, each answer is what it would be alone."""
    bench = Bench(model=FakeModel(recurrent=recurrent, sequences=slots), rate=rate)
    for key, (prompt, tokens, n, steps, _) in enumerate(jobs):
        bench.add(key, prompt, tokens=tokens, n=n)
        for _ in range(steps):
            bench.step()
    cancelled = {key for key, job in enumerate(jobs) if job[-1]}
    for key in cancelled:
        bench.scheduler.cancel(key)
    bench.run()
    assert all(sampler.closed >= 1 for sampler in bench.model.samplers)
    for key, (prompt, tokens, n, _, _) in enumerate(jobs):
        alone = answer_alone(prompt, tokens)
        for choice in range(n):
            text = bench.text(key, choice)
            assert alone.startswith(text) if key in cancelled else text == alone
        if key not in cancelled:
            done = bench.done(key)
            assert (len(prompt), n * len(alone)) == (done.prompt_tokens, done.completion_tokens)
            reason = "length" if len(alone) == tokens else "stop"
            assert [reason] * n == bench.reasons(key)


def test_answers_share_a_batch() -> None:
    """Once their prompts are read, three answers take one batch for each token, not three."""
    bench = Bench(model=FakeModel(script=b"0123456789"))
    for key in range(3):
        bench.add(key, f"{key} prompt")
    bench.run()
    assert [1] * 3 + [3] * 9 == [len(parts) for parts in bench.model.batches]


def test_a_long_prompt_does_not_stall_an_answer() -> None:
    """While a prompt is read in pieces, the other answer gets a token in every step."""
    bench = Bench(model=FakeModel(script=b"x" * 50, piece_tokens=8))
    bench.add(0, "short", tokens=40)
    bench.step()
    bench.add(1, "l" * 100, tokens=1)
    for _ in range(5):
        assert [0] == [o.job for o in bench.step() if isinstance(o, TextProduced)]
    bench.run()
    assert all(sum(len(part.tokens) for part in parts) <= 8 + 1 for parts in bench.model.batches)


def test_a_short_prompt_is_read_before_the_next_piece_of_a_long_one() -> None:
    """Its first token comes in the step after it came."""
    bench = Bench(model=FakeModel(script=b"xy", piece_tokens=10))
    bench.add(0, "l" * 150)
    bench.step()
    bench.add(1, "short")
    assert [1] == [output.job for output in bench.step() if isinstance(output, TextProduced)]


def test_no_prompt_is_passed_over_twice() -> None:
    """New short prompts in every step leave a long one every other step."""
    bench = Bench(model=FakeModel(script=b"", sequences=30, piece_tokens=10))
    bench.add(0, "l" * 50, tokens=1)
    for key in range(1, 12):
        bench.add(key, "s" * 9, tokens=1)
        bench.step()
    assert any(isinstance(output, JobDone) and output.job == 0 for output in bench.outputs)


def test_short_prompts_are_read_in_one_step() -> None:
    """As many as are no longer than one piece of a long one."""
    bench = Bench(model=FakeModel(script=b"x"))
    for key in range(3):
        bench.add(key, "short")
    assert {0, 1, 2} == {output.job for output in bench.step() if isinstance(output, TextProduced)}


@given(others=st.lists(st.text(alphabet="xyz", min_size=1, max_size=60), max_size=5))
def test_a_prompt_is_cut_where_it_would_be_cut_alone(others: list[str]) -> None:
    """The batches that process it are the same in any company."""
    bench = Bench(model=FakeModel(sequences=6, batch_tokens=26))
    for key, other in enumerate(others):
        bench.add(key, other, tokens=3)
    bench.add(99, "p" * 70, tokens=1)
    bench.run()
    sizes = [
        [len(part.tokens) for part in parts]
        for parts in bench.model.batches
        if ord("p") in parts[0].tokens and len(parts[0].tokens) > 1
    ]
    assert [[20], [20], [20], [10]] == sizes


def test_a_slow_device_reads_prompts_in_smaller_pieces() -> None:
    """A step that took seconds is not repeated at that size."""
    bench = Bench(model=FakeModel(context_tokens=1_000, batch_tokens=512, script=b"x"))
    clock = iter(range(0, 1_000, 2))
    bench.scheduler._now = lambda: float(next(clock))
    bench.add(0, "l" * 400)
    while not bench.scheduler.idle:
        bench.step()
    sizes = [len(parts[0].tokens) for parts in bench.model.batches]
    assert [128, 64, 32, 16, 16] == sizes[:5]


def test_cancelling_takes_effect_before_the_next_step() -> None:
    """Nothing is decoded for an answer that nobody waits for, and its slot is free at once."""
    bench = Bench(model=FakeModel(sequences=1, script=b"x" * 50))
    bench.add(0, "one", tokens=50)
    bench.add(1, "two", tokens=1)
    bench.step()
    bench.scheduler.cancel(0)
    bench.step()
    assert ["x"] == [bench.text(1)]
    assert "x" == bench.text(0)
    bench.scheduler.cancel(0)
    bench.scheduler.cancel(77)
    assert bench.scheduler.idle


def test_the_choices_of_a_request_share_its_prompt() -> None:
    """The prompt is processed once; the other choices copy it and process its last token."""
    bench = Bench(model=FakeModel(sequences=4, script=b"x"))
    bench.add(0, "p" * 50, n=4)
    bench.run()
    assert (50 + 3) + 4 == bench.model.tokens_processed
    assert 3 == bench.model.copies
    assert ["stop"] * 4 == bench.reasons(0)
    assert (50, 4) == (bench.done(0).prompt_tokens, bench.done(0).completion_tokens)


def test_the_next_turn_of_a_conversation_is_cheap() -> None:
    """What an ended answer left in its slot is not processed again."""
    bench = Bench()
    bench.add(0, "first turn")
    bench.run()
    before = bench.model.tokens_processed
    said = bench.text(0)
    bench.add(1, f"first turn{said[:-1]} and more", tokens=1)
    bench.run()
    assert len(" and more") == bench.model.tokens_processed - before
    assert len(f"first turn{said[:-1]}") == bench.done(1).cached_tokens


def test_a_stop_string_ends_the_answer_and_is_not_shown() -> None:
    """Also when it comes in several tokens; its tokens are counted, they were generated."""
    bench = Bench(model=FakeModel(script=b"one END two"))
    bench.add(0, "p", stop="END", tokens=50)
    bench.run()
    assert ("one ", ["stop"]) == (bench.text(0), bench.reasons(0))
    assert len("one END") == bench.done(0).completion_tokens


def test_the_context_limits_the_answer() -> None:
    """Without `max_tokens` an answer ends where the context does."""
    bench = Bench(model=FakeModel(context_tokens=20, script=b"x" * 50))
    bench.add(0, "p" * 15, tokens=None)
    bench.run()
    assert ("x" * 5, ["length"]) == (bench.text(0), bench.reasons(0))


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    """The message names the prompt's length and the limit."""
    bench = Bench(model=FakeModel(context_tokens=20))
    with pytest.raises(ArmFailed, match=r"prompt has 20 tokens .* context of 20 tokens") as caught:
        bench.add(0, "p" * 20)
    assert "context_length_exceeded" == caught.value.reason
    assert not caught.value.client_error
    assert bench.scheduler.idle


def test_an_empty_prompt_is_the_clients_error() -> None:
    """There is nothing to continue."""
    bench = Bench()
    with pytest.raises(ArmFailed, match="prompt is empty") as caught:
        bench.add(0, "")
    assert (True, "messages") == (caught.value.client_error, caught.value.param)


def test_a_refused_sampler_leaves_nothing_behind() -> None:
    """A broken grammar is found before anything is queued."""
    bench = Bench()
    messages = ({"role": "user", "content": "p"},)
    spec = ChatSpec(messages=messages, sampling=SamplingSettings(grammar="broken"), n=2)
    with pytest.raises(ArmFailed, match="grammar"):
        bench.scheduler.add(0, spec, stream=False)
    assert bench.scheduler.idle


def test_a_failed_batch_fails_its_answers_and_no_others() -> None:
    """What still waits is answered by a cleared memory."""
    bench = Bench(model=FakeModel(sequences=1))
    bench.add(0, "one", tokens=5)
    bench.add(1, "two", tokens=5)
    bench.step()
    bench.model.fail_next_decode = True
    (failed,) = bench.step()
    assert isinstance(failed, JobFailed)
    assert (0, "decode_failed") == (failed.job, failed.failure.reason)
    bench.run()
    assert answer_alone("two", 5) == bench.text(1)


def test_a_defect_ends_the_request_that_met_it_and_no_other() -> None:
    """All its choices end; it names its place, not its text, which may quote a prompt."""
    bench = Bench()
    bench.add(0, "one", tokens=5, n=2)
    bench.add(1, "two", tokens=5)
    bench.step()
    bench.model.fail_piece = True
    (failed,) = [output for output in bench.step() if isinstance(output, JobFailed)]
    assert (0, "worker_defect") == (failed.job, failed.failure.reason)
    assert "KeyError in fake_model.py, line" in str(failed.failure)
    assert "what the prompt said" not in str(failed.failure)
    bench.run()
    assert answer_alone("two", 5) == bench.text(1)
    assert all(sampler.closed for sampler in bench.model.samplers)


def test_a_paced_model_reads_and_writes_at_its_pace() -> None:
    """10 tokens/s: 40 prompt tokens take 0.5 s and each later token 0.1 s, for each answer."""
    bench = Bench(model=FakeModel(script=b"x" * 50), rate=10.0)
    for key in range(2):
        bench.add(key, f"{key}" + "p" * 39, tokens=6)
    bench.run()
    assert bench.done(0).ttft_ms == pytest.approx(500.0)
    assert bench.done(1).ttft_ms == pytest.approx(500.0)
    assert bench.now_s == pytest.approx(100.0 + 0.5 + 5 * 0.1)


def test_a_paced_answer_makes_good_what_it_was_late() -> None:
    """The mean pace is kept although steps come late, but no burst follows a long stall."""
    bench = Bench(model=FakeModel(script=b"x" * 90), rate=10.0)
    bench.add(0, "p" * 8, tokens=80)
    times: list[float] = []
    while len(times) < 30:
        due_s = bench.scheduler.due_s()
        assert due_s is not None
        stall_s = 5.0 if len(times) == 20 else 0.05
        bench.now_s = max(bench.now_s, due_s) + stall_s
        times += [bench.now_s for output in bench.step() if isinstance(output, TextProduced)]
    assert times[19] - times[0] == pytest.approx(19 * 0.1, abs=0.051)
    assert times[29] - times[20] >= 8 * 0.1


def test_text_of_an_answer_that_is_not_streamed_comes_at_its_end() -> None:
    """One frame for each answer instead of one for each token."""
    bench = Bench(model=FakeModel(script=b"0123456789"))
    spec = ChatSpec(messages=({"role": "user", "content": "p"},), max_tokens=50)
    bench.scheduler.add(0, spec, stream=False)
    bench.run()
    assert [TextProduced(0, 0, "0123456789", "stop")] == bench.outputs[:-1]


def test_long_text_is_not_held_back_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame stays below its limit however long the answer is."""
    monkeypatch.setattr(scheduling, "TEXT_CHARS_HELD_MAX", 4)
    bench = Bench(model=FakeModel(script=b"0123456789"))
    spec = ChatSpec(messages=({"role": "user", "content": "p"},), max_tokens=50)
    bench.scheduler.add(0, spec, stream=False)
    bench.run()
    texts = [output.text for output in bench.outputs if isinstance(output, TextProduced)]
    assert ["0123", "4567", "89"] == texts


def _logprob_texts(bench: Bench) -> list[bytes]:
    return [
        entry.piece
        for output in bench.outputs
        if isinstance(output, TextProduced)
        for entry in output.logprobs
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_every_shown_token_tells_how_likely_it_was(stream: bool) -> None:
    """Those of a stop string are not shown, and not told of either."""
    bench = Bench(model=FakeModel(script=b"one END two"))
    spec = ChatSpec(
        messages=({"role": "user", "content": "p"},),
        sampling=SamplingSettings(logprobs=2),
        stop=("END",),
        max_tokens=50,
    )
    bench.scheduler.add(0, spec, stream=stream)
    bench.run()
    assert "one " == bench.text(0)
    assert [b"o", b"n", b"e", b" "] == _logprob_texts(bench)


def test_without_being_asked_nothing_is_told_of_likelihoods() -> None:
    """It costs a look at every logit."""
    bench = Bench(model=FakeModel(script=b"one"))
    bench.add(0, "p")
    bench.run()
    assert [] == _logprob_texts(bench)


def test_a_call_of_a_tool_ends_an_answer_as_such() -> None:
    """Its text is no text of the answer; a call that was cut off ends by its length."""
    says = b'Hm.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    for tokens, reason in ((99, "tool_calls"), (50, "length")):
        bench = Bench(model=FakeModel(script=says, tools=ToolFormat("<tool_call>", "</tool_call>")))
        spec = ChatSpec(
            messages=({"role": "user", "content": "p"},),
            tools=ToolRequest(({"type": "function", "function": {"name": "f"}},)),
            max_tokens=tokens,
        )
        bench.scheduler.add(0, spec, stream=True)
        bench.run()
        calls = [c for o in bench.outputs if isinstance(o, TextProduced) for c in o.calls]
        assert ("Hm.", [reason]) == (bench.text(0), bench.reasons(0))
        assert "f" == calls[0].name
        assert '{"a": 1}'.startswith("".join(call.arguments for call in calls))


def test_the_wait_for_a_model_counts_to_the_first_token() -> None:
    """The request came before the model was there."""
    bench = Bench(model=FakeModel(script=b"x"))
    spec = ChatSpec(messages=({"role": "user", "content": "p"},))
    bench.scheduler.add(0, spec, stream=True, arrived_s=bench.now_s - 2.0)
    bench.run()
    assert bench.done(0).ttft_ms == pytest.approx(2_000.0)


def test_closing_frees_the_model_and_every_sampler() -> None:
    """Unloading leaves nothing behind."""
    bench = Bench()
    bench.add(0, "one", n=2)
    bench.step()
    bench.scheduler.close()
    assert bench.model.closed
    assert all(sampler.closed >= 1 for sampler in bench.model.samplers)
