"""Which mutants a module has."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.mutants.making import Mutant, mutants


def made(folder: Path, text: str) -> list[Mutant]:
    """All mutants of a source."""
    path = folder / "module.py"
    path.write_text(dedent(text))
    return list(mutants(path, module="module.py"))


def changed(folder: Path, statement: str) -> set[str]:
    """What one statement of a function becomes."""
    found = made(folder, f"def f(a, b, c):\n    {statement}\n    return a\n")
    return {
        each.diff.partition("\n+ ")[2] for each in found if each.diff.startswith(f"- {statement}")
    }


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("a.b += c", {"pass", "a.b = c", "a.b -= c"}),
        ("a = b < 7", {"pass", "a = None", "a = b <= 7", "a = b < 8"}),
        ("a = b or c", {"pass", "a = None", "a = b and c", "a = b", "a = c"}),
        ("a = max(0, b)", {"pass", "a = None", "a = 0", "a = b"}),
        ("a = b is not None", {"pass", "a = None", "a = b is None"}),
        ("a = [x for x in b if x]", {"a = [x for x in b if True]", "a = [x for x in b if False]"}),
        ("a = [b, *c]", {"a = [*c]", "a = [b]"}),
        ("a = (b, c)", {"a = (c,)", "a = (b,)"}),
        ("a = {1: b, 2: c}", {"a = {2: c}", "a = {1: b}"}),
        ("if b: a = c", {"if True: a = c", "if False: a = c"}),
        ("a(b, c=c)", {"pass", "a(None, c=c)", "a(b, c=None)", "a(c=c)", "a(b, )"}),
        ("raise a", {"pass"}),
    ],
)
def test_a_statement_is_changed_in_every_way_that_matters(
    tmp_path: Path, statement: str, expected: set[str]
) -> None:
    """Left out, weakened, negated, each of its parts dropped."""
    assert expected <= changed(tmp_path, statement)


@pytest.mark.parametrize(
    "statement",
    [
        'a = "text"',
        'a = f"{b + 1} of {c}"',
        'a = "one " "two"',
        'a("text")',
        "raise a(b + 1)",
        "a: int | None",
    ],
)
def test_words_are_left_alone(tmp_path: Path, statement: str) -> None:
    """A text for people may be put in other words; only leaving it out altogether is a change."""
    assert {"pass", ""} >= changed(tmp_path, statement)


def test_false_and_none_are_not_swapped(tmp_path: Path) -> None:
    """Hardly any code tells them apart, so such a mutant would only have to be explained."""
    assert "a(b=None)" not in changed(tmp_path, "a(b=False)")
    assert "a(b=True)" in changed(tmp_path, "a(b=False)")
    assert "a = None" not in changed(tmp_path, "a = False")


def test_methods_and_properties_have_mutants_and_module_constants_have_none(
    tmp_path: Path,
) -> None:
    """A constant is a choice, and a test of it would only repeat it."""
    found = made(
        tmp_path,
        '''
        LIMIT = 5

        class Box:
            """Text."""

            size: int = 3

            @property
            def room(self) -> int:
                """Text."""
                return self.size

            def fill(self, all: bool = False):
                self.put()
        ''',
    )
    assert [
        ("Box.room", "- return self.size\n+ return None"),
        ("Box.fill", "- def fill(self, all: bool = False):\n+ def fill(self, all: bool = True):"),
        ("Box.fill", "- self.put()\n+ pass"),
    ] == [(each.function, each.diff) for each in found]  # fmt: skip


def test_a_mutant_is_known_by_the_same_diff_when_its_function_moves(tmp_path: Path) -> None:
    """Lines above it, a class around it: the list of survivors stays valid."""
    text = "def f(a):\n    if a:\n        return a + 1\n"
    alone = [each.diff for each in made(tmp_path, text)]
    indented = "    ".join(text.splitlines(keepends=True))
    moved = [each.diff for each in made(tmp_path, "X = 1\n\n\nclass C:\n    " + indented)]
    assert alone == moved
    assert "- return a + 1\n+ return a - 1" in alone


def test_no_mutant_comes_twice_or_equals_the_original(tmp_path: Path) -> None:
    """Two ways to the same code are one mutant."""
    found = made(tmp_path, "def f(a, b):\n    return a and b and (a)\n")
    assert len({each.source for each in found}) == len(found)
    assert all(each.diff for each in found)
