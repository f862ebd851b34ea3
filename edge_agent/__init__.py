"""The agent: an OpenAI endpoint on the device that decides alone which model answers."""

import shared.lean_structlog  # noqa: F401 - before anything else loads structlog
