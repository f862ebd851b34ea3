"""What differs between two configurations, and what of it a running agent can take over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edge_agent.config import AgentConfig

LIVE: Final = frozenset({"classifier", "keys", "library", "limits", "log", "models"})
"""Tables and keys of the file that need no restart."""


@dataclass(frozen=True)
class ConfigChanges:
    """Dotted keys that differ.

    Attributes
    ----------
    live : tuple of str
        Those that a running agent takes over.
    restart : tuple of str
        Those that wait for its next start.
    """

    live: tuple[str, ...]
    restart: tuple[str, ...]

    def touch(self, *sections: str) -> bool:
        """Whether anything of these tables is to be taken over."""
        return any(_section(key) in sections for key in self.live)


def changes(before: AgentConfig, after: AgentConfig) -> ConfigChanges:
    """Compare two configurations, each complete with its defaults."""
    differ = list(_different(before.model_dump(), after.model_dump()))
    return ConfigChanges(
        live=tuple(key for key in differ if _section(key) in LIVE),
        restart=tuple(key for key in differ if _section(key) not in LIVE),
    )


def running_after(before: AgentConfig, after: AgentConfig) -> AgentConfig:
    """What an agent runs with that has taken over what it can."""
    return before.model_copy(update={name: getattr(after, name) for name in LIVE})


def _section(key: str) -> str:
    return key.partition(".")[0]


def _different(before: Any, after: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of what differs; lists are told as a whole."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            inner = f"{prefix}.{key}" if prefix else str(key)
            yield from _different(before.get(key), after.get(key), inner)
    elif before != after:
        yield prefix
