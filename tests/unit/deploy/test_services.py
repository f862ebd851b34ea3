"""The services and their installers, as far as they can be checked without being installed."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.config import load

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), DEPLOY.parent / ".ci" / "run"])
EXPOSURE_MAX = 2.0


def tool(name: str) -> str:
    """The path of a program that `.ci/run` provides."""
    found = shutil.which(name)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not on this machine")
    assert found is not None, f"{name} is missing"
    return found


def ran(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """What a command said."""
    env = {**os.environ, **environ}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_understands_every_line(unit: Path, tmp_path: Path) -> None:
    """Unknown keys and bad values are warnings that nobody would read."""
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    scope = ["--user"] if ".user." in unit.name else []
    done = ran(tool("systemd-analyze"), *scope, "verify", str(copy), XDG_RUNTIME_DIR=str(runtime))
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (0, []) == (done.returncode, said), done.stderr


@pytest.mark.parametrize("role", ["agent", "coordinator"])
def test_a_system_service_is_shut_off_from_what_it_does_not_need(role: str) -> None:
    """By systemd's own measure, of which 10 is the worst."""
    unit = DEPLOY / "systemd" / f"tidegate-{role}.service"
    done = ran(tool("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for .*?: ([\d.]+)", done.stdout + done.stderr)
    assert found is not None, done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script: Path) -> None:
    """Quotes, unset variables, exit codes."""
    done = ran(tool("shellcheck"), str(script))
    assert (0, "") == (done.returncode, done.stdout)


def test_a_dry_run_of_the_installation_says_every_step_and_does_none(tmp_path: Path) -> None:
    """From the environment to the start, for one user here."""
    script = str(DEPLOY / "systemd" / "install.sh")
    done = ran("bash", script, "agent", "--user", "--dry-run", HOME=str(tmp_path),
               XDG_DATA_HOME="", XDG_CONFIG_HOME="")  # fmt: skip
    steps = [
        "bootstrap.py edge",
        "tidegate-agent example",
        "tidegate-agent.user.service",
        "systemctl --user enable tidegate-agent.service",
        "--check",
        "systemctl --user restart tidegate-agent.service",
    ]
    places = [done.stdout.find(step) for step in steps]
    assert (0, True, sorted(places)) == (done.returncode, min(places) >= 0, places), done.stdout
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage"),
        (["server"], "unknown argument 'server'"),
        (["agent", "coordinator"], "not both"),
        (["coordinator", "--user"], "for the agent only"),
        (["agent", "--user", "--gpu"], "system-wide"),
    ],
)
def test_a_wrong_call_of_the_installer_is_explained(arguments: list[str], said: str) -> None:
    """With the exit code of a usage error."""
    done = ran("bash", str(DEPLOY / "systemd" / "install.sh"), *arguments)
    assert (2, True) == (done.returncode, said in done.stderr), done.stderr


def test_the_launch_agent_is_a_property_list_that_restarts_the_agent() -> None:
    """Its paths are filled in by the installer."""
    with (DEPLOY / "launchd" / "com.tidegate.agent.plist").open("rb") as file:
        job = plistlib.load(file)
    assert (True, True, "run") == (job["KeepAlive"], job["RunAtLoad"], job["ProgramArguments"][1])
    assert "@HOME@" in job["EnvironmentVariables"]["TIDEGATE_AGENT_STATE_DIR"]


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A home in which an installation makes the commands of this environment, and no service."""
    stand_ins = {
        # Called as `python bootstrap.py PROFILE VENV`.
        "python": f'mkdir -p "$3/bin"; ln -sf "{Path(sys.executable).parent}"/tidegate-* "$3/bin/"',
        "systemctl": "exit 0",
    }
    for name, does in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    return {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
        "XDG_DATA_HOME": "",
        "XDG_CONFIG_HOME": "",
    }


def test_commands_in_a_shell_see_the_books_of_the_service(machine: dict[str, str]) -> None:
    """The configuration that is written names the state folder that the unit sets."""
    done = ran("bash", str(DEPLOY / "systemd" / "install.sh"), "agent", "--user", **machine)
    assert 0 == done.returncode, done.stderr
    home = machine["HOME"]
    config = load(Path(home) / ".config" / "tidegate" / "agent.toml")
    unit = (Path(home) / ".config" / "systemd" / "user" / "tidegate-agent.service").read_text()
    (wanted,) = re.findall(r"(?m)^Environment=TIDEGATE_AGENT_STATE_DIR=(.+)$", unit)
    assert wanted.replace("%h", home) == str(config.state_dir)
    assert config.library_folder == config.state_dir / "models"
    assert all(Path(model.path).parent == config.library_folder for model in config.placed_models)
    assert "doctor --config" in done.stdout


def test_what_the_other_service_needs_is_not_removed(machine: dict[str, str]) -> None:
    """Both live in one environment; the last one takes it along."""
    script = str(DEPLOY / "systemd" / "install.sh")
    home = Path(machine["HOME"])
    assert 0 == ran("bash", script, "agent", "--user", **machine).returncode
    other = home / ".config" / "systemd" / "user" / "tidegate-coordinator.service"
    other.touch()
    for there in (True, False):
        done = ran("bash", script, "agent", "--user", "--uninstall", **machine)
        assert 0 == done.returncode, done.stderr
        assert there == (home / ".local/share/tidegate/venv").exists()
        other.unlink(missing_ok=True)
