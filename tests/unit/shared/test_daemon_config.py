"""What both daemons' configuration files have in common."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from shared.daemon_config import TlsConfig


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two certificates and their keys."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: it makes the certificates of this test")
    new = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for name in ("one", "other"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"]
        subprocess.run(["openssl", "req", *new, *files], cwd=tmp_path, check=True, timeout=60)
    return tmp_path


def problems(folder: Path, certificate: str, key: str) -> dict[str, str]:
    """What is wrong with these two files."""
    return dict(
        TlsConfig(cert_file=str(folder / certificate), key_file=str(folder / key)).problems()
    )


def test_a_certificate_and_its_key_are_tried_together(keys: Path) -> None:
    """As the start will: another's key, and a key where the certificate should be."""
    assert {} == problems(keys, "one.pem", "one.key")
    assert "other.key" in problems(keys, "one.pem", "other.key")["tls.cert_file"]
    assert "must be PEM files" in problems(keys, "one.key", "one.key")["tls.cert_file"]
    assert ["tls.key_file"] == list(problems(keys, "one.pem", "none.key"))
    assert [] == TlsConfig().problems()
