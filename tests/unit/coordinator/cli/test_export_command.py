"""`tidectl export` against a coordinator with prepared replies."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import grpc

from coordinator.cli.session import ExitCode
from shared.pb.v1 import admin_pb2
from tests.unit.coordinator.cli.conftest import FakeCoordinator, Tidectl, lines

DAY = 24 * 3_600_000
PAGES = [
    admin_pb2.SpendPage(
        lines=[
            admin_pb2.SpendLine(day_unix_ms=0, unconfirmed_nanos=5_000_000_000),
            admin_pb2.SpendLine(day_unix_ms=0, arm="large", tag="shop/ä", settled_nanos=1),
        ]
    ),
    admin_pb2.SpendPage(
        lines=[admin_pb2.SpendLine(day_unix_ms=DAY, arm="large", settled_nanos=-2_500_000_000)]
    ),
]


def test_spend_is_csv_with_exact_amounts(coordinator: FakeCoordinator, tidectl: Tidectl) -> None:
    """To the last nano-dollar, a day after the other."""
    coordinator.replies["ExportSpend"] = list(PAGES)
    result = tidectl("export")
    assert ExitCode.OK == result.exit_code
    assert [
        "day,arm,tag,settled_usd,unconfirmed_usd",
        "1970-01-01,,,0.000000000,5.000000000",
        "1970-01-01,large,shop/ä,0.000000001,0.000000000",
        "1970-01-02,large,,-2.500000000,0.000000000",
    ] == lines(result)


def test_json_says_the_same(coordinator: FakeCoordinator, tidectl: Tidectl, tmp_path: Path) -> None:
    """As a list, into a file; without any spend an empty one."""
    coordinator.replies["ExportSpend"] = list(PAGES)
    to_csv, to_json = tmp_path / "spend.csv", tmp_path / "spend.json"
    assert ExitCode.OK == tidectl("export", "--out", str(to_csv)).exit_code
    assert ExitCode.OK == tidectl.json("export", "-o", str(to_json)).exit_code
    with to_csv.open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == json.loads(to_json.read_text(encoding="utf-8"))
    coordinator.replies["ExportSpend"] = []
    assert [] == json.loads(tidectl.json("export").stdout)


def test_days_are_named_in_utc(coordinator: FakeCoordinator, tidectl: Tidectl) -> None:
    """From the first one to before the last one; an empty span is refused."""
    coordinator.replies["ExportSpend"] = []
    tidectl("export", "--since", "1970-01-02", "--until", "1970-01-03")
    asked = coordinator.asked("ExportSpend")
    assert (DAY, 2 * DAY) == (asked.from_unix_ms, asked.until_unix_ms)
    refused = tidectl("export", "--since", "1970-01-02", "--until", "1970-01-02")
    assert ExitCode.USAGE == refused.exit_code
    assert "should be after --since" in refused.stderr


def test_a_broken_export_leaves_no_file(
    coordinator: FakeCoordinator, tidectl: Tidectl, tmp_path: Path
) -> None:
    """Half of the money is worse than none; what was there before stays."""
    out = tmp_path / "spend.csv"
    out.write_text("before")
    coordinator.replies["ExportSpend"] = [PAGES[0], (grpc.StatusCode.INTERNAL, "lost")]
    assert ExitCode.REFUSED == tidectl("export", "--out", str(out)).exit_code
    assert ([out], "before") == (list(tmp_path.iterdir()), out.read_text())
    nowhere = tidectl("export", "--out", str(tmp_path / "none" / "spend.csv"))
    assert ExitCode.USAGE == nowhere.exit_code
    assert "cannot write" in nowhere.stderr
