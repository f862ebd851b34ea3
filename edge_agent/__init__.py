"""The agent: an OpenAI endpoint on the device that decides alone which model answers."""

import os

import shared.lean_structlog  # noqa: F401 - before anything else loads structlog

# Before anything loads gRPC: its core writes plain lines between the JSON of the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
