"""The grammars, and the prompts that come out of them."""

from __future__ import annotations

import csv
import gzip
import random
from itertools import groupby
from pathlib import Path

import pytest

from edge_agent.task_model.generate import GRAMMARS, Grammar, prompts, read_grammars

COMMITTED = GRAMMARS.parent / "prompts.csv.gz"
BY_HAND = Path(__file__).parent / "prompts_by_hand.csv"


def test_the_committed_prompts_are_what_the_grammars_give() -> None:
    """The first of each class, which a longer run begins with; `generate.py` writes them anew."""
    with gzip.open(COMMITTED, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    made = {
        label: [text for text, _, _ in found]
        for label, found in groupby(prompts(per_class=60, seed=1), key=lambda row: row[1])
    }
    for label, found in groupby(rows, key=lambda row: row["label"]):
        assert made[label] == [row["text"] for row in found][:60]


def test_no_prompt_by_hand_is_among_those_that_were_learned_from() -> None:
    """They are there to judge the model by."""
    with gzip.open(COMMITTED, "rt", encoding="utf-8", newline="") as file:
        learned = {row["text"].casefold() for row in csv.DictReader(file)}
    with BY_HAND.open(encoding="utf-8", newline="") as file:
        assert [] == [row for row in csv.DictReader(file) if row["text"].casefold() in learned]


def texts(*lines: str, name: str = "ask", **rules: list[str]) -> set[str]:
    """Every text that comes up in many draws."""
    grammar, rng = Grammar({name: list(lines), **rules}), random.Random(1)
    return {grammar.any_text(name, rng=rng) for _ in range(300)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("plain", {"plain"}),
        ("{a|b|}x", {"ax", "bx", "x"}),
        ("{a{b|c}|d}", {"ab", "ac", "d"}),
        ("{1..3}", {"1", "2", "3"}),
        ("{x..z}", {"x", "y", "z"}),
        ("{^noun} {noun}", {"Owl owl", "Hen hen", "Owl hen", "Hen owl"}),
        ("{$who=noun} and {$who}", {"owl and owl", "hen and hen"}),
        ("{$who={a|b}}{$who}", {"aa", "bb"}),
        (r"\{a\|b\}\\n\n", {"{a|b}\\n\n"}),
        ("{$|€}5", {"$5", "€5"}),
        ("{a|b} a {apple|pear}", {f"{x} {y}" for x in "ab" for y in ("an apple", "a pear")}),
    ],
)
def test_a_line_of_a_grammar_gives_these_texts(line: str, expected: set[str]) -> None:
    """All of them come up, and no other."""
    assert expected == texts(line, noun=["owl", "hen"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{a", "not closed"), ("a}", "a brace too many"), ("{noum}", "no rule 'noum'")],
)
def test_a_slip_in_a_grammar_is_named(line: str, problem: str) -> None:
    """Before anything is written."""
    with pytest.raises(ValueError, match=problem):
        Grammar({"ask": [line], "noun": ["owl"]})


def test_a_rule_that_is_there_twice_is_named(tmp_path: Path) -> None:
    """With file and line."""
    (tmp_path / "a.grammar").write_text("a:\n  x\nb:\n  y\na:\n  z\n")
    with pytest.raises(ValueError, match=r"a\.grammar:5: the rule 'a' exists already"):
        read_grammars(tmp_path)


def test_prompts_are_distinct_and_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A grammar that cannot give as many is an error instead of an endless loop."""
    for name, rules in {
        "words": "opening:\n  hi\nclosing:\n  bye\n",
        "system": "system:\n  Be brief.\n",
        "documents": "document:\n  text\n",
    }.items():
        (tmp_path / f"{name}.grammar").write_text(rules)
    (tmp_path / "tiny.grammar").write_text("tiny:\n  {go|stop}\n")
    monkeypatch.setattr("edge_agent.task_model.generate.GRAMMARS", tmp_path)
    found = [text for text, _, _ in prompts(per_class=5, seed=1)]
    assert len(set(found)) == len(found) == 5
    with pytest.raises(ValueError, match=r"tiny\.grammar does not give 1000 different prompts"):
        list(prompts(per_class=1_000, seed=1))
