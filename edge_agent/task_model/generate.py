"""Write the prompts from which the agent's task model is trained, out of the grammars beside this.

    python edge_agent/task_model/generate.py edge_agent/task_model/prompts.csv.gz
    tidegate-lab train-classifier edge_agent/task_model/prompts.csv.gz --group-column template \\
        --holdout 0 --out edge_agent/task_model/tasks.onnx

Every sentence comes from `grammar/`, which we wrote; nothing is copied from elsewhere. A grammar is
rules of indented alternatives, one a line, drawn with equal chances:

    ask:
      {please}write a {lang} function
    lang:
      {Python|Go|Rust}

`{name}` is a rule; `{a|b|}` draws one of what is between the bars; `{2..9}` and `{a..z}` draw from
a range; `{$who=person}` keeps what was drawn, for `{$who}`; `{^...}` begins with a capital;
`\\n`, `\\{`, `\\}` and `\\\\` stand for themselves. The class is the file's name, and its rule of
the same name is where a prompt begins; which alternative that was is kept as its template.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

GRAMMARS = Path(__file__).parent / "grammar"
SHARED = ("documents", "system", "words")

Draw = Callable[[random.Random, dict[str, str]], str]
_RANGE = re.compile(r"(\d+)\.\.(\d+)|([a-z])\.\.([a-z])")
_KEPT = re.compile(r"\$([a-z]\w*)(?:=(.+))?", re.DOTALL)
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO][a-z])")


class Grammar:
    """Rules by name, each a list of alternatives.

    Raises
    ------
    ValueError
        For braces that do not match, and for a name that no rule has.
    """

    def __init__(self, rules: Mapping[str, list[str]]) -> None:
        self._names = frozenset(rules)
        self._rules = {
            name: [self._sequence(line) for line in lines] for name, lines in rules.items()
        }

    def alternatives(self, name: str) -> int:
        """How many alternatives a rule has."""
        return len(self._rules[name])

    def text(self, name: str, alternative: int, *, rng: random.Random) -> str:
        """One text of a rule's alternative."""
        return _ARTICLE.sub(r"\1n ", self._rules[name][alternative](rng, {}))

    def any_text(self, name: str, *, rng: random.Random) -> str:
        """One text of a rule."""
        return self.text(name, rng.randrange(self.alternatives(name)), rng=rng)

    def _sequence(self, source: str) -> Draw:
        """What is written one after the other."""
        parts: list[str | Draw] = []
        for literal, braced in _pieces(source):
            parts.append(self._braced(literal) if braced else literal)

        def draw(rng: random.Random, kept: dict[str, str]) -> str:
            return "".join(part if isinstance(part, str) else part(rng, kept) for part in parts)

        return draw

    def _braced(self, source: str) -> Draw:
        """What stands between braces."""
        if source.startswith("^"):
            inner = self._braced(source[1:])
            return lambda rng, kept: _capital(inner(rng, kept))
        if found := _KEPT.fullmatch(source):
            return self._kept(found[1], found[2])
        options = _split(source)
        if len(options) > 1:
            choices = [self._sequence(option) for option in options]
            return lambda rng, kept: rng.choice(choices)(rng, kept)
        if found := _RANGE.fullmatch(source):
            return _range(found)
        if source in self._names:
            return lambda rng, kept: rng.choice(self._rules[source])(rng, kept)
        if re.fullmatch("[a-z_]{3,}", source):
            raise ValueError(f"there is no rule {source!r}")
        return self._sequence(source)

    def _kept(self, name: str, source: str | None) -> Draw:
        if source is None:
            return lambda rng, kept: kept[name]
        inner = self._braced(source)

        def draw(rng: random.Random, kept: dict[str, str]) -> str:
            kept[name] = inner(rng, kept)
            return kept[name]

        return draw


def _range(found: re.Match[str]) -> Draw:
    if found[1]:
        low, high = int(found[1]), int(found[2])
        return lambda rng, kept: str(rng.randint(low, high))
    first, last = ord(found[3]), ord(found[4])
    return lambda rng, kept: chr(rng.randint(first, last))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _pieces(source: str) -> Iterator[tuple[str, bool]]:
    """Literal texts, and what stands between the outermost braces."""
    literal, depth, start, at = "", 0, 0, 0
    while at < len(source):
        char = source[at]
        if char == "\\":
            if not depth:
                literal += {"n": "\n", "t": "\t"}.get(source[at + 1], source[at + 1])
            at += 2
            continue
        if char == "{":
            if not depth:
                yield literal, False
                literal, start = "", at + 1
            depth += 1
        elif char == "}":
            depth -= 1
            if depth < 0:
                raise ValueError(f"a brace too many: {source!r}")
            if not depth:
                yield source[start:at], True
        elif not depth:
            literal += char
        at += 1
    if depth:
        raise ValueError(f"a brace is not closed: {source!r}")
    yield literal, False


def _split(source: str) -> list[str]:
    """The options between the bars, those within inner braces left alone."""
    options, depth, start, at = [], 0, 0, 0
    while at < len(source):
        if source[at] == "\\":
            at += 1
        elif source[at] == "|" and not depth:
            options.append(source[start:at])
            start = at + 1
        else:
            depth += {"{": 1, "}": -1}.get(source[at], 0)
        at += 1
    return [*options, source[start:]]


def read_grammars(folder: Path) -> tuple[Grammar, list[str]]:
    """Every rule of the folder's files, and the classes."""
    rules: dict[str, list[str]] = {}
    files = sorted(folder.glob("*.grammar"))
    for path in files:
        name = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            if not line.startswith("  "):
                name = line.removesuffix(":")
                if name in rules:
                    raise ValueError(f"{path}:{number}: the rule {name!r} exists already")
                rules[name] = []
            else:
                rules[name].append(line[2:])
    return Grammar(rules), [path.stem for path in files if path.stem not in SHARED]


def prompts(*, per_class: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Distinct prompts: text, class and template; more of a class begin with the same ones."""
    grammar, classes = read_grammars(GRAMMARS)
    for label in classes:
        rng = random.Random(f"{seed} {label}")
        seen: set[str] = set()
        tries = 0
        while len(seen) < per_class:
            alternative = tries % grammar.alternatives(label)
            tries += 1
            text = _as_sent(grammar.text(label, alternative, rng=rng), grammar=grammar, rng=rng)
            if text and text not in seen:
                seen.add(text)
                yield text, label, f"{label}-{alternative}"
            elif tries > 50 * per_class:
                raise ValueError(f"{label}.grammar does not give {per_class} different prompts")


def _as_sent(text: str, *, grammar: Grammar, rng: random.Random) -> str:
    """A prompt with what people and programs add to it, whatever its class."""
    if rng.random() < 0.08:
        text = f"{grammar.any_text('opening', rng=rng)} {text}"
    if rng.random() < 0.06:
        text = f"{text.rstrip()} {grammar.any_text('closing', rng=rng)}"
    if rng.random() < 0.08:
        text = text.lower()
    elif rng.random() < 0.02:
        text = text.upper()
    if rng.random() < 0.05:
        text = _mistyped(text, rng=rng)
    if rng.random() < 0.15:
        text = f"{grammar.any_text('system', rng=rng)}\n\n{text}"
    return text.strip()


def _mistyped(text: str, *, rng: random.Random) -> str:
    """Two neighbouring letters changed places."""
    if len(text) < 8:
        return text
    at = rng.randrange(1, len(text) - 2)
    return f"{text[:at]}{text[at + 1]}{text[at]}{text[at + 2 :]}"


def main() -> None:
    """Write the CSV file, gzipped; the same seed gives the same bytes."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["text", "label", "template"])
    writer.writerows(prompts(per_class=options.per_class, seed=options.seed))
    data = gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0)
    options.out.write_bytes(data)
    print(f"{options.out}: {len(data):,} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
