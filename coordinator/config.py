"""The coordinator's own configuration: where it listens and keeps its books, not the fleet's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from shared.daemon_config import LogConfig, Name, Section, TlsConfig
from shared.errors import ConfigError
from shared.settings import (
    Duration,
    FileSettings,
    ListenAddress,
    Problem,
    SecretRef,
    check_secret_ref,
    dotted_key,
    file_problem,
    folder_problem,
    key_error,
    load_settings,
    read_secret,
    schema_of,
    secret_problem,
)
from shared.units import Address

_REFERENCE = ("env:", "file:")


def _database_url(value: str) -> str:
    """A database's URL without a password in it, or a reference to a URL."""
    if value.startswith(_REFERENCE):
        return check_secret_ref(value)
    if not re.match(r"(sqlite|postgresql)(\+[a-z0-9_]+)?://", value):
        raise ValueError(
            'should begin with "sqlite:///" or "postgresql://", or be a reference, "env:NAME" or '
            '"file:PATH"'
        )
    if re.match(r"[^/]*//[^/@]*:[^/@]*@", value) or re.search(r"[?&]password=", value):
        raise ValueError(
            'holds a password; put the URL into the environment or a file and write "env:NAME" or '
            '"file:PATH"'
        )
    return value


class KeepaliveConfig(Section):
    """When a silent connection counts as dead."""

    interval: Duration = Field(
        default=timedelta(seconds=30), description="silence after which a ping is sent"
    )
    timeout: Duration = Field(
        default=timedelta(seconds=10), description="how long its answer may take"
    )


def _webhook_url(value: str) -> str:
    """Where alerts are posted: a URL without a password in it, or a reference to one."""
    if not value:
        return value
    if value.startswith(_REFERENCE):
        return check_secret_ref(value)
    if not re.match(r"https?://[^/@\s]+(/\S*)?$", value):
        raise ValueError(
            'should begin with "https://" and hold no password, or be a reference, "env:NAME" or '
            '"file:PATH"'
        )
    return value


class AlertsConfig(Section):
    """Whom alerts are told, beside the log and the metrics."""

    webhook_url: Annotated[str, AfterValidator(_webhook_url)] = Field(
        default="", description="https:// URL that each alert is posted to, or a reference to one"
    )
    webhook_secret: Annotated[
        str, AfterValidator(lambda value: check_secret_ref(value) if value else value)
    ] = Field(default="", description="reference to the secret that signs what is posted")

    def resolved(self) -> tuple[str, str]:
        """The URL, empty if there is none, and the secret. Never log them.

        Raises
        ------
        ConfigError
            If a reference leads nowhere, or to something that is no URL.
        """
        url = self.webhook_url
        if url.startswith(_REFERENCE):
            url = read_secret(url, key="alerts.webhook_url")
            if not re.match(r"https?://\S+$", url):
                raise ConfigError("alerts.webhook_url", "what it refers to is no https:// URL")
        secret = self.webhook_secret
        return url, read_secret(secret, key="alerts.webhook_secret") if secret else ""


class ForecastConfig(Section):
    """What forecasts may use."""

    onnx_model: str = Field(
        default="", description="ONNX file of a demand model, for forecasters `onnx` and `chooser`"
    )


class CoordinatorConfig(FileSettings):
    """What the coordinator's process needs to start."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_COORDINATOR_")

    listen: ListenAddress = Field(
        default=Address("127.0.0.1", 7481), description="gRPC for devices and operators"
    )
    web_listen: ListenAddress = Field(
        default=Address("127.0.0.1", 7482), description="/metrics, /livez and /readyz"
    )
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        default="sqlite:///tidegate.db",
        description="sqlite:/// or postgresql:// without a password, or a reference to such a URL",
    )
    state_dir: Path = Field(
        default=Path("tidegate-coordinator"),
        description="folder for what must outlive a restored database, such as the epoch",
    )
    standby: bool = Field(
        default=False,
        description="wait while another coordinator is the writer, and take over when it ends",
    )
    alerts: AlertsConfig = Field(
        default_factory=AlertsConfig, description="where alerts are posted"
    )
    forecast: ForecastConfig = Field(default_factory=ForecastConfig)
    tls: TlsConfig = Field(default_factory=TlsConfig, description="required off loopback")
    log: LogConfig = Field(default_factory=LogConfig)
    keepalive: KeepaliveConfig = Field(default_factory=KeepaliveConfig)
    provider_keys: dict[Name, SecretRef] = Field(
        default_factory=dict,
        description="name to reference of keys that devices get over their link, for arms with "
        'api_key = "coordinator:NAME"',
    )
    provider_keys_in_plaintext: bool = Field(
        default=False, description="send them without TLS too, which is possible on loopback only"
    )
    drain: Duration = Field(
        default=timedelta(seconds=10), description="how long a stop waits for calls under way"
    )

    @model_validator(mode="after")
    def _tls_off_loopback(self) -> CoordinatorConfig:
        for key, address in (("listen", self.listen), ("web_listen", self.web_listen)):
            if not address.is_loopback and not self.tls.enabled:
                raise key_error(
                    key,
                    f"{address} can be reached by other machines: set tls.cert_file and "
                    "tls.key_file, or listen on 127.0.0.1",
                )
        return self

    @model_validator(mode="after")
    def _keys_over_tls(self) -> CoordinatorConfig:
        if self.provider_keys and not (self.tls.enabled or self.provider_keys_in_plaintext):
            raise key_error(
                "provider_keys",
                "are sent to devices over TLS only: set tls.cert_file and tls.key_file, or, for "
                "devices on this machine alone, provider_keys_in_plaintext = true",
            )
        return self

    def resolved_database_url(self) -> str:
        """The database's URL, password included if it came by reference. Never log it.

        Raises
        ------
        ConfigError
            If the reference leads nowhere.
        """
        if self.database_url.startswith(_REFERENCE):
            return read_secret(self.database_url, key="database_url")
        return self.database_url


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> CoordinatorConfig:
    """Read the configuration: file, then `TIDEGATE_COORDINATOR_*`, then `overrides`.

    Raises
    ------
    ConfigProblems
        Naming the file and every key that is wrong.
    """
    return load_settings(CoordinatorConfig, path=path, overrides=overrides)


def check(config: CoordinatorConfig) -> tuple[Problem, ...]:
    """What this machine lacks of what the configuration names; nothing is changed."""
    problems: list[Problem] = []
    if config.database_url.startswith(_REFERENCE):
        problems += secret_problem("database_url", config.database_url)
    for key in ("webhook_url", "webhook_secret"):
        value = getattr(config.alerts, key)
        if value.startswith(_REFERENCE):
            problems += secret_problem(f"alerts.{key}", value)
    for name, ref in config.provider_keys.items():
        problems += secret_problem(dotted_key(["provider_keys", name]), ref)
    problems += config.tls.problems()
    if config.forecast.onnx_model:
        problems += file_problem("forecast.onnx_model", config.forecast.onnx_model)
    problems += folder_problem("state_dir", config.state_dir)
    return tuple(problems)


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration file."""
    return schema_of(CoordinatorConfig)
