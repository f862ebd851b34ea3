"""`tidegate-agent doctor`: what it says of models that are no good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.app import cli
from shared import logs
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """A configuration with a whole model, one that is cut short, and one that is none."""
    whole = TINY.read_bytes()
    files = {"whole": whole, "pinned": whole, "cut": whole[:-2_000], "none": b"no model"}
    text = f'state_dir = "{tmp_path / "state"}"\n'
    for arm, content in files.items():
        (tmp_path / f"{arm}.gguf").write_bytes(content)
        text += f'[[models]]\narm = "{arm}"\npath = "{tmp_path / arm}.gguf"\n'
        text += f'sha256 = "{"0" * 64}"\n' if arm == "pinned" else ""
    (tmp_path / "agent.toml").write_text(text)
    yield tmp_path / "agent.toml"
    logs.configure(format_="console", level="warning")


def test_a_broken_model_is_told_once_by_the_first_look_that_finds_it(models: Path) -> None:
    """Its header, its checksum or its answer; what is whole passes all three."""
    words = ["doctor", "--deep", "--format", "json", "--config", str(models)]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert 1 == result.exit_code
    findings = json.loads(result.stdout)["findings"]
    told = {
        arm: [each["check"] for each in findings if f"{arm}.gguf" in each["says"]]
        for arm in ("cut", "none", "pinned")
    }
    assert told == {
        "cut": ["model cut", "answer cut"],
        "none": ["model none"],
        "pinned": ["model pinned", "checksum pinned"],
    }
    failed = {each["check"] for each in findings if each["verdict"] == "fail"}
    assert {"answer cut", "model none", "checksum pinned"} <= failed
    well = {each["check"] for each in findings if each["verdict"] == "ok"}
    assert {"model whole", "checksum whole", "answer whole"} <= well
    assert "gguf" not in result.stderr, "the log would tell it again"
