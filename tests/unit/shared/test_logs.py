"""What the logs hold, and what they must not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from shared import logs


@pytest.fixture
def _as_before() -> Iterator[None]:
    """Leave logging as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_traceback_holds_no_values(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is at hand where something fails is prompts and keys."""
    prompt = "".join(["my", "-private-", "prompt"])
    logs.configure(format_=format_, level="info")
    try:
        raise ZeroDivisionError(f"with {len(prompt)} characters")
    except ZeroDivisionError as error:
        structlog.get_logger().error("request_failed", exc_info=error)
    written = capsys.readouterr().err
    assert "with 17 characters" in written
    assert "test_a_traceback_holds_no_values" in written, "it says where"
    assert "my-private-prompt" not in written
