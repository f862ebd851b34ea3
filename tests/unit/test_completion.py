"""Shell completion of the four commands, in a real bash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
COMMANDS = ("tidegate-agent", "tidegate-coordinator", "tidectl", "tidegate-lab")
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
COMPLETE = """
set -e
source "$HOME/.bashrc"
read -ra COMP_WORDS <<< "$1"
[[ "$1" == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_${COMP_WORDS[0]//-/_}_completion "${COMP_WORDS[0]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def run(home: Path, *command: str) -> str:
    """Run something with the commands on the path and a home of its own."""
    environment = {
        **{key: value for key, value in os.environ.items() if "COMPLETE" not in key},
        "HOME": str(home),
        "SHELL": "/bin/bash",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which completion was installed for every command."""
    made = tmp_path_factory.mktemp("home")
    for command in COMMANDS:
        run(made, command, "--install-completion", "bash")
    return made


@bash
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("tidegate-agent mod", ["models"]),
        ("tidegate-agent models ", ["list", "pull", "remove", "verify"]),
        ("tidegate-agent doctor --de", ["--deep"]),
        ("tidegate-agent bench --format ", ["json", "table"]),
        ("tidectl device ", ["list", "readmit", "revoke", "show"]),
        ("tidectl budget se", ["set"]),
        ("tidegate-coordinator token c", ["create"]),
        ("tidegate-lab simu", ["simulate"]),
    ],
)
def test_bash_offers_what_fits(home: Path, line: str, offers: list[str]) -> None:
    """Commands, options and the values of options."""
    found = run(home, "bash", "-c", COMPLETE, "bash", line)
    assert offers == sorted(found.split())
