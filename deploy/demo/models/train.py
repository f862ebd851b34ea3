"""Train the demo models and write them as quantised GGUF files.

Example: ``python deploy/demo/models/train.py --out models --model all``. Everything is drawn
from ``--seed``; the result depends on nothing else but the library versions and, where
``--minutes`` cuts a run short, on the speed of the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import batches
import chat
import export
import model
import optimiser
import tasks
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes
    ----------
    steps : int
        The number of optimiser steps.
    rows : int
        Packed rows in each step.
    rate : float
        The peak learning rate.
    focus_after : int
        Steps after which the hardest classes are drawn most of the time.
    quantisation : str
        One of :data:`export.QUANTISATIONS`.
    """

    steps: int
    rows: int
    rate: float
    focus_after: int
    quantisation: str


NEVER = 1_000_000_000

RECIPES: dict[str, Recipe] = {
    "tiny": Recipe(steps=2600, rows=24, rate=6e-3, focus_after=NEVER, quantisation="q8_0"),
    "small": Recipe(steps=2200, rows=24, rate=4e-3, focus_after=NEVER, quantisation="q8_0"),
    "large": Recipe(steps=3000, rows=24, rate=3e-3, focus_after=1000, quantisation="q8_0"),
}

WARM_UP_STEPS = 50
DECAY_FROM = 0.55
"""The share of a run after which the learning rate falls to zero."""

CHECKED_PER_CLASS = 10
"""Held-out tasks of each class on which GGUF and PyTorch are compared."""


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Compute the learning rate: a warm-up, a plateau and a linear fall to zero.

    Parameters
    ----------
    step : int
        The number of steps already taken.
    progress : float
        The share of the run that is over, from 0 to 1.
    peak : float
        The rate of the plateau.

    Returns
    -------
    float
        The rate of the next step.
    """
    fall = min(1.0, (1.0 - progress) / (1.0 - DECAY_FROM))
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * max(fall, 0.002)


@torch.no_grad()
def accuracy(net: model.Transformer, samples: int, seed: int) -> dict[str, float]:
    """Measure the share of right answers on held-out tasks.

    An answer is right if each of its tokens is the most likely one after the right beginning,
    which is the same as a right greedy answer.

    Parameters
    ----------
    net : model.Transformer
        The model.
    samples : int
        Tasks in each class.
    seed : int
        The seed of the tasks.

    Returns
    -------
    dict[str, float]
        The accuracy of each class.
    """
    result = {}
    for name in tasks.TASK_CLASSES:
        drawn = tasks.held_out_tasks(name, samples, seed)
        written = [batches.conversation([task], None) for task in drawn]
        length = max(len(tokens) for tokens, _ in written)
        padded = torch.tensor([t + [model.EOS_ID] * (length - len(t)) for t, _ in written])
        said = torch.tensor([w + [0.0] * (length - len(w)) for _, w in written]) > 0
        best = net.logits(net.hidden_states(padded)).argmax(-1)
        right = (best[:, :-1] == padded[:, 1:]) | ~said[:, 1:]
        result[name] = right.all(1).float().mean().item()
    return result


def train(
    name: str, steps: int, minutes: float, seed: int, report_every: int
) -> tuple[model.Transformer, int]:
    """Train one model.

    Parameters
    ----------
    name : str
        One of :data:`model.CONFIGS`.
    steps : int
        The number of steps.
    minutes : float
        The longest time to take; the learning rate falls earlier where this is what ends it.
    seed : int
        The seed of the weights and the tasks.
    report_every : int
        Steps between two lines of progress.

    Returns
    -------
    tuple[model.Transformer, int]
        The trained model and the number of steps taken.
    """
    torch.manual_seed(seed)
    recipe = RECIPES[name]
    net = model.Transformer(model.CONFIGS[name])
    updater = optimiser.Optimiser(net)
    started, total, step = time.monotonic(), 0.0, 0
    print(f"{name}: {net.parameter_count():,} parameters, {steps} steps", flush=True)
    for batch in batches.batches(recipe.rows, seed, recipe.focus_after):
        elapsed = (time.monotonic() - started) / 60
        progress = max(step / steps, elapsed / minutes)
        if progress >= 1.0:
            break
        rate = learning_rate(step, progress, recipe.rate)
        states = net.hidden_states(batch.tokens, batch.mask).flatten(0, 1)[batch.sources]
        losses = functional.cross_entropy(net.logits(states), batch.targets, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        torch.autograd.backward([loss])
        updater.step(rate)
        total, step = total + loss.item(), step + 1
        if step % report_every == 0:
            shown = " ".join(f"{k} {v:.2f}" for k, v in accuracy(net, 64, seed + 1).items())
            mean, total = total / report_every, 0.0
            print(f"{name} {step} {elapsed:.1f} min, loss {mean:.3f}: {shown}", flush=True)
    return net, step


def agreement(net: model.Transformer, path: Path, seed: int) -> tuple[int, int]:
    """Compare the greedy answers of a GGUF file with those of the PyTorch model.

    Parameters
    ----------
    net : model.Transformer
        The trained model.
    path : pathlib.Path
        The quantised file.
    seed : int
        The seed of the tasks.

    Returns
    -------
    tuple[int, int]
        The number of equal answers and of all answers.
    """
    llama = chat.load(str(path), threads=1)
    equal = asked = 0
    for name in tasks.TASK_CLASSES:
        for task in tasks.held_out_tasks(name, CHECKED_PER_CLASS, seed):
            prompt = [model.BOS_ID, model.USER_ID, *model.encode(task.prompt), model.ASSISTANT_ID]
            expected = model.decode(net.answer(prompt, chat.ANSWER_LIMIT))
            equal += chat.ask(llama, task.prompt) == expected
            asked += 1
    llama.close()
    return equal, asked


def write(net: model.Transformer, out: Path, seed: int) -> None:
    """Write, quantise and verify a model.

    Parameters
    ----------
    net : model.Transformer
        The trained model.
    out : pathlib.Path
        The folder that gets the file.
    seed : int
        The seed of the tasks on which the file is verified.

    Raises
    ------
    RuntimeError
        If the file answers differently from the model.
    """
    name = net.config.name
    target = out / f"{name}.gguf"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "half.gguf"
        fresh = Path(folder) / "quantised.gguf"
        export.write_gguf(net, source)
        export.quantise(source, fresh, RECIPES[name].quantisation)
        equal, asked = agreement(net, fresh, seed)
        print(f"{name}: {equal} of {asked} answers equal those of PyTorch", flush=True)
        if equal < 0.8 * asked:
            raise RuntimeError(f"{name}: the GGUF file does not answer as the model does")
        export.quantise(source, target, RECIPES[name].quantisation)
    print(f"{name}: {target}, {target.stat().st_size:,} bytes", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    arguments : Sequence[str] or None
        The arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for the GGUF files")
    parser.add_argument("--model", choices=[*model.CONFIGS, "all"], default="all")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the recipe's")
    parser.add_argument("--minutes", type=float, default=1e6, help="longest time for each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report-every", type=int, default=250, metavar="STEPS")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in model.CONFIGS if options.model == "all" else [options.model]:
        steps = options.steps or RECIPES[name].steps
        started = time.monotonic()
        net, taken = train(name, steps, options.minutes, options.seed, options.report_every)
        minutes = (time.monotonic() - started) / 60
        print(f"{name}: {taken} steps in {minutes:.1f} minutes", flush=True)
        write(net, options.out, options.seed + 2)


if __name__ == "__main__":
    main()
