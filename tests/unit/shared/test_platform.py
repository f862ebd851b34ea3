"""Where Tidegate runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_windows_is_refused_in_a_sentence() -> None:
    """Not by a stack that ends in a module that Windows lacks."""
    code = "import sys; sys.platform = 'win32'; import shared.limits"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert (1, "Tidegate runs on Linux and macOS; on Windows use WSL 2\n") == (
        done.returncode,
        done.stderr,
    )
