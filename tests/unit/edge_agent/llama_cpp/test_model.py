"""The wrapper around llama.cpp, with the smallest demo model in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError
from edge_agent.adapters.llama_cpp.model import LlamaModel, default_threads
from edge_agent.adapters.llama_cpp.native_log import start_backend
from edge_agent.adapters.llama_cpp.outputs import TextProduced
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.sampling import SamplingSettings
from edge_agent.adapters.llama_cpp.scheduler import Scheduler
from edge_agent.adapters.llama_cpp.sequence_model import BatchPart, DecodeError
from edge_agent.ports import ArmFailed, LocalModel
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

BOS = 1
EOS = 2
SETTINGS = LocalModel(arm="tiny", path=str(TINY), context_tokens=256, threads=1)
WITHOUT_END = SamplingSettings(temperature=0.0, logit_bias=((EOS, -100.0),))


@pytest.fixture(scope="module", autouse=True)
def log() -> list[tuple[str, str]]:
    """What llama.cpp logs."""
    lines: list[tuple[str, str]] = []
    start_backend(lambda level, text: lines.append((level, text)))
    return lines


@pytest.fixture
def model() -> Iterator[LlamaModel]:
    """A loaded model."""
    loaded = LlamaModel(SETTINGS)
    yield loaded
    loaded.close()


def _answers(prompts: list[str], *, together: bool) -> list[str]:
    """Greedy answers of a fresh model, one after the other or in one batch."""
    scheduler = Scheduler(LlamaModel(SETTINGS), monotonic_s=time.perf_counter)
    texts: dict[int, str] = {}
    for key, prompt in enumerate(prompts):
        scheduler.add(key, chat(prompt), stream=False)
        while not scheduler.idle and (not together or key == len(prompts) - 1):
            for output in scheduler.step():
                if isinstance(output, TextProduced):
                    texts[output.job] = output.text
    scheduler.close()
    return [texts[key] for key in range(len(prompts))]


def chat(prompt: str) -> ChatSpec:
    """A request of one message, answered greedily and without an end."""
    message = {"role": "user", "content": prompt}
    return ChatSpec(messages=(message,), sampling=WITHOUT_END, max_tokens=24)


def test_a_greedy_answer_does_not_depend_on_its_company() -> None:
    """Alone, in a batch, and with a reused prefix the same tokens come out."""
    prompts = ["12+30", "a long prompt that takes its time " * 4, "upper: abc", "12+30", "12+31"]
    alone = _answers(prompts, together=False)
    assert alone == _answers(prompts, together=True)
    assert alone[0] == alone[3]


def test_a_prompt_begins_with_one_bos_token(model: LlamaModel) -> None:
    """The demo's template writes it; a second one would confuse the model."""
    tokens = model.prompt(chat("hi"))
    assert BOS == tokens[0]
    assert 1 == tokens.count(BOS)
    assert b"hi" == b"".join(model.piece(token) for token in tokens)


def test_lone_surrogates_become_question_marks(model: LlamaModel) -> None:
    """There are no bytes for them."""
    tokens = model.prompt(chat("a\ud83d"))
    assert b"a?" == b"".join(model.piece(token) for token in tokens)


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenised(model: LlamaModel) -> None:
    """Megabytes would hold up every other answer."""
    with pytest.raises(ArmFailed, match="256 tokens") as caught:
        model.prompt(chat("x" * 300_000))
    assert "context_length_exceeded" == caught.value.reason


def test_a_copied_slot_continues_like_its_source(model: LlamaModel) -> None:
    """Keys and values of the beginning are the same in both."""
    tokens = model.prompt(chat("the same beginning"))
    model.decode([BatchPart(0, 0, tokens, wanted=True)])
    assert model.copy(0, 1, len(tokens) - 1)
    sampler = model.sampler(chat(""), 0)
    rows = model.decode([BatchPart(1, len(tokens) - 1, tokens[-1:], wanted=True)])
    copied = model.sample(sampler, rows[0])
    model.clear()
    rows = model.decode([BatchPart(0, 0, tokens, wanted=True)])
    assert copied == model.sample(sampler, rows[0])
    sampler.close()


def test_a_batch_that_llama_refuses_is_an_error(model: LlamaModel) -> None:
    """A position that does not follow is found by llama.cpp, and named."""
    model.decode([BatchPart(0, 0, [BOS], wanted=True)])
    with pytest.raises(DecodeError, match="-1 for 1 tokens of tiny"):
        model.decode([BatchPart(0, 7, [BOS], wanted=True)])


def test_messages_that_a_template_refuses_may_go_to_another_arm(model: LlamaModel) -> None:
    """Some templates want alternating roles; others do not."""
    template = "{{ raise_exception('roles must alternate') }}"
    model._template._formatter = Jinja2ChatFormatter(template=template, eos_token="", bos_token="")
    with pytest.raises(
        ArmFailed, match=r"tiny refuses the messages .roles must alternate"
    ) as caught:
        model.prompt(chat("hi"))
    assert not caught.value.client_error


def test_a_truncated_file_is_told_with_llamas_reason(
    tmp_path: Path, log: list[tuple[str, str]]
) -> None:
    """The operator needs both what is wrong and what to do."""
    path = tmp_path / "cut.gguf"
    path.write_bytes(TINY.read_bytes()[:20_000])
    with pytest.raises(ModelFileError, match=r"not within the file bounds.*download") as caught:
        LlamaModel(LocalModel(arm="cut", path=str(path)))
    assert str(path) in str(caught.value)
    assert "error" in {level for level, _ in log}


def test_small_models_get_one_thread(tmp_path: Path) -> None:
    """They are done before a second thread has woken up; big ones get the cores."""
    assert 1 == default_threads(SETTINGS)
    big = tmp_path / "big.gguf"
    with big.open("wb") as file:
        file.truncate(1 << 30)
    assert default_threads(LocalModel(arm="big", path=str(big))) >= 1
