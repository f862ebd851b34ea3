"""The list of mutants that no test can or should notice, each with its reason."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.making import Mutant

Key = tuple[str, str, str]


class ListError(Exception):
    """The list cannot be used; the message says which entry and why."""


@dataclass(frozen=True)
class Listed:
    """The survivors that are explained: (module, function, diff) to the reason."""

    reasons: dict[Key, str]

    def explains(self, mutant: Mutant) -> bool:
        """Whether a survivor is on the list."""
        return key_of(mutant) in self.reasons

    def outdated(self, survivors: Iterable[Mutant], *, tried: Callable[[Key], bool]) -> list[Key]:
        """Entries that were tried and did not survive, or of which there is no mutant any more."""
        alive = {key_of(mutant) for mutant in survivors}
        return [key for key in self.reasons if tried(key) and key not in alive]


def key_of(mutant: Mutant) -> Key:
    """What a mutant is known by; it does not change when its function moves."""
    return mutant.module, mutant.function, mutant.diff


def read(path: Path) -> Listed:
    """The list in a file.

    Raises
    ------
    ListError
        If an entry lacks one of its four texts or stands there twice.
    """
    reasons: dict[Key, str] = {}
    for entry in tomllib.loads(path.read_text()).get("survivor", []):
        texts = [str(entry.get(name, "")).strip() for name in ("module", "function", "diff")]
        reason = str(entry.get("reason", "")).strip()
        key = texts[0], texts[1], texts[2]
        if not all(key) or not reason:
            raise ListError(f"{path}: an entry needs module, function, diff and reason: {entry}")
        if key in reasons:
            raise ListError(f"{path}: {key[0]} {key[1]} is listed twice with the diff {key[2]!r}")
        reasons[key] = reason
    return Listed(reasons)


def entry(mutant: Mutant) -> str:
    """A mutant as the list has it, without its reason."""
    return (
        "[[survivor]]\n"
        f'module = "{mutant.module}"\n'
        f'function = "{mutant.function}"\n'
        f"diff = '''\n{mutant.diff}\n'''\n"
        'reason = ""\n'
    )
