"""`tidegate-agent init`: what it asks, what it writes, and what it says is left to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from edge_agent.app import cli
from edge_agent.cli import init as init_module
from edge_agent.cli.init import _OFF_LOOPBACK
from edge_agent.config import AgentConfig, load
from shared.errors import ConfigError
from shared.units import Address
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

HUB = "hf://owner/repo/Tiny_Q4.gguf"
Init = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Init:
    """Runs the command in a folder of its own; with `answers` somebody sits there."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, answers: list[str] | None = None) -> Result:
        monkeypatch.setattr(init_module, "is_interactive", lambda: answers is not None)
        stdin = "".join(f"{answer}\n" for answer in answers or [])
        return CliRunner().invoke(cli, ["init", *arguments], input=stdin)

    return run


def written(name: str = "agent.toml") -> AgentConfig:
    """The configuration that was written."""
    return load(Path(name))


def test_three_questions_make_a_configuration(init: Init) -> None:
    """Coordinator, model, address; the file is commented, and what is left to do is said."""
    done = init(answers=["10.0.0.5:7481", HUB, "127.0.0.1:7500"])
    assert 0 == done.exit_code, done.output
    config = written()
    assert Address("10.0.0.5", 7481) == config.coordinator.address
    assert "env:TIDEGATE_JOIN_TOKEN" == config.coordinator.join_token
    assert [("tiny_q4", HUB)] == [(model.arm, model.source) for model in config.models]
    assert 7500 == config.listen.port
    assert "TIDEGATE_JOIN_TOKEN is not set" in done.stdout
    assert "tidegate-agent models pull tiny_q4 --config agent.toml" in done.stdout
    assert 5 <= sum(line.startswith("#") for line in Path("agent.toml").read_text().splitlines())


def test_return_takes_the_defaults(init: Init) -> None:
    """No coordinator, no model: it says that nothing could answer."""
    done = init(answers=["", "", ""])
    assert (None, (), 7480) == (
        written().coordinator.address,
        written().models,
        written().listen.port,
    )
    assert "there is nothing to answer with" in done.stdout


def test_options_are_not_asked_and_nobody_is_asked_in_a_script(init: Init) -> None:
    """One file with everything, ready to run."""
    done = init(
        *("dir/a.toml", "--coordinator", "none", "--model", f"tiny={TINY}"),
        *("--listen", "127.0.0.1:1", "--models-folder", "/srv/models", "--state-dir", "/srv/state"),
    )
    assert 0 == done.exit_code, done.output
    config = written("dir/a.toml")
    assert [("tiny", str(TINY), "")] == [(m.arm, m.path, m.source) for m in config.models]
    assert ("/srv/models", "/srv/state") == (config.library.folder, str(config.state_dir))
    assert "it can be used: tidegate-agent run --config dir/a.toml" in done.stdout
    assert 0 == init("b.toml", "--yes", answers=[]).exit_code


def test_a_folder_of_models_becomes_a_table_for_each(init: Init, tmp_path: Path) -> None:
    """By the files' names; a relative folder is made absolute."""
    (tmp_path / "models").mkdir()
    for name in ("b.gguf", "a.gguf", "notes.txt"):
        shutil.copy(TINY, tmp_path / "models" / name)
    assert 0 == init("--model", "models").exit_code
    assert [("a", str(tmp_path / "models/a.gguf")), ("b", str(tmp_path / "models/b.gguf"))] == [
        (model.arm, model.path) for model in written().models
    ]


def test_a_file_that_is_there_is_kept(init: Init) -> None:
    """Unless the operator insists."""
    Path("agent.toml").write_text("mine")
    assert "say --force" in str(init().exception)
    assert "mine" == Path("agent.toml").read_text()
    assert 0 == init("--force").exit_code
    assert () == written().models


def test_an_address_for_others_needs_keys_and_a_certificate(init: Init) -> None:
    """The file shows how, and the check says so."""
    done = init("--listen", "0.0.0.0:7480", "--model", str(TINY))
    assert 0 == done.exit_code
    assert "tls.cert_file" in done.stdout
    text = Path("agent.toml").read_text()
    shown = _OFF_LOOPBACK.strip()
    assert shown in text
    uncommented = "\n".join(
        line.removeprefix("# ") if "=" in line or "# [" in line else line
        for line in shown.splitlines()
    )
    tables = uncommented.index("[[keys]]")
    text = text.replace(shown, uncommented[:tables]) + uncommented[tables:]
    Path("agent.toml").write_text(text)
    assert not written().listen.is_loopback


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--coordinator", "nonsense"], "should be host and port"),
        (["--listen", "7480"], "should be host and port"),
        (["--model", "ftp://example.com/a.gguf"], "https://"),
        (["--model", "hf://nonsense"], "hf://OWNER/REPOSITORY/FILE"),
        (["--model", "a=x.gguf", "--model", "a=y.gguf"], "two for the arm 'a'"),
        (["--model", "."], "no .gguf file"),
    ],
)
def test_a_mistake_is_explained_and_nothing_is_written(
    init: Init, arguments: list[str], says: str
) -> None:
    """With what would be right."""
    assert says in str(init(*arguments).exception)
    assert not Path("agent.toml").exists()


def test_awkward_paths_survive(init: Init) -> None:
    """Quotes and backslashes are escaped."""
    odd = 'mo"del\\s'
    assert 0 == init("--models-folder", odd, "--state-dir", odd).exit_code
    assert (odd, odd) == (written().library.folder, str(written().state_dir))


def test_a_place_that_cannot_be_written_is_named(init: Init, tmp_path: Path) -> None:
    """Without a traceback."""
    (tmp_path / "file").touch()
    result = init(str(tmp_path / "file" / "agent.toml"), "--yes")
    assert isinstance(result.exception, ConfigError)
    assert "cannot be written" in str(result.exception)


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The agent says which key to correct."""
    (tmp_path / "file").touch()
    config = tmp_path / "agent.toml"
    config.write_text(f'state_dir = "{tmp_path}/file/state"\n')
    result = CliRunner().invoke(cli, ["run", "--config", str(config)])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("state_dir: ")
