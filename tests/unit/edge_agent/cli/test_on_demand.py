"""What the agent's program loads: as little as the daemon needs, and every command when asked."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from edge_agent.app import Commands, cli


def test_the_daemon_loads_nothing_that_only_commands_need() -> None:
    """Each of these takes megabytes and time of every start; numpy comes with the classifier."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, edge_agent.app, edge_agent.daemon; print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in found.stdout.split()}
    assert set() == loaded & {"huggingface_hub", "llama_cpp", "numpy", "onnxruntime", "rich"}
    assert "structlog" in loaded


def test_help_tells_of_every_command() -> None:
    """Those that are loaded later as well, with their first line."""
    result = CliRunner().invoke(cli, ["--help"])
    assert 0 == result.exit_code
    for text in ("run", "example", "schema", "version", *Commands.places, "Measure how fast"):
        assert text in result.output


@pytest.mark.parametrize("words", [["bench"], ["doctor"], ["init"], ["models"], ["models", "list"]])
def test_a_command_is_loaded_when_it_is_called(words: list[str]) -> None:
    """Also one within a group."""
    result = CliRunner().invoke(cli, [*words, "--help"], prog_name="tidegate-agent")
    assert 0 == result.exit_code
    assert f"Usage: tidegate-agent {' '.join(words)}" in result.output


def test_an_unknown_command_is_a_wrong_use() -> None:
    """As with commands that are there at once."""
    assert 2 == CliRunner().invoke(cli, ["modles"]).exit_code
