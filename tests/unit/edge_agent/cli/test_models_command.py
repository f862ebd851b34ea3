"""`tidegate-agent models`: what it prints and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edge_agent.adapters.model_library.library import parts_of
from edge_agent.app import cli
from edge_agent.config import check, load
from shared.errors import TidegateError
from tests.e2e.fleet import wait_for
from tests.fakes.hub_server import HubServer, running_hub
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

TINY_BYTES = TINY.read_bytes()
SHA256 = hashlib.sha256(TINY_BYTES).hexdigest()
ROOT = Path(__file__).resolve().parents[4]


class Agent:
    """A device with a configuration, and its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "agent.toml"
        self.library = folder / "state" / "models"

    def configure(self, *models: str, head: str = "") -> None:
        """Write the configuration; each model is the body of its table."""
        tables = "".join(f"[[models]]\n{model}\n" for model in models)
        self.config.write_text(f'state_dir = "{self.folder / "state"}"\n{head}\n{tables}')

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        """Run `tidegate-agent models ...`."""
        command, *rest = arguments
        options = ["--config", str(self.config)]
        return CliRunner().invoke(cli, ["models", command, *options, *rest], input=stdin)

    def json(self, *arguments: str) -> Any:
        """What it prints with `--format json`."""
        done = self(*arguments, "--format", "json")
        assert done.exit_code in (0, 1), done.output
        return json.loads(done.stdout)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A device without models."""
    made = Agent(tmp_path)
    made.configure()
    return made


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub with two models."""
    files = {"owner/repo/tiny.gguf": TINY_BYTES, "owner/repo/other.gguf": TINY_BYTES}
    with running_hub(files=files) as running:
        yield running


def problem_of(done: Result) -> str:
    """What a refused command says."""
    assert isinstance(done.exception, TidegateError), done.output
    return str(done.exception)


def test_a_pull_without_arguments_fetches_what_is_missing(agent: Agent, hub: HubServer) -> None:
    """Every model that has a source; `run --check` names the command until then."""
    agent.configure(
        f'arm = "tiny"\nsource = "{hub.cdn_url}/owner/repo/tiny.gguf"\nsha256 = "{SHA256}"',
        f'arm = "copy"\nsource = "{TINY}"\npath = "{agent.folder / "copy.gguf"}"',
        f'arm = "mine"\npath = "{TINY}"',
    )
    missing = [problem.problem for problem in check(load(agent.config))]
    assert [True, True] == ["tidegate-agent models pull" in problem for problem in missing]
    pulled = agent.json("pull")["pulled"]
    assert ["tiny", "copy"] == [each["arm"] for each in pulled]
    assert [len(TINY_BYTES)] * 2 == [each["fetched_bytes"] for each in pulled]
    assert ["config", ""] == [each["checked_against"] for each in pulled]
    assert () == check(load(agent.config))
    hub.asked.clear()
    assert [0, 0] == [each["fetched_bytes"] for each in agent.json("pull")["pulled"]]
    assert [] == hub.asked


def test_a_pull_finds_nothing_missing_where_files_were_put_by_hand(agent: Agent) -> None:
    """As `init` with a path leaves it: that is no mistake."""
    (agent.folder / "mine.gguf").write_bytes(TINY_BYTES)
    agent.configure(f'arm = "mine"\npath = "{agent.folder / "mine.gguf"}"')
    done = agent("pull")
    assert 0 == done.exit_code, done.output
    assert "nothing is missing" in done.stdout
    assert [] == agent.json("pull")["pulled"]


def test_a_pull_of_a_source_goes_into_the_library(agent: Agent, hub: HubServer) -> None:
    """It says how to use what has come, and how to pin it."""
    done = agent("pull", f"{hub.cdn_url}/owner/repo/other.gguf")
    assert 0 == done.exit_code, done.output
    assert TINY_BYTES == (agent.library / "other.gguf").read_bytes()
    assert f'sha256 = "{SHA256}"' in done.stdout
    assert "[[models]]" in done.stdout
    assert "is there already" in agent("pull", f"{hub.cdn_url}/owner/repo/other.gguf").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pull",), "none has a `source`"),
        (("pull", "nosuch"), "'nosuch' is configured; known: mine"),
        (("pull", "mine"), "nowhere to fetch it from"),
        (("pull", "hf://nonsense"), "hf://OWNER/REPOSITORY/FILE"),
        (("pull", "mine", "--sha256", SHA256), "goes with a single source"),
        (("verify", "nosuch"), "known: mine"),
        (("remove", "../agent.toml", "--yes"), "neither an arm nor a file"),
        (("remove", "nosuch.gguf", "--yes"), "models list"),
        (("remove", "mine", "--yes"), "there is no "),
    ],
)
def test_a_mistake_is_explained(agent: Agent, arguments: tuple[str, ...], says: str) -> None:
    """Each with what would be right."""
    agent.configure(f'arm = "mine"\npath = "{agent.folder / "mine.gguf"}"')
    assert says in problem_of(agent(*arguments))


def test_the_list_shows_every_state(agent: Agent, hub: HubServer) -> None:
    """Ready, missing, begun, broken, and what nobody uses."""
    agent.configure(
        f'arm = "ready"\nsource = "{TINY}"',
        'arm = "missing"\nsource = "hf://owner/repo/missing.gguf"',
        'arm = "begun"\nsource = "hf://owner/repo/begun.gguf"',
        f'arm = "broken"\npath = "{agent.folder / "broken.gguf"}"',
        head='[library]\ndisk_bytes_max = "1GiB"',
    )
    agent("pull", "ready")
    (agent.folder / "broken.gguf").write_bytes(b"GGUF")
    (agent.library / "unused.gguf").write_bytes(TINY_BYTES)
    (agent.library / ".begun.gguf.0123456789ab.part").write_bytes(b"GGUF")
    listed = agent.json("list")
    states = {row["arm"] or Path(row["path"]).name: row["state"] for row in listed["models"]}
    assert {
        "ready": "ready",
        "missing": "missing",
        "begun": "partial",
        "broken": "broken",
        "unused.gguf": "unused",
    } == states
    broken = next(row for row in listed["models"] if row["arm"] == "broken")
    assert "download it again" in broken["problem"]
    assert 2**30 == listed["library"]["disk_bytes_max"]
    text = agent("list").stdout
    assert SHA256[:12] in text
    assert "of 1.0 GiB" in text


def test_verify_reads_everything_and_exits_with_1_if_one_is_wrong(agent: Agent) -> None:
    """Against the pin, else against the record."""
    agent.configure(
        f'arm = "recorded"\nsource = "{TINY}"',
        f'arm = "pinned"\npath = "{TINY}"\nsha256 = "{SHA256}"',
        f'arm = "free"\npath = "{TINY}"',
    )
    agent("pull")
    assert 0 == agent("verify").exit_code
    against = {each["arm"]: each["checked_against"] for each in agent.json("verify")["verified"]}
    assert {"recorded": "recorded", "pinned": "pinned", "free": ""} == against
    file = agent.library / TINY.name
    file.write_bytes(TINY_BYTES[:-1] + b"x")
    done = agent("verify")
    assert 1 == done.exit_code
    assert "recorded: " in done.stderr
    assert "is damaged or another file" in done.stderr
    assert 0 == agent("verify", "pinned", "free").exit_code


def test_a_model_is_removed_by_its_arm_or_its_file(agent: Agent) -> None:
    """With everything that belongs to it."""
    agent.configure(f'arm = "tiny"\nsource = "{TINY}"')
    agent("pull")
    size = (agent.library / "tiny.gguf").stat().st_size
    removed = agent.json("remove", "tiny", "--yes")
    assert size < removed["freed_bytes"]
    assert not (agent.library / "tiny.gguf").exists()
    agent("pull", str(TINY))
    assert 0 == agent("remove", "tiny.gguf", "--yes").exit_code
    assert "missing" == agent.json("list")["models"][0]["state"]


def test_a_file_of_the_operator_s_own_is_not_removed(agent: Agent, tmp_path: Path) -> None:
    """No pull has put it there, so none could bring it back; one that a pull has put goes."""
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(TINY_BYTES)
    agent.configure(f'arm = "mine"\npath = "{mine}"')
    assert "a file of your own" in problem_of(agent("remove", "mine", "--yes"))
    assert TINY_BYTES == mine.read_bytes()
    pulled = tmp_path / "pulled.gguf"
    agent.configure(f'arm = "pulled"\nsource = "{TINY}"\npath = "{pulled}"')
    agent("pull")
    assert "pass --yes" in problem_of(agent("remove", "pulled"))
    assert 0 == agent("remove", "pulled", "--yes").exit_code
    assert not pulled.exists()


def part_bytes(agent: Agent) -> int:
    """How much of the model has come."""
    return sum(part.stat().st_size for part in parts_of(agent.library / "tiny.gguf"))


@pytest.fixture
def command(agent: Agent, hub: HubServer) -> Callable[..., subprocess.Popen[str]]:
    """Starts the real command against the hub."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.hub_url,
            "HF_HOME": str(agent.folder / "hf"),
            "NO_PROXY": "127.0.0.1",
            "TIDEGATE_AGENT_CONFIG": str(agent.config),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "edge_agent.app", "models", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background ignores interrupts, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    return start


def test_ctrl_c_leaves_a_part_that_the_same_command_finishes(
    agent: Agent, hub: HubServer, command: Callable[..., subprocess.Popen[str]]
) -> None:
    """In a real process, from the hub that HF_ENDPOINT names."""
    agent.configure('arm = "tiny"\nsource = "hf://owner/repo/tiny.gguf"')
    hub.hold_after = 20_000
    running = command("pull")
    hub.wait_held()
    wait_for(lambda: part_bytes(agent) == 20_000, what="the first bytes")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert 130 == running.returncode, err
    assert "are kept: the same command goes on from there" in err
    assert "" == out
    assert not (agent.library / "tiny.gguf").exists()
    hub.let_go()
    again = command("pull", "--format", "json")
    out, err = again.communicate(timeout=30)
    assert 0 == again.returncode, err
    (pulled,) = json.loads(out)["pulled"]
    assert (20_000, "hub") == (pulled["resumed_bytes"], pulled["checked_against"])
    assert "" == err, "no bar without a terminal"
    assert TINY_BYTES == (agent.library / "tiny.gguf").read_bytes()


def test_an_error_is_one_line_and_exit_code_1(
    agent: Agent, command: Callable[..., subprocess.Popen[str]]
) -> None:
    """Without a traceback."""
    agent.configure('arm = "tiny"\nsource = "hf://owner/repo/nope.gguf"')
    running = command("pull")
    _, err = running.communicate(timeout=30)
    assert 1 == running.returncode
    assert err.startswith("tidegate-agent: hf://owner/repo/nope.gguf cannot be found")
    assert 1 == len(err.strip().splitlines())
