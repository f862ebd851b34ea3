"""What the lab's commands share: folders, files, tables, work in several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from coordinator.lab.output import (
    Format,
    make_folder,
    make_table,
    percent,
    run_jobs,
    show,
    write_csv,
)
from coordinator.lab.paper_workload import load_scenario
from coordinator.lab.plots import Panel, Series, save_panels
from shared.errors import ConfigError, TidegateError
from tests.unit.coordinator.lab.job_cases import interrupt_the_parent

TABLE = make_table("t", columns=("name", "share"), rows=[("a", 0.5)])


def test_json_alone_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """So that the output can be piped."""
    show({"a": 0.5}, format_=Format.JSON, table=TABLE)
    assert json.loads(capsys.readouterr().out) == {"a": 0.5}


def test_a_figure_that_is_no_number_is_never_printed_as_json() -> None:
    """NaN is no JSON, and means that a measurement failed."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        show({"a": float("nan")}, format_=Format.JSON, table=TABLE)


def test_a_table_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures as they were given."""
    show({}, format_=Format.TABLE, table=TABLE)
    printed = capsys.readouterr().out
    assert "share" in printed
    assert "0.5" in printed
    assert percent(0.0123) == "1.23 %"


def test_the_folder_is_made_before_the_work_or_named(tmp_path: Path) -> None:
    """With its parents; a file in its place is an error at once."""
    folder = make_folder(tmp_path / "a" / "b")
    assert folder is not None
    assert folder.is_dir()
    assert make_folder(None) is None
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--out: .*file cannot be made"):
        make_folder(tmp_path / "file")


def test_a_csv_file_has_a_header_and_quotes_what_needs_it(tmp_path: Path) -> None:
    """One line per row."""
    write_csv(tmp_path / "x.csv", columns=["a", "b"], rows=[[1, "x,y"], [2, ""]])
    assert (tmp_path / "x.csv").read_text() == 'a,b\n1,"x,y"\n2,\n'
    with pytest.raises(ConfigError, match="cannot be written"):
        write_csv(tmp_path / "none" / "x.csv", columns=["a"], rows=[])


def test_panels_become_a_picture_with_logarithms_bands_and_markers(tmp_path: Path) -> None:
    """Or an error that names the file."""
    x = np.array([1.0, 2.0, 4.0])
    series = [
        Series(name="plain", x=x, y=x),
        Series(name="band", x=x, y=2.0 * x, low=x, high=3.0 * x, marker="o"),
    ]
    panel = Panel(title="p", x_label="x", y_label="y", series=series, x_log=True, y_log=True)
    save_panels(tmp_path / "p.png", panels=[panel, panel], title="both")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_panels(tmp_path / "none" / "p.png", panels=[panel])


def test_work_keeps_the_order_of_its_tasks() -> None:
    """The results stand where their tasks stood."""
    assert [3, 1, 2] == run_jobs(len, tasks=["abc", "a", "ab"], jobs=1, description="lengths")


def test_an_interrupt_ends_the_work_of_all_processes() -> None:
    """At once, however long their work would take."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at the start of a process
    before = set(multiprocessing.active_children())
    tasks = [os.getpid(), 0]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(interrupt_the_parent, tasks=tasks, jobs=2, description="for ever")
    assert before == set(multiprocessing.active_children())


def test_an_error_in_another_process_arrives_as_an_error_of_ours() -> None:
    """Its text intact, although the exception itself could not be sent."""
    with pytest.raises(TidegateError, match=r"paper-[xy] is neither paper-iid"):
        run_jobs(load_scenario, tasks=["paper-x", "paper-y"], jobs=2, description="scenarios")
