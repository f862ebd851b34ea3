"""When an environment is made anew, and what a build of llama.cpp is told of the processor."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy.dev import bootstrap
from deploy.dev.bootstrap import Profile, prepare, without_amx

TILES = "flags\t\t: fma avx2 avx_vnni avx512f avx512_bf16 amx_tile amx_int8"


def test_matrix_tiles_are_left_out_of_a_build() -> None:
    """Everything else that the processor has is built for by name."""
    wanted = ["GGML_AVX_VNNI", "GGML_AVX512", "GGML_AVX512_BF16"]
    assert ["-DGGML_NATIVE=OFF", *(f"-D{name}=ON" for name in wanted)] == without_amx(TILES)


def test_a_processor_without_them_is_built_for_as_it_is() -> None:
    """The compiler knows it best."""
    assert [] == without_amx("flags\t\t: fma avx2")
    assert [] == without_amx("Features\t: fp asimd")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkout, two of whose profiles can be installed."""
    root = tmp_path / "checkout"
    for package in bootstrap.PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    for name in ("pyproject.toml", "constraints.txt", "bootstrap.py"):
        (root / name).touch()
    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(bootstrap, "__file__", str(root / "bootstrap.py"))
    for name in ("edge", "coordinator"):
        profile = Profile(extras=f"[{name}]", constraints=root / "constraints.txt", llama=False)
        monkeypatch.setitem(bootstrap.PROFILES, name, profile)
    return root


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip was asked to install: the extras, and the files that it found."""
    done: list[str] = []

    def run(command: Sequence[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        if "pip" in command:
            source, _, extras = command[-1].partition("[")
            files = sorted(each.name for each in Path(source).glob("shared/*"))
            done.append(f"{extras.rstrip(']')}: {' '.join(files)}")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return done


def test_one_environment_may_have_both_tiers(
    checkout: Path, installed: list[str], tmp_path: Path
) -> None:
    """Each is installed when it is asked for, and not again for nothing."""
    for name in ("coordinator", "edge", "coordinator", "edge"):
        prepare(name, tmp_path / "venv")
    assert ["coordinator: __init__.py", "edge: __init__.py"] == installed


def test_changed_sources_are_installed_from_a_copy(
    checkout: Path, installed: list[str], tmp_path: Path
) -> None:
    """Into whatever shares the environment too; what Python compiled is no source."""
    prepare("coordinator", tmp_path / "venv")
    prepare("edge", tmp_path / "venv")
    (checkout / "shared" / "__pycache__").mkdir()
    (checkout / "shared" / "__pycache__" / "new.pyc").touch()
    prepare("edge", tmp_path / "venv")
    assert 2 == len(installed)
    (checkout / "shared" / "new.py").touch()
    prepare("edge", tmp_path / "venv")
    prepare("coordinator", tmp_path / "venv")
    assert ["edge: __init__.py new.py", "coordinator: __init__.py new.py"] == installed[2:]
    assert {"__pycache__", "__init__.py", "new.py"} == {
        each.name for each in (checkout / "shared").iterdir()
    }
