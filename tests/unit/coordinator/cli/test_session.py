"""How `tidectl` finds the coordinator, shows who it is, and ends when something is wrong."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import typer.main
from typer.testing import CliRunner

from coordinator.cli.app import GLOBAL_OPTIONS, app, hoisted
from shared.pb.v1 import admin_pb2, types_pb2
from shared.version import SOFTWARE_VERSION
from tests.unit.coordinator.cli.conftest import FakeCoordinator, Tidectl, lines


@pytest.fixture(autouse=True)
def _version(coordinator: FakeCoordinator) -> None:
    coordinator.replies["GetVersion"] = admin_pb2.VersionReply(
        software_version="9.8.7", protocol=types_pb2.ProtocolVersion(major=1, minor=2)
    )


def test_version_shows_both_sides(tidectl: Tidectl) -> None:
    """The versions of the program and of the coordinator stand below each other."""
    result = tidectl("version")
    assert result.exit_code == 0
    assert lines(result) == [
        f"tidectl      {SOFTWARE_VERSION}, protocol 1.0",
        "coordinator  9.8.7, protocol 1.2",
    ]


def test_token_travels_as_bearer_from_the_environment(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """TIDEGATE_ADMIN_TOKEN is sent as the authorization metadata."""
    tidectl("version", env={"TIDEGATE_ADMIN_TOKEN": "s3cret"})
    assert coordinator.metadata["authorization"] == "Bearer s3cret"


def test_token_file_goes_over_the_environment(
    tidectl: Tidectl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """A token file wins, and its line end is no part of the token."""
    file = tmp_path / "token"
    file.write_text("from-file\n")
    tidectl("--token-file", str(file), "version", env={"TIDEGATE_ADMIN_TOKEN": "s3cret"})
    assert coordinator.metadata["authorization"] == "Bearer from-file"


def test_no_token_sends_no_metadata(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """Without a token there is no authorization metadata at all."""
    assert tidectl("version").exit_code == 0
    assert "authorization" not in coordinator.metadata


def test_a_missing_token_file_is_wrong_usage(tidectl: Tidectl, tmp_path: Path) -> None:
    """A token file that cannot be read is named and nothing is sent."""
    result = tidectl("--token-file", str(tmp_path / "none"), "version")
    assert result.exit_code == 2
    assert "--token-file" in result.stderr


def test_unauthenticated_says_how_to_give_a_token(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Exit code 5, and both ways to give a token are named."""
    coordinator.replies["GetVersion"] = (grpc.StatusCode.UNAUTHENTICATED, "no credential")
    result = tidectl("version")
    assert result.exit_code == 5
    assert "an admin token is needed (no credential)" in result.stderr
    assert "TIDEGATE_ADMIN_TOKEN" in result.stderr
    assert "--token-file" in result.stderr


def test_a_rejected_token_is_not_repeated(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """A token that is not accepted is called so and stays out of the message."""
    coordinator.replies["GetVersion"] = (grpc.StatusCode.UNAUTHENTICATED, "expired")
    result = tidectl("version", env={"TIDEGATE_ADMIN_TOKEN": "s3cret"})
    assert result.exit_code == 5
    assert "the admin token was not accepted (expired)" in result.stderr
    assert "s3cret" not in result.output


def test_permission_denied_is_not_authorised(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """A token of another kind ends with 5 as well."""
    coordinator.replies["GetVersion"] = (grpc.StatusCode.PERMISSION_DENIED, "a join token")
    assert tidectl("version").exit_code == 5


def test_unreachable_names_the_address_and_what_to_do(tidectl: Tidectl) -> None:
    """Exit code 4; the address, the flag and the variable are all named."""
    result = CliRunner().invoke(app, ["--address", "127.0.0.1:1", "version"])
    assert result.exit_code == 4
    for part in ("127.0.0.1:1", "Connection refused", "--address", "TIDEGATE_ADDRESS"):
        assert part in result.stderr


def test_a_late_answer_is_unreachable(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """A deadline that passes ends with 4 and names the flag that raises it."""
    coordinator.replies["GetVersion"] = (grpc.StatusCode.DEADLINE_EXCEEDED, "")
    result = tidectl("--timeout", "250ms", "version")
    assert result.exit_code == 4
    assert "within 250ms; raise --timeout" in result.stderr


def test_invalid_argument_puts_each_problem_on_a_line(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Every key's problem has a line of its own; exit code 1."""
    details = "sla.floor: should be at most 1\nwindow.slot: missing"
    coordinator.replies["GetVersion"] = (grpc.StatusCode.INVALID_ARGUMENT, details)
    result = tidectl("version")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [f"  {line}" for line in details.splitlines()]


@pytest.mark.parametrize(
    "status", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED]
)
def test_other_refusals_end_with_one(
    tidectl: Tidectl, coordinator: FakeCoordinator, status: grpc.StatusCode
) -> None:
    """Whatever else the coordinator says is passed on in one line."""
    coordinator.replies["GetVersion"] = (status, "no device 'x'")
    result = tidectl("version")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "tidectl: refused: no device 'x'"


def test_an_older_coordinator_is_recognised(tidectl: Tidectl, coordinator: FakeCoordinator) -> None:
    """A method that the coordinator does not know points at the versions."""
    coordinator.replies["GetVersion"] = (grpc.StatusCode.UNIMPLEMENTED, "")
    result = tidectl("version")
    assert result.exit_code == 1
    assert "tidectl version" in result.stderr


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:99999", "[::1:7481"])
def test_a_malformed_address_is_wrong_usage(tidectl: Tidectl, address: str) -> None:
    """An address without a port is refused before anything is tried."""
    result = CliRunner().invoke(app, ["--address", address, "version"])
    assert result.exit_code == 2
    assert "--address" in result.stderr


def test_a_duration_without_unit_is_wrong_usage(tidectl: Tidectl) -> None:
    """`--timeout 10` is ambiguous and refused."""
    assert tidectl("--timeout", "10", "version").exit_code == 2


def test_beyond_loopback_nothing_is_sent_in_the_clear(
    tidectl: Tidectl, coordinator: FakeCoordinator
) -> None:
    """Another host is talked to over TLS only, so a plain server is never handed the token."""
    port = tidectl.address.rpartition(":")[2]
    args = ["--address", f"0.0.0.0:{port}", "--timeout", "2s", "version"]
    result = CliRunner().invoke(app, args, env={"TIDEGATE_ADMIN_TOKEN": "s3cret"})
    assert result.exit_code == 4
    assert "uses TLS" in result.stderr
    assert coordinator.calls == []


def test_a_ca_file_turns_tls_on_for_loopback(
    tidectl: Tidectl, coordinator: FakeCoordinator, tmp_path: Path
) -> None:
    """With a ca file even this machine is talked to over TLS."""
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    result = tidectl("--ca-file", str(file), "--timeout", "2s", "version")
    assert result.exit_code == 4
    assert coordinator.calls == []


def test_help_documents_the_exit_codes(tidectl: Tidectl) -> None:
    """`--help` lists what each exit status means."""
    result = tidectl("--help")
    assert result.exit_code == 0
    for part in ("Exit codes", "3: diff found differences", "5: not authorised"):
        assert part in result.stdout


def test_completion_can_be_installed(tidectl: Tidectl) -> None:
    """Shell completion is on."""
    assert "--install-completion" in tidectl("--help").stdout


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["status", "--format", "json"], ["--format", "json", "status"]),
        (["status", "--format=json", "-h"], ["--format=json", "status", "-h"]),
        (["diff", "-f", "x", "--timeout", "1s"], ["--timeout", "1s", "diff", "-f", "x"]),
        (["budget", "set", "--", "--format"], ["budget", "set", "--", "--format"]),
        (["status", "--format"], ["--format", "status"]),
        ([], []),
    ],
)
def test_global_options_may_follow_the_command(args: list[str], expected: list[str]) -> None:
    """They are moved to the front; what follows a double dash is left alone."""
    assert hoisted(args) == expected


def test_every_global_option_can_be_moved() -> None:
    """A new global option has to be known to the mover; no command has one of that name."""
    root = typer.main.get_command(app)
    own = {option for parameter in root.params for option in parameter.opts}
    assert own - {"--install-completion", "--show-completion"} == GLOBAL_OPTIONS
