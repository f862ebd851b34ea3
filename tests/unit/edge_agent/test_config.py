"""The agent's configuration: models, the coordinator's address, who may ask."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import AgentConfig, ModelConfig, check, config_schema, load
from edge_agent.ports import LocalModel
from shared.decision.key_budget import KeyBudget
from shared.settings import ConfigProblems
from shared.units import Address

EXAMPLE = Path("edge_agent/config.example.toml")
KEY = {"key": "env:K", "tag": "shop"}
TLS = {"cert_file": "c.pem", "key_file": "k.pem"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def problems(**overrides: object) -> dict[str, str]:
    """What is wrong, by key."""
    with pytest.raises(ConfigProblems) as caught:
        load(None, overrides)
    return dict(caught.value.problems)


def test_the_defaults_stay_on_this_machine() -> None:
    """Loopback, no coordinator, no models, and a name that fits a metric's label."""
    config = load()
    assert config.listen == Address("127.0.0.1", 7480)
    assert config.coordinator.address is None
    assert config.models == ()
    assert load(None, {"name": config.name}).name == config.name


def test_the_example_is_valid_and_shows_every_key() -> None:
    """The commented example parses, and no key is left undocumented."""
    config, text = load(EXAMPLE), EXAMPLE.read_text(encoding="utf-8")
    assert config.coordinator.address == Address("127.0.0.1", 7481)
    assert config.worker.memory_bytes_max == 3 * 2**30
    assert [model.arm for model in config.models] == ["qwen-0.5b", "qwen-1.5b"]
    for table in config_schema()["$defs"].values():
        for key in table["properties"]:
            assert f"{key} = " in text or re.search(rf"^\[[a-z.]*{key}\]", text, re.MULTILINE), key


def test_a_model_has_the_fields_of_the_worker(tmp_path: Path) -> None:
    """A table of the file becomes a `LocalModel` as it is, with the same defaults."""
    fields = {field.name for field in dataclasses.fields(LocalModel)}
    origin = {"source", "sha256"}
    assert set(ModelConfig.model_fields) == fields | origin
    (model,) = load(None, {"models": [{"arm": "tiny", "path": "tiny.gguf"}]}).placed_models
    given = model.model_dump(exclude=origin)
    assert LocalModel(**given) == LocalModel(arm="tiny", path="tiny.gguf")


def test_a_model_with_a_source_alone_lies_in_the_library() -> None:
    """By the name of its file there; a path of its own goes over that."""
    hub = "hf://owner/repo@v1/sub/tiny.gguf"
    models = [{"arm": "a", "source": hub}, {"arm": "b", "source": hub, "path": "/m/b.gguf"}]
    config = load(None, {"models": models, "state_dir": "/s"})
    assert ["/s/models/tiny.gguf", "/m/b.gguf"] == [m.path for m in config.placed_models]
    config = load(None, {"models": models, "library": {"folder": "/lib"}})
    assert "/lib/tiny.gguf" == config.placed_models[0].path


def test_models_come_from_the_file(tmp_path: Path) -> None:
    """Each table is a model."""
    file = tmp_path / "agent.toml"
    file.write_text('[[models]]\narm = "a"\npath = "a.gguf"\n[[models]]\narm = "b"\npath = "b"\n')
    assert [model.arm for model in load(file).models] == ["a", "b"]


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        ({"listen": "0.0.0.0:7480"}, "listen", "[[keys]]"),
        ({"listen": "0.0.0.0:7480", "tls": TLS}, "listen", "[[keys]]"),
        ({"listen": "0.0.0.0:7480", "keys": [KEY]}, "listen", "tls.cert_file"),
        ({"keys": [{"key": "env:K"}]}, "keys[0].tag", "missing"),
        ({"keys": [KEY, {"key": "env:L", "tag": "shop"}]}, "keys", "'shop'"),
        ({"keys": [{**KEY, "budget_usd": 2.5}]}, "keys[0].budget_usd", "in quotes"),
        ({"keys": [{**KEY, "budget_usd": "-1"}]}, "keys[0].budget_usd", "from 0"),
        ({"keys": [{**KEY, "budget_window": "5s"}]}, "keys[0].budget_window", "10 s"),
        ({"models": [{"arm": "a"}]}, "models[0].path", "missing"),
        ({"models": [{"arm": "a", "source": "hf://tiny.gguf"}]}, "models[0].source", "hf://OWNER"),
        (
            {"models": [{"arm": "a", "source": "http://example.com/a.gguf"}]},
            "models[0].source",
            "https://",
        ),
        ({"models": [{"arm": "a", "path": "x", "sha256": "ab"}]}, "models[0].sha256", "64"),
        ({"models": [{"arm": "A b", "path": "x"}]}, "models[0].arm", "a-z"),
        (
            {"models": [{"arm": "a", "path": "x", "thread": 1}]},
            "models[0].thread",
            "did you mean 'threads'",
        ),
        ({"models": [{"arm": "a", "path": "x"}] * 2}, "models", "'a'"),
        ({"worker": {"memory_bytes_max": "lots"}}, "worker.memory_bytes_max", "512MiB"),
        ({"worker": {"hang_timeout": 60}}, "worker.hang_timeout", "unit"),
        ({"coordinator": {"address": "host"}}, "coordinator.address", "host and port"),
        ({"coordinator": {"join_token": "s3cret"}}, "coordinator.join_token", "reference"),
        ({"name": "Küche"}, "name", "a-z"),
        ({"modles": []}, "modles", "did you mean 'models'"),
    ],
)
def test_a_mistake_is_named_by_its_key(overrides: dict[str, Any], key: str, says: str) -> None:
    """The key, and what would be right."""
    assert says in problems(**overrides)[key]


def test_off_loopback_works_with_tls_and_keys() -> None:
    """Both are needed before other machines may ask."""
    config = load(None, {"listen": "[::]:7480", "tls": TLS, "keys": [KEY]})
    assert [("env:K", "shop", None)] == [(k.key, k.tag, k.budget) for k in config.keys]


def test_a_key_may_have_a_budget_for_a_day_or_another_window() -> None:
    """In exact nano-dollars; the window is a day unless it says otherwise."""
    crawler = {**KEY, "tag": "crawler", "budget_usd": 1, "budget_window": "1h"}
    keys = [{**KEY, "budget_usd": "2.50"}, crawler]
    budgets = [key.budget for key in load(None, {"keys": keys}).keys]
    expected = KeyBudget("shop", 2_500_000_000, 86_400_000), KeyBudget("crawler", 10**9, 3_600_000)
    assert list(expected) == budgets


def test_a_literal_api_key_is_refused_without_repeating_it() -> None:
    """References only."""
    with pytest.raises(ConfigProblems) as caught:
        load(None, {"keys": [KEY, {"key": "sk-verysecret", "tag": "other"}]})
    assert dict(caught.value.problems).keys() == {"keys[1].key"}
    assert "verysecret" not in f"{caught.value!s}{caught.value!r}{caught.value.__context__!r}"


@pytest.mark.parametrize(
    ("link", "plaintext"),
    [
        ({}, False),
        ({"address": "127.0.0.1:7481"}, True),
        ({"address": "localhost:7481"}, True),
        ({"address": "127.0.0.1:7481", "ca_file": "ca.pem"}, False),
        ({"address": "coordinator:7481"}, False),
    ],
)
def test_the_link_is_plain_only_on_this_machine(link: dict[str, str], plaintext: bool) -> None:
    """Every other machine is talked to over TLS."""
    assert load(None, {"coordinator": link}).coordinator.plaintext is plaintext


def test_lists_and_tables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists as JSON, nested keys with two underscores."""
    monkeypatch.setenv("TIDEGATE_AGENT_KEYS", '[{"key": "env:A", "tag": "a"}]')
    monkeypatch.setenv("TIDEGATE_AGENT_COORDINATOR__ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("TIDEGATE_AGENT_WORKER__HANG_TIMEOUT", "2m")
    monkeypatch.setenv("TIDEGATE_AGENT_WORKER__MEMORY_BYTES_MAX", "512MiB")
    config = load()
    assert [("env:A", "a")] == [(key.key, key.tag) for key in config.keys]
    assert config.coordinator.address == Address("127.0.0.1", 9)
    assert config.worker.hang_timeout == timedelta(minutes=2)
    assert config.worker.memory_bytes_max == 512 * 2**20


def test_check_tells_what_this_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets, model files and certificates, each by its key; what is there is no problem."""
    (tmp_path / "here.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("A_KEY", "k")
    config = load(
        None,
        {
            "keys": [
                {"key": "env:A_KEY", "tag": "here"},
                {"key": "env:NO_SUCH_KEY", "tag": "gone"},
            ],
            "coordinator": {"join_token": f"file:{tmp_path / 'none'}"},
            "models": [
                {"arm": "here", "path": str(tmp_path / "here.gguf")},
                {"arm": "gone", "path": str(tmp_path / "gone.gguf")},
            ],
        },
    )
    assert {key for key, _ in check(config)} == {
        "keys[1].key",
        "coordinator.join_token",
        "models[1].path",
    }


def test_check_wants_a_folder_that_the_agent_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one that it can make; what is in the way is named."""
    (tmp_path / "file").touch()

    def problem(folder: Path) -> str:
        found = check(load(None, {"state_dir": str(folder)}))
        assert all("state_dir" == key for key, _ in found)
        return found[0].problem if found else ""

    assert "" == problem(tmp_path)
    assert "" == problem(tmp_path / "new" / "one")
    assert f"{tmp_path / 'file'} is no folder" in problem(tmp_path / "file" / "books")
    # Root may write anywhere, and tests may run as root.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert f"{tmp_path} cannot be written by this user" in problem(tmp_path)
    assert f"new is not there, and {tmp_path} cannot be written" in problem(tmp_path / "new")


def test_the_schema_describes_every_key() -> None:
    """It is JSON and knows all keys."""
    schema = json.loads(json.dumps(config_schema()))
    assert set(schema["properties"]) == set(AgentConfig.model_fields)
    assert schema["properties"]["drain"]["default"] == "30s"


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "ftp://x", ""])
def test_an_origin_is_named_as_browsers_name_it(origin: str) -> None:
    """Without a path, or no page would ever match it."""
    assert "should be an origin" in problems(cors_origins=[origin])["cors_origins[0]"]
    good = ("https://app.example:8443", "http://localhost:3000", "*")
    assert good == load(None, {"cors_origins": list(good)}).cors_origins


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("http://Host.Docker.Internal:7480", "http://host.docker.internal:7480"),
        ("HTTPS://App.example:443", "https://app.example"),
        ("http://edge:80", "http://edge"),
        ("http://edge:443", "http://edge:443"),
        ("https://edge:80", "https://edge:80"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_may_be_written_in_more_words_than_browsers_use(written: str, named: str) -> None:
    """They say it in lower case, and leave out the port that goes without saying."""
    assert (named,) == load(None, {"cors_origins": [written]}).cors_origins
