"""The coordinator's program: what its commands load."""

from __future__ import annotations

import subprocess
import sys


def test_commands_load_neither_planner_nor_database_nor_servers() -> None:
    """Help, completion and `--check` come at once; these alone take seconds."""
    found = subprocess.run(
        [sys.executable, "-c", "import sys, coordinator.app; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in found.stdout.split()}
    heavy = {"aiohttp", "alembic", "grpc", "numpy", "scipy", "sqlalchemy", "starlette", "uvicorn"}
    assert set() == loaded & heavy
    assert "pydantic" in loaded
