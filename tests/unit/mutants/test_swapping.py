"""Mutants in the running program."""

from __future__ import annotations

from functools import cached_property
from types import ModuleType
from typing import Any

import pytest

from tests.mutants.making import Mutant
from tests.mutants.swapping import function_of, swap


class Box:
    """Something with every kind of function."""

    size = 3

    def __init__(self) -> None:
        self.extra = 0

    @property
    def room(self) -> int:
        """A property."""
        return self.size

    @cached_property
    def kept(self) -> int:
        """A cached one."""
        return self.size

    @classmethod
    def sized(cls, size: int, *, more: int = 0) -> int:
        """A class method with a default."""
        return cls.size + size + more

    @staticmethod
    def plain(size: int = 1) -> int:
        """A static method."""
        return size


@pytest.fixture
def module() -> ModuleType:
    """A module that holds a fresh class; what was imported from it earlier is the same object."""
    found = ModuleType("boxes")
    found.__file__ = "boxes.py"
    names = {name: value for name, value in vars(Box).items() if not name.startswith("__dict")}
    found.Box = type("Box", (), names)  # type: ignore[attr-defined]
    return found


def mutant(function: str, signature: str, body: str) -> Mutant:
    """One function with another body."""
    owner, _, name = function.partition(".")
    source = f"class {owner}:\n    def {name}({signature}):\n        {body}\n"
    return Mutant("boxes.py", function, "", source)


@pytest.mark.parametrize(
    ("function", "signature", "body", "use", "expected"),
    [
        ("Box.room", "self", "return self.size + 1", lambda box: box().room, 4),
        ("Box.kept", "self", "return 9", lambda box: box().kept, 9),
        ("Box.sized", "cls, size, *, more=5", "return cls.size + more", lambda b: b.sized(0), 8),
        ("Box.plain", "size=2", "return [size for _ in 'x'][0]", lambda box: box.plain(), 2),
    ],
)
def test_whoever_holds_the_class_gets_the_mutant(
    module: ModuleType, function: str, signature: str, body: str, use: Any, expected: int
) -> None:
    """Whatever decorates the function, and with its defaults."""
    held = module.Box
    live = function_of(module, function)
    before = live.__code__, live.__defaults__, live.__kwdefaults__
    try:
        swap(module, mutant(function, signature, body))
        assert expected == use(held)
    finally:
        live.__code__, live.__defaults__, live.__kwdefaults__ = before


def test_what_is_no_function_is_named(module: ModuleType) -> None:
    """A mutant that would change nothing must not count as a survivor."""
    with pytest.raises(LookupError, match=r"Box\.size of boxes is no function but 3"):
        function_of(module, "Box.size")
