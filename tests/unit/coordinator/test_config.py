"""The coordinator's own configuration: sources, errors, TLS, secrets by reference."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig, check, config_schema, load
from shared.errors import ConfigError
from shared.settings import ConfigProblems
from shared.units import Address

EXAMPLE = Path("coordinator/config.example.toml")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def write(folder: Path, toml: str) -> Path:
    """A configuration file."""
    file = folder / "coordinator.toml"
    file.write_text(toml, encoding="utf-8")
    return file


def problems(path: Path | None, **overrides: object) -> dict[str, str]:
    """What is wrong, by key."""
    with pytest.raises(ConfigProblems) as caught:
        load(path, overrides)
    return dict(caught.value.problems)


def test_the_defaults_stay_on_this_machine() -> None:
    """Without a file everything listens on loopback."""
    config = load()
    assert config.listen == Address("127.0.0.1", 7481)
    assert config.web_listen == Address("127.0.0.1", 7482)
    assert config.database_url == "sqlite:///tidegate.db"
    assert config.drain == timedelta(seconds=10)


def test_the_example_says_what_holds_anyway() -> None:
    """The commented example parses and its values are the defaults, as it claims."""
    assert load(EXAMPLE).model_dump() == load().model_dump()


def test_the_environment_goes_over_the_file_and_flags_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each source wins over the one below, key by key, also inside a table."""
    file = write(tmp_path, 'drain = "1s"\nstate_dir = "f"\n[log]\nlevel = "debug"\nformat="json"')
    monkeypatch.setenv("TIDEGATE_COORDINATOR_DRAIN", "2s")
    monkeypatch.setenv("TIDEGATE_COORDINATOR_LOG__LEVEL", "error")
    monkeypatch.setenv("TIDEGATE_COORDINATOR_STATE_DIR", "e")
    config = load(file, {"state_dir": "flag", "log": {"format": "console"}})
    assert config.drain == timedelta(seconds=2)
    assert (config.log.level, config.log.format) == ("error", "console")
    assert config.state_dir == Path("flag")


def test_variables_that_a_platform_adds_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Container platforms set TIDEGATE_COORDINATOR_PORT for a service of that name."""
    monkeypatch.setenv("TIDEGATE_COORDINATOR_PORT", "tcp://10.0.0.1:7481")
    monkeypatch.setenv("TIDEGATE_COORDINATOR_SERVICE_HOST", "10.0.0.1")
    assert load().listen.port == 7481


@pytest.mark.parametrize(
    ("toml", "key", "says"),
    [
        ('listn = "x"', "listn", "did you mean 'listen'"),
        ('[log]\nlevl = "x"', "log.levl", "did you mean 'level'"),
        ('[log]\nlevel = "loud"', "log.level", "'debug', 'info'"),
        ("log = 3", "log", "table"),
        ('listen = "7481"', "listen", "host and port"),
        ('listen = "127.0.0.1:70000"', "listen", "host and port"),
        ('listen = "0.0.0.0:7481"', "listen", "tls.cert_file"),
        ('web_listen = "[::]:7482"', "web_listen", "tls.cert_file"),
        ('[tls]\ncert_file = "c.pem"', "tls.key_file", "both"),
        ('[tls]\nkey_file = "c.pem"', "tls.cert_file", "both"),
        ("drain = 10", "drain", "unit"),
        ('[keepalive]\ninterval = "soon"', "keepalive.interval", "unit"),
        ('database_url = "mysql://h/d"', "database_url", "postgresql://"),
        ('database_url = "env:"', "database_url", "reference"),
    ],
)
def test_a_mistake_names_its_key_and_the_file(
    tmp_path: Path, toml: str, key: str, says: str
) -> None:
    """The key, what would be right, and the file are in the message."""
    file = write(tmp_path, toml)
    found = problems(file)
    assert says in found[key]
    with pytest.raises(ConfigError, match=r"coordinator\.toml"):
        load(file)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    """One start shows all that is wrong."""
    file = write(tmp_path, 'listen = "x"\ndrain = 1\n[log]\nlevel = "x"')
    assert set(problems(file)) == {"listen", "drain", "log.level"}


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the environment is not looked for in the file."""
    monkeypatch.setenv("TIDEGATE_COORDINATOR_LOG__LEVEL", "loud")
    assert "TIDEGATE_COORDINATOR_LOG__LEVEL" in problems(EXAMPLE)["log.level"]


def test_a_wrong_flag_is_called_one() -> None:
    """Nor is a mistake on the command line."""
    assert "(from a flag)" in problems(EXAMPLE, listen="nowhere")["listen"]


def test_a_variable_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole table in one variable has to be JSON."""
    monkeypatch.setenv("TIDEGATE_COORDINATOR_LOG", "{level")
    assert "log" in problems(None)[""]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file and one that is no TOML are errors, never silently the defaults."""
    assert "cannot be read" in problems(tmp_path / "none.toml")[""]
    assert "not valid TOML" in problems(write(tmp_path, "[log"))[""]
    (tmp_path / "coordinator.toml").write_bytes("standby = true".encode("utf-16"))
    assert "save it as UTF-8" in problems(tmp_path / "coordinator.toml")[""]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    """Editors put it before a file, and nobody sees it."""
    path = write(tmp_path, "\ufeffstandby = true")
    assert load(path).standby


def test_off_loopback_works_with_a_certificate() -> None:
    """TLS is what makes other machines possible."""
    config = load(None, {"listen": "0.0.0.0:7481", "tls": {"cert_file": "c", "key_file": "k"}})
    assert not config.listen.is_loopback
    assert config.tls.enabled


@pytest.mark.parametrize(
    "url", ["postgresql://me:hush@db/tide", "postgresql+psycopg://db/tide?user=me&password=hush"]
)
def test_a_password_in_the_file_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    """It belongs into the environment or a file of its own."""
    with pytest.raises(ConfigProblems) as caught:
        load(write(tmp_path, f'database_url = "{url}"'))
    assert "env:NAME" in str(caught.value)
    assert "hush" not in f"{caught.value!s}{caught.value!r}{caught.value.__context__!r}"


def test_a_database_url_can_come_by_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a variable or a file; the configuration itself never holds the password."""
    monkeypatch.setenv("DATABASE", "postgresql://me:hush@db/tide")
    config = load(None, {"database_url": "env:DATABASE"})
    assert config.resolved_database_url() == "postgresql://me:hush@db/tide"
    assert "hush" not in repr(config)
    (tmp_path / "url").write_text("postgresql://db/x\n")
    config = load(None, {"database_url": f"file:{tmp_path / 'url'}"})
    assert config.resolved_database_url() == "postgresql://db/x"


def test_check_tells_what_this_machine_lacks(tmp_path: Path) -> None:
    """References that lead nowhere and certificates that cannot be read."""
    config = load(
        None,
        {
            "database_url": "env:NO_SUCH_DATABASE",
            "tls": {"cert_file": str(tmp_path / "c"), "key_file": str(tmp_path)},
        },
    )
    found = dict(check(config))
    assert set(found) == {"database_url", "tls.cert_file", "tls.key_file"}
    assert "NO_SUCH_DATABASE is not set" in found["database_url"]
    assert check(load()) == ()


def test_the_schema_describes_every_key() -> None:
    """It is JSON, knows all keys, and writes defaults as the file does."""
    schema = json.loads(json.dumps(config_schema()))
    assert set(schema["properties"]) == set(CoordinatorConfig.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["drain"]["default"] == "10s"
    assert schema["properties"]["listen"]["default"] == "127.0.0.1:7481"


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://hooks.example.com/t/1", True),
        ("http://127.0.0.1:9000", True),
        ("env:HOOK_URL", True),
        ("https://ann:secret@example.com/", False),
        ("ftp://example.com/", False),
        ("hooks.example.com", False),
    ],
)
def test_a_webhook_is_a_url_without_a_password_or_a_reference(url: str, good: bool) -> None:
    """What holds a secret belongs in a reference."""
    if good:
        assert url == load(None, {"alerts": {"webhook_url": url}}).alerts.webhook_url
    else:
        assert ["alerts.webhook_url"] == list(problems(None, alerts={"webhook_url": url}))


def test_the_webhooks_secrets_come_by_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret in the file is refused; a reference that leads nowhere is found by --check."""
    assert ["alerts.webhook_secret"] == list(problems(None, alerts={"webhook_secret": "hush"}))
    config = load(None, {"alerts": {"webhook_url": "env:HOOK", "webhook_secret": "env:HOOK_KEY"}})
    keys = {problem.key for problem in check(config)}
    assert {"alerts.webhook_url", "alerts.webhook_secret"} <= keys
    monkeypatch.setenv("HOOK", "https://hooks.example.com/t/1")
    monkeypatch.setenv("HOOK_KEY", "hush")
    assert ("https://hooks.example.com/t/1", "hush") == config.alerts.resolved()
    monkeypatch.setenv("HOOK", "nowhere")
    with pytest.raises(ConfigError, match="webhook_url"):
        config.alerts.resolved()


def test_provider_keys_need_tls_or_consent(tmp_path: Path) -> None:
    """Without TLS they would be sent in the clear; on loopback an operator may want that."""
    keys = '[provider_keys]\nopenai = "file:/run/key"\n'
    refused = problems(write(tmp_path, keys))
    assert "tls.cert_file" in refused["provider_keys"]
    config = load(write(tmp_path, f"provider_keys_in_plaintext = true\n{keys}"))
    assert {"openai": "file:/run/key"} == config.provider_keys
    tls = '[tls]\ncert_file = "c.pem"\nkey_file = "k.pem"\n'
    assert not load(write(tmp_path, keys + tls)).provider_keys_in_plaintext


def test_provider_keys_are_references_with_names(tmp_path: Path) -> None:
    """A literal key is refused without being repeated; `--check` looks behind each reference."""
    head = "provider_keys_in_plaintext = true\n[provider_keys]\n"
    with pytest.raises(ConfigProblems) as caught:
        load(write(tmp_path, f'{head}openai = "sk-verysecret"\n'))
    assert "verysecret" not in f"{caught.value!s}{caught.value!r}"
    assert "provider_keys" in next(iter(dict(caught.value.problems)))
    with pytest.raises(ConfigProblems, match="should be up to 64 of a-z"):
        load(write(tmp_path, f'{head}"Open AI" = "env:KEY"\n'))
    config = load(write(tmp_path, f'{head}openai = "env:NO_SUCH_KEY"\n'))
    assert ["provider_keys.openai"] == [key for key, _ in check(config)]
