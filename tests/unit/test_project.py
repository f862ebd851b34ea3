"""Tests of the project itself: generated code, pinned packages, commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from shared.version import SOFTWARE_VERSION

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("edge", "coordinator", "lab", "dev")
COMMANDS = ("tidectl", "tidegate-agent", "tidegate-coordinator", "tidegate-lab")
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+")


def _pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert [] == [line for line in lines if not PIN.fullmatch(line)]
    return {
        canonicalize_name(name): release
        for name, release in (line.split("==", maxsplit=1) for line in lines)
    }


def _needed(root: str, extras: Iterable[str]) -> set[str]:
    """Names of all that the extras of `root` need on this machine, however indirectly."""
    seen: set[tuple[str, str]] = set()
    pending = [(canonicalize_name(root), extra) for extra in ("", *extras)]
    while pending:
        name, extra = pending.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                pending += [(child, child_extra) for child_extra in ("", *requirement.extras)]
    return {name for name, _ in seen} - {canonicalize_name(root)}


def test_generated_protobuf_code_is_fresh(tmp_path: Path) -> None:
    """The committed protobuf code is what `make proto` makes of the committed .proto files."""
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}"]
    command += [f"--{plugin}_out={tmp_path}" for plugin in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, *map(str, protos)], check=True)

    generated = {
        path.relative_to(tmp_path): path.read_text()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    committed = {
        path.relative_to(ROOT): path.read_text()
        for path in (ROOT / "shared" / "pb").rglob("*_pb2*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    assert protos
    assert sorted(generated) == sorted(committed)
    assert [] == [str(path) for path in generated if generated[path] != committed[path]]


def test_every_package_that_an_extra_needs_is_pinned() -> None:
    """constraints.txt names one release of each package that any extra brings in."""
    pins = _pins(ROOT / "constraints.txt")
    needed = _needed("tidegate", EXTRAS)
    assert {"grpcio", "scipy", "onnxruntime", "matplotlib", "pytest"} <= needed
    assert set() == needed - pins.keys()


def test_no_pin_is_left_over() -> None:
    """constraints.txt names nothing that no extra needs."""
    assert set() == _pins(ROOT / "constraints.txt").keys() - _needed("tidegate", EXTRAS)


def test_the_third_party_server_runs_the_same_llama_cpp() -> None:
    """The demo's cloud and the agent share one llama.cpp release, so it is compiled once."""
    ours = _pins(ROOT / "constraints.txt")
    clouds = _pins(ROOT / "deploy" / "demo" / "cloud-constraints.txt")
    assert ours["llama-cpp-python"] == clouds["llama-cpp-python"]


def test_every_client_of_the_compatibility_suite_is_pinned() -> None:
    """To one release each, so that a new one cannot break the suite by itself."""
    compat = ROOT / "tests" / "compat"
    assert {"langchain-openai", "litellm", "openai"} <= _pins(compat / "constraints.txt").keys()
    packages = json.loads((compat / "package.json").read_text())["dependencies"]
    assert ["openai"] == [name for name, wanted in packages.items() if wanted[0].isdigit()]


def test_a_device_stays_light() -> None:
    """The device's installation brings nothing of the coordinator, the lab or development."""
    heavy = {"alembic", "grpcio-tools", "matplotlib", "psycopg", "pytest", "scipy", "sqlalchemy"}
    assert set() == heavy & _needed("tidegate", ["edge"])


def test_every_command_is_declared() -> None:
    """The project installs exactly the documented commands."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(COMMANDS) == project["scripts"].keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_loaded(command: str) -> None:
    """Each installed command leads to something that can be called."""
    (entry_point,) = entry_points(group="console_scripts", name=command)
    assert callable(entry_point.load())


def test_the_installed_version_is_the_one_that_peers_are_told() -> None:
    """The package's version is the software version of the wire protocol's hello."""
    assert version("tidegate") == SOFTWARE_VERSION
