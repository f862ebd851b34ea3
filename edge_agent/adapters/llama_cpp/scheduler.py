"""Continuous batching: the answers of one model, decoded together, step by step.

No I/O and no threads: the model and the clock are passed in. Answers join and leave between
two steps. A step decodes one token of every answer under way, in one batch, and a bounded piece
of the prompts that are still being read, so a long prompt does not stall the others.

Which tokens come out does not depend on that company, as far as the model's arithmetic does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic

from edge_agent.adapters.llama_cpp.choices import Choice, Job, told, turn_of
from edge_agent.adapters.llama_cpp.outputs import JobDone, JobFailed, Output, defect
from edge_agent.adapters.llama_cpp.prefix import SlotPool
from edge_agent.adapters.llama_cpp.request import ChatSpec
from edge_agent.adapters.llama_cpp.sequence_model import (
    DEAD_END,
    BatchPart,
    DecodeError,
    SamplerT,
    SequenceModel,
)
from edge_agent.adapters.llama_cpp.text import TextAssembler
from edge_agent.adapters.llama_cpp.tool_calls import ToolCallReader
from edge_agent.ports import ArmFailed
from shared.errors import invariant

PIECE_TOKENS_MIN: Final = 16
STEP_S_MAX: Final = 1.0
"""A step with prompt tokens that takes longer halves the piece, for slow devices."""

PROMPT_SPEEDUP: Final = 8.0
"""A paced model reads its prompt this much faster than it writes."""

TEXT_CHARS_HELD_MAX: Final = 64 * 1024


class Scheduler(Generic[SamplerT]):
    """Batches the answers of one model.

    Parameters
    ----------
    model : SequenceModel
        The loaded model; the scheduler owns it from now on.
    monotonic_s : callable
        A monotonic clock in seconds.
    tokens_per_second_max : float
        Pace of every single answer, not of their sum; 0 means as fast as possible. Prompts are
        read at `PROMPT_SPEEDUP` times the pace.
    """

    def __init__(
        self,
        model: SequenceModel[SamplerT],
        *,
        monotonic_s: Callable[[], float],
        tokens_per_second_max: float = 0.0,
    ) -> None:
        self._model = model
        self._now = monotonic_s
        self._rate = tokens_per_second_max
        self._pool = SlotPool(model, slots=model.sequences)
        self._jobs: dict[int, Job[SamplerT]] = {}
        self._waiting: deque[Choice[SamplerT]] = deque()
        self._running: list[Choice[SamplerT]] = []
        self._piece = min(model.piece_tokens, model.batch_tokens - model.sequences)
        invariant(self._piece > 0, "a batch must hold prompt tokens beside every sequence")

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._jobs

    def add(
        self, key: int, spec: ChatSpec, *, stream: bool, arrived_s: float | None = None
    ) -> None:
        """Queue a request.

        Parameters
        ----------
        arrived_s : float or None
            When it came, if it had to wait for the model; None means now.

        Raises
        ------
        ArmFailed
            When the model cannot take it; nothing was queued.
        """
        prompt = self._model.prompt(spec)
        limit = self._model.context_tokens
        if len(prompt) >= limit:
            raise ArmFailed(
                "context_length_exceeded",
                f"the prompt has {len(prompt)} tokens and {self._model.arm} has a context of "
                f"{limit} tokens for prompt and answer: shorten it, or choose an arm with a "
                "longer context",
            )
        if not prompt:
            raise ArmFailed(
                "invalid_request",
                "the prompt is empty: send some text",
                client_error=True,
                param="messages",
            )
        arrived_s = self._now() if arrived_s is None else arrived_s
        job = Job[SamplerT](key, spec, stream, prompt, arrived_s=arrived_s)
        self._open_choices(job, room=limit - len(prompt))
        self._jobs[key] = job
        self._waiting.extend(job.choices)

    def cancel(self, key: int) -> None:
        """Stop a request's work before the next step; unknown keys are past ones."""
        job = self._jobs.pop(key, None)
        if job is None:
            return
        self._waiting = deque(choice for choice in self._waiting if choice.job is not job)
        for choice in job.choices:
            self._leave(choice)

    def due_s(self) -> float | None:
        """When the next step has work; None when idle. A time in the past means now."""
        self._admit()
        if not self._running:
            return None
        return min(choice.due_s for choice in self._running)

    def step(self) -> list[Output]:
        """Decode a token of every answer that is due, and a piece of the prompts."""
        self._admit()
        now = self._now()
        due = [choice for choice in self._running if choice.due_s <= now]
        outputs: list[Output] = []
        generating = [choice for choice in due if choice.generating]
        if generating:
            self._decode([(choice, choice.tokens[-1:]) for choice in generating], outputs)
        self._read_prompts([choice for choice in due if not choice.generating], outputs)
        return outputs

    def close(self) -> None:
        """Free the model; requests under way are dropped."""
        for key in list(self._jobs):
            self.cancel(key)
        self._model.close()

    def _open_choices(self, job: Job[SamplerT], *, room: int) -> None:
        spec = job.spec
        wanted = room if spec.max_tokens is None else min(spec.max_tokens, room)
        try:
            for index in range(spec.n):
                sampler = self._model.sampler(spec, index)
                text = TextAssembler(stop=spec.stop)
                tools = self._model.tools if spec.tools is not None else None
                reader = ToolCallReader(tools) if tools is not None else None
                job.choices.append(
                    Choice(job, index, sampler, text, reader, list(job.prompt), tokens_max=wanted)
                )
        except Exception:
            for choice in job.choices:
                choice.sampler.close()
            raise

    def _admit(self) -> None:
        """Give free slots to waiting choices, in order.

        The further choices of a request wait for the first one to read the prompt, and then
        copy it.
        """
        if not self._waiting or not self._pool.any_free:
            return
        still_waiting: deque[Choice[SamplerT]] = deque()
        while self._waiting and self._pool.any_free:
            choice = self._waiting.popleft()
            if choice.index > 0 and not choice.job.prompt_read:
                still_waiting.append(choice)
            else:
                self._start(choice)
        self._waiting = still_waiting + self._waiting

    def _start(self, choice: Choice[SamplerT]) -> None:
        choice.slot, choice.processed = self._pool.take(choice.job.prompt)
        job = choice.job
        if job.started_s is None:
            job.started_s, job.cached_tokens = self._now(), choice.processed
        choice.due_s = self._now()
        self._pace(choice)
        self._running.append(choice)

    def _pace(self, choice: Choice[SamplerT]) -> None:
        """Put off a choice's next piece of work by what it costs at the model's pace."""
        if self._rate <= 0.0:
            return
        if choice.generating:
            cost_s = 1.0 / self._rate
        else:
            pending = min(len(choice.tokens) - choice.processed, self._piece)
            cost_s = pending / (self._rate * PROMPT_SPEEDUP)
        # Late by up to one piece of work is made good, so that the mean pace is kept.
        choice.due_s = max(choice.due_s, self._now() - cost_s) + cost_s

    def _read_prompts(self, reading: Sequence[Choice[SamplerT]], outputs: list[Output]) -> None:
        """Process a piece of one prompt, or several prompts that are no longer than a piece.

        A new prompt comes first, so that a short one waits for no more than the piece in work;
        but none is passed over twice. Each piece goes into a batch of its own, cut at places that
        depend on nothing else: the sums in llama.cpp's kernels, and so the answer, may depend on
        how many tokens come together.
        """
        room = self._piece
        for choice in sorted(reading, key=turn_of):
            size = min(len(choice.tokens) - choice.processed, self._piece)
            if choice not in self._running:
                continue
            choice.passed_over = size > room
            if choice.passed_over:
                continue
            room -= size
            choice.pieces_read += 1
            started = self._now()
            piece = choice.tokens[choice.processed : choice.processed + size]
            self._decode([(choice, piece)], outputs)
            if self._now() - started > STEP_S_MAX:
                self._piece = max(self._piece // 2, PIECE_TOKENS_MIN)

    def _decode(
        self, work: Sequence[tuple[Choice[SamplerT], Sequence[int]]], outputs: list[Output]
    ) -> None:
        """Run one batch, and draw a token for every answer whose tokens are all processed."""
        parts = [
            BatchPart(
                choice.slot,
                choice.processed,
                tokens,
                wanted=choice.processed + len(tokens) == len(choice.tokens),
            )
            for choice, tokens in work
        ]
        try:
            rows = self._model.decode(parts)
        except DecodeError as error:
            outputs += self._fail_all(error)
            return
        now = self._now()
        for (choice, _), part, row in zip(work, parts, rows, strict=True):
            if choice not in self._running:  # an earlier choice took its request's others along
                continue
            try:
                self._advance(choice, part, row, now, outputs)
            except Exception as error:  # noqa: BLE001 - told to its client; the others go on
                self.cancel(choice.job.key)
                outputs.append(JobFailed(choice.job.key, defect(error)))

    def _advance(
        self,
        choice: Choice[SamplerT],
        part: BatchPart,
        row: int,
        now: float,
        outputs: list[Output],
    ) -> None:
        choice.processed += len(part.tokens)
        self._pool.extend(choice.slot, part.tokens)
        if part.wanted:
            job = choice.job
            job.prompt_read = True
            token = self._model.sample(choice.sampler, row)
            job.first_token_s = job.first_token_s or now
            finish_reason = self._take_token(choice, token, row, outputs)
            if finish_reason is not None:
                self._complete(choice, finish_reason, outputs)
                return
        self._pace(choice)

    def _take_token(
        self, choice: Choice[SamplerT], token: int, row: int, outputs: list[Output]
    ) -> str | None:
        """Show a token's text; the reason if it is the last one."""
        if token == DEAD_END or self._model.is_end(token):
            return "stop"
        choice.tokens.append(token)
        choice.job.completion_tokens += 1
        top = choice.job.spec.sampling.logprobs
        if top is not None:
            choice.logprobs.append(self._model.logprob(token, row, top))
        self._say(choice, choice.text.push(self._model.piece(token)))
        if choice.job.stream:
            if choice.said or choice.called:
                outputs.append(told(choice))
        elif choice.chars_held >= TEXT_CHARS_HELD_MAX:
            outputs.append(told(choice))
        if choice.text.stopped:
            return "stop"
        generated = len(choice.tokens) - len(choice.job.prompt)
        return "length" if generated >= choice.tokens_max else None

    def _say(self, choice: Choice[SamplerT], text: str, *, last: bool = False) -> None:
        """Take text that became certain, and tell calls of tools from the rest."""
        if choice.job.spec.sampling.logprobs is not None:
            choice.bytes_shown += len(text.encode())
        choice.chars_held += len(text)
        if choice.reader is None:
            if text:
                choice.said.append(text)
            return
        parts = choice.reader.push(text)
        if last:
            parts += choice.reader.finish()
        for part in parts:
            if isinstance(part, str):
                choice.said.append(part)
            else:
                choice.called.append(part)

    def _complete(
        self, choice: Choice[SamplerT], finish_reason: str, outputs: list[Output]
    ) -> None:
        job = choice.job
        self._say(choice, choice.text.finish(), last=True)
        if choice.reader is not None and choice.reader.calls and finish_reason == "stop":
            finish_reason = "tool_calls"
        outputs.append(told(choice, finish_reason))
        self._leave(choice)
        job.choices_done += 1
        if job.choices_done < len(job.choices):
            return
        del self._jobs[job.key]
        invariant(job.started_s is not None, "a finished job was started")
        outputs.append(
            JobDone(
                job=job.key,
                prompt_tokens=len(job.prompt),
                completion_tokens=job.completion_tokens,
                cached_tokens=job.cached_tokens,
                ttft_ms=(job.first_token_s - job.arrived_s) * 1e3,
                run_ms=(self._now() - (job.started_s or 0.0)) * 1e3,
            )
        )

    def _leave(self, choice: Choice[SamplerT]) -> None:
        choice.sampler.close()
        if choice in self._running:
            self._running.remove(choice)
            self._pool.give_back(choice.slot)

    def _fail_all(self, error: DecodeError) -> list[Output]:
        """Drop every answer: after a failed batch nobody knows what the slots hold."""
        keys = {choice.job.key for choice in self._running}
        failures: list[Output] = []
        for key in sorted(keys):
            self.cancel(key)
            failures.append(JobFailed(key, ArmFailed("decode_failed", str(error))))
        self._pool.reset()
        self._model.clear()
        return failures
