"""Tests of the demo's stream of requests and its configuration files."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest

from coordinator import config as coordinator_config
from coordinator.fleet_config import parse_fleet
from deploy.demo.configs import agent_toml, coordinator_toml, fleet_toml, write_all
from deploy.demo.models.tasks import TASK_CLASSES, held_out
from deploy.demo.settings import (
    ARMS,
    CLOUD_ARM,
    CLOUD_KEY_VARIABLE,
    CLOUD_VENV_VARIABLE,
    DEVICES,
    MAX_TOKENS,
    ROOT,
    DemoSettings,
    cloud_python,
)
from deploy.demo.stream import demand_rate, draw_stream, read_stream, write_stream
from edge_agent import config as agent_config
from shared.decision.money import WorstCase, worst_case_nanos


def settings_with(folder: Path, **changes: int) -> DemoSettings:
    """The demo's settings with all its files in a folder."""
    return DemoSettings(
        state=folder,
        report=folder / "report.json",
        picture=folder / "run.png",
        cloud_python=folder / "python",
        **changes,  # type: ignore[arg-type]
    )


def test_the_same_seed_draws_the_same_stream(tmp_path: Path) -> None:
    """A stream can be replayed; another seed gives another one."""
    assert draw_stream(settings_with(tmp_path)) == draw_stream(settings_with(tmp_path))
    assert draw_stream(settings_with(tmp_path, seed=1)) != draw_stream(settings_with(tmp_path))


def test_the_stream_has_the_size_and_order_that_the_demo_needs(tmp_path: Path) -> None:
    """About 1,400 requests in order of time, on every device and of every class."""
    stream = draw_stream(settings_with(tmp_path))
    assert 1_200 <= len(stream) <= 1_600
    assert stream == sorted(stream, key=lambda item: item.at_s)
    assert list(range(len(stream))) == [item.index for item in stream]
    contexts = Counter((item.device, item.task_class) for item in stream)
    assert len(DEVICES) * len(TASK_CLASSES) == len(contexts)
    assert min(contexts.values()) >= 20


def test_every_prompt_is_held_out_from_training_and_unique(tmp_path: Path) -> None:
    """No answer of the demo can have been memorised, or be served from a cache."""
    stream = draw_stream(settings_with(tmp_path))
    assert all(held_out(item.task) for item in stream)
    assert len(stream) == len({item.prompt for item in stream})


def test_aborts_are_few_and_always_streamed(tmp_path: Path) -> None:
    """A client can only go away in the middle of a stream."""
    aborted = [item for item in draw_stream(settings_with(tmp_path)) if item.abort]
    assert 0 < len(aborted) < 60
    assert all(item.stream for item in aborted)


def test_demand_varies_around_its_mean() -> None:
    """The rate swings, never vanishes, and averages to what was asked for."""
    rates = [demand_rate(step / 10.0, drive_s=150.0, mean_per_s=10.0) for step in range(1_500)]
    assert 9.5 < sum(rates) / len(rates) < 10.5
    assert min(rates) > 3.0
    assert max(rates) > 1.6 * min(rates)


def test_a_stream_survives_its_file(tmp_path: Path) -> None:
    """What is written is what is read."""
    stream = draw_stream(settings_with(tmp_path, drive_s=20))
    write_stream(tmp_path / "stream.jsonl", stream)
    assert stream == read_stream(tmp_path / "stream.jsonl")


def test_the_fleet_file_is_accepted(tmp_path: Path) -> None:
    """The coordinator takes the fleet file as it is, with the demo's budget and times."""
    settings = settings_with(tmp_path)
    text = fleet_toml(settings, cloud_url="http://127.0.0.1:9/v1", anchor_unix_s=1_000)
    fleet = parse_fleet(text, now_unix_ms=2_000_000)
    assert settings.budget_nanos == fleet.budget.amount_nanos
    assert 1_000 * settings.window_s == fleet.window.length_ms
    assert 0 == settings.window_s % settings.slot_s
    assert set(ARMS) == set(fleet.arms)


def test_the_processes_take_their_files(tmp_path: Path) -> None:
    """The coordinator's and every agent's file can be loaded, with existing models."""
    texts = {"coordinator": coordinator_toml(port=7001, web_port=7002, state=tmp_path)}
    for name in DEVICES:
        texts[name] = agent_toml(
            name,
            port=7003,
            coordinator_port=7001,
            state=tmp_path / name,
            join_token=tmp_path / "token",
        )
    (tmp_path / "token").write_text("a-token")
    paths = write_all(tmp_path / "config", texts)
    assert 7_001 == coordinator_config.load(paths["coordinator"]).listen.port
    for name, device in DEVICES.items():
        config = agent_config.load(paths[name])
        assert list(device.local_arms) == [model.arm for model in config.models]
        assert () == agent_config.check(config)


def test_no_file_holds_the_provider_key(tmp_path: Path) -> None:
    """The fleet file names the variable that holds the key, never the key."""
    text = fleet_toml(settings_with(tmp_path), cloud_url="http://127.0.0.1:9", anchor_unix_s=0)
    assert f"env:{CLOUD_KEY_VARIABLE}" == tomllib.loads(text)["arms"][CLOUD_ARM]["api_key"]


def test_the_budget_is_many_worst_cases(tmp_path: Path) -> None:
    """Leases of a few worst cases are small parts of the budget."""
    settings = settings_with(tmp_path)
    worst = worst_case_nanos(
        settings.prices.price,
        bound=WorstCase(message_overhead_tokens=4, request_overhead_tokens=8),
        body_bytes=200,
        messages=1,
        n=1,
        max_tokens=MAX_TOKENS,
    )
    assert settings.budget_nanos > 100 * worst


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("", ROOT / ".venv-cloud" / "bin" / "python"),
        ("elsewhere", ROOT / "elsewhere" / "bin" / "python"),
        ("/opt/cloud", Path("/opt/cloud/bin/python")),
    ],
)
def test_the_cloud_environment_can_be_named(
    variable: str, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the environment, and over it by the command line."""
    monkeypatch.setenv(CLOUD_VENV_VARIABLE, variable)
    assert expected == cloud_python(None)
    assert Path("/mine") == cloud_python(Path("/mine"))
