"""What every arm would have answered: the whole stream, on every model, with llama.cpp itself.

Runs beside the drive at low priority. With temperature 0 a model's answer does not depend on who
asks, so these are the answers that the arms serve.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import llama_cpp

from deploy.demo.models.tasks import grade
from deploy.demo.settings import ARMS, MAX_TOKENS, MODELS
from deploy.demo.stream import Planned, read_stream

CONTEXT_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class ArmAnswer:
    """One arm's answer to one request of the stream."""

    index: int
    arm: str
    text: str
    reward: float
    prompt_tokens: int
    completion_tokens: int


def answer_all(stream: Sequence[Planned], *, arm: str, path: Path) -> Iterator[ArmAnswer]:
    """Answer every request of a stream with one model, greedily."""
    llama = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT_TOKENS, n_threads=1, n_threads_batch=1, verbose=False
    )
    for item in stream:
        reply = cast(
            dict[str, Any],
            llama.create_chat_completion(
                messages=[{"role": "user", "content": item.prompt}],
                temperature=0.0,
                max_tokens=MAX_TOKENS,
            ),
        )
        text = reply["choices"][0]["message"]["content"] or ""
        yield ArmAnswer(
            index=item.index,
            arm=arm,
            text=text,
            reward=grade(item.task, text),
            prompt_tokens=reply["usage"]["prompt_tokens"],
            completion_tokens=reply["usage"]["completion_tokens"],
        )
    llama.close()


def read_answers(path: Path) -> list[ArmAnswer]:
    """Read what this program wrote."""
    return [ArmAnswer(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    """Answer a stream and write JSON lines."""
    parser = argparse.ArgumentParser(description="Answer a stream with every model.")
    parser.add_argument("--stream", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    stream = read_stream(options.stream)
    with options.out.open("w") as sink:
        for arm in ARMS:
            for answer in answer_all(stream, arm=arm, path=MODELS / f"{arm}.gguf"):
                sink.write(json.dumps(asdict(answer)) + "\n")


if __name__ == "__main__":
    main()
