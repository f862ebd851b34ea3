"""How a console script ends."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from shared.console import run_command
from shared.errors import ConfigError


def failing(error: Exception) -> Any:
    """A command that ends with this error."""

    def command(**given: Any) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConfigError("listen", "is no address"), "some-tool: listen: is no address\n"),
        (
            PermissionError(13, "Permission denied", "books.db"),
            "some-tool: books.db: Permission denied; run this as its owner, `sudo -u OWNER ...`\n",
        ),
        (
            ModuleNotFoundError("No module named 'psutil'", name="psutil"),
            (
                "some-tool: this environment has no 'psutil': it was installed without what "
                "some-tool needs; say pip install 'tidegate[edge]', or bootstrap an environment "
                "for it\n"
            ),
        ),
    ],
)
def test_what_was_foreseen_is_one_line(
    error: Exception, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the exit status 1; no traceback."""
    with pytest.raises(SystemExit) as ended:
        run_command(failing(error), name="some-tool", extra="edge")
    assert 1 == ended.value.code
    assert says == capsys.readouterr().err


@pytest.mark.parametrize(
    "defect", [ZeroDivisionError(), ModuleNotFoundError("no", name="edge_agent.gaet")]
)
def test_a_defect_keeps_its_traceback(defect: Exception) -> None:
    """It is for whoever mends it; a module of ours that is not there is one."""
    with pytest.raises(type(defect)):
        run_command(failing(defect), name="some-tool", extra="edge")


@pytest.mark.parametrize(
    ("given", "taken"), [(["--version"], ["version"]), (["run", "--version"], ["run", "--version"])]
)
def test_the_version_is_told_as_everywhere(
    given: list[str], taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--version` alone is the command `version`."""
    monkeypatch.setattr(sys, "argv", ["some-tool", *given])
    seen: list[Any] = []
    run_command(lambda **said: seen.append(said), name="some-tool", extra="edge")
    assert [{"args": taken, "prog_name": "some-tool"}] == seen
