"""The agent's configuration: what this device offers, and where its coordinator is."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from edge_agent.device_limits import DeviceLimits, KindLimits
from edge_agent.model_source import file_name, parse_source
from shared.daemon_config import LogConfig, Name, NameOrNone, Section, TlsConfig
from shared.decision.key_budget import KeyBudget
from shared.decision.money import dollars, nanos_from_dollars
from shared.limits import AMOUNT_NANOS_MAX, API_KEYS_MAX, NAME_CHARS_MAX
from shared.settings import (
    ByteSize,
    Duration,
    FileSettings,
    ListenAddress,
    Problem,
    SecretRef,
    check_secret_ref,
    file_problem,
    folder_problem,
    key_error,
    load_settings,
    schema_of,
    secret_problem,
)
from shared.units import Address

BUDGET_WINDOW_MIN: Final = timedelta(seconds=10)
BOOKS_FILE: Final = "books.db"
JOIN_KEY: Final = "coordinator.join_token"
_ORIGIN: Final = re.compile(r"https?://[^/?#@\s]+", re.IGNORECASE)


def _host_name() -> str:
    """This machine's name in the form of a device's name."""
    name = re.sub(r"[^a-z0-9._-]+", "-", socket.gethostname().lower())
    return name.lstrip("._-")[:NAME_CHARS_MAX] or "device"


def _origin(value: str) -> str:
    """An origin as browsers name it (in lower case, without its scheme's own port), or all."""
    if value != "*" and not _ORIGIN.fullmatch(value):
        raise ValueError("should be an origin such as 'https://app.example:8443', or '*' for all")
    named = value.lower()
    return named.removesuffix(":80" if named.startswith("http:") else ":443")


Origin = Annotated[str, AfterValidator(_origin)]


def _money(value: object) -> int | None:
    """An exact amount of dollars in nano-dollars."""
    if value is None:
        return None
    if type(value) not in (str, int):
        raise ValueError('should be an amount of dollars in quotes, such as "2.50"')
    nanos = nanos_from_dollars(str(value))
    if not 0 <= nanos <= AMOUNT_NANOS_MAX:
        raise ValueError(f"should be from 0 to {dollars(AMOUNT_NANOS_MAX, places=0)} dollars")
    return nanos


Nanos = Annotated[
    int | None, BeforeValidator(_money), WithJsonSchema({"type": ["string", "integer"]})
]


class KeyConfig(Section):
    """One application: the key that it sends, and what its requests are."""

    key: SecretRef = Field(description='reference to its key, "env:NAME" or "file:PATH"')
    tag: Name = Field(description="names it in outcomes, metrics and the export")
    task_class: NameOrNone = Field(
        default="", description="of requests that name none; empty: as without a key"
    )
    refine_tag: bool = Field(
        default=False, description="whether x-tidegate-tag may say more, as TAG/MORE"
    )
    budget_usd: Nanos = Field(
        default=None, description="what its paid calls may cost in one window; default: no limit"
    )
    budget_window: Duration = Field(
        default=timedelta(days=1), description="how long that is for, aligned to the Unix epoch"
    )

    @model_validator(mode="after")
    def _window_is_some_time(self) -> KeyConfig:
        if self.budget_window < BUDGET_WINDOW_MIN:
            raise key_error("budget_window", f"should be {BUDGET_WINDOW_MIN.seconds} s or longer")
        return self

    @property
    def budget(self) -> KeyBudget | None:
        """Its budget, if it has one of its own."""
        if self.budget_usd is None:
            return None
        window_ms = round(self.budget_window.total_seconds() * 1_000)
        return KeyBudget(self.tag, self.budget_usd, window_ms)


class CoordinatorLinkConfig(Section):
    """Where the coordinator is. Without an address only local models answer."""

    address: ListenAddress | None = Field(
        default=None, description="host:port of the coordinator's gRPC face"
    )
    ca_file: str = Field(
        default="",
        description="PEM file of the authority that signed its certificate; empty: the system's",
    )
    device_class: NameOrNone = Field(
        default="", description="class to join as; empty: the one that the join token names"
    )
    join_token: Annotated[str, AfterValidator(lambda v: check_secret_ref(v) if v else v)] = Field(
        default="", description="reference to the token of the first start, env:NAME or file:PATH"
    )

    @property
    def plaintext(self) -> bool:
        """Whether the link goes without TLS: only to this machine itself."""
        return self.address is not None and self.address.is_loopback and not self.ca_file


def _source(value: str) -> str:
    if value:
        parse_source(value)
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch("([0-9a-fA-F]{64})?", value):
        raise ValueError("should be a SHA-256 checksum, 64 hexadecimal digits")
    return value.lower()


class LibraryConfig(Section):
    """Where `tidegate-agent models pull` keeps what it fetches."""

    folder: str = Field(
        default="", description="the folder; empty: the folder `models` in state_dir"
    )
    disk_bytes_max: ByteSize = Field(
        default=0, description="for all files in it, begun ones included; 0: no limit"
    )


class ModelConfig(Section):
    """A model file on this device, bound to a local arm of the fleet."""

    arm: Name = Field(description='the local arm that it serves, such as "tiny"')
    path: str = Field(
        default="", description="the GGUF file; empty: the source's file in the library's folder"
    )
    source: Annotated[str, AfterValidator(_source)] = Field(
        default="",
        description="where `models pull` gets it: hf://OWNER/REPOSITORY[@REVISION]/FILE, "
        "https://..., or a path",
    )
    sha256: Annotated[str, AfterValidator(_sha256)] = Field(
        default="", description="the file's checksum, if only this content will do"
    )
    context_tokens: Annotated[int, Field(ge=16, le=10_000_000)] = Field(
        default=2_048, description="prompt and answer together, per sequence"
    )
    threads: Annotated[int, Field(ge=0, le=1_024)] = Field(
        default=0, description="CPU threads; 0: one per physical core"
    )
    batch_sequences: Annotated[int, Field(ge=1, le=256)] = Field(
        default=4, description="answers generated side by side"
    )
    gpu_layers: Annotated[int, Field(ge=-1, le=10_000)] = Field(
        default=0, description="layers on the GPU; -1: all"
    )
    tokens_per_second_max: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="slow the model down to this; 0: as fast as it can"
    )

    @model_validator(mode="after")
    def _somewhere(self) -> ModelConfig:
        if not self.path and not self.source:
            raise key_error("path", "missing; the GGUF file, or a source to fetch it from")
        return self


class WorkerConfig(Section):
    """The process that runs the models."""

    memory_bytes_max: ByteSize = Field(
        default=0, description="models are unloaded to stay below it; 0: no limit"
    )
    hang_timeout: Duration = Field(
        default=timedelta(seconds=60), description="silence after which the worker is restarted"
    )


class KindLimitsConfig(Section):
    """What closes one kind of arms."""

    temperature_celsius_max: Annotated[float, Field(ge=0.0, le=150.0)] = Field(
        default=0.0, description="closed from here on, open again 5 degrees below; 0: no limit"
    )
    battery_percent_min: Annotated[float, Field(ge=0.0, le=100.0)] = Field(
        default=0.0, description="closed below it while not on the mains; 0: no limit"
    )
    memory_bytes_min: ByteSize = Field(
        default=0, description="closed while less memory is available; 0: no limit"
    )
    power_watts_max: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="closed while the device draws more; 0: no limit"
    )
    when_throttled: bool = Field(
        default=False, description="closed while heat or a weak supply holds the processor back"
    )

    def to_limits(self) -> KindLimits:
        """The limits as the agent decides by them."""
        return KindLimits(
            temperature_celsius_max=self.temperature_celsius_max,
            battery_ratio_min=self.battery_percent_min / 100,
            memory_bytes_min=self.memory_bytes_min,
            power_watts_max=self.power_watts_max,
            when_throttled=self.when_throttled,
        )


class LimitsConfig(Section):
    """When the device's condition closes its arms."""

    local: KindLimitsConfig = Field(
        default_factory=KindLimitsConfig, description="for the models of this device"
    )
    cloud: KindLimitsConfig = Field(
        default_factory=KindLimitsConfig, description="for paid calls from this device"
    )

    def to_limits(self) -> DeviceLimits:
        """The limits as the agent decides by them."""
        return DeviceLimits(local=self.local.to_limits(), cloud=self.cloud.to_limits())


class ClassifierConfig(Section):
    """What tells the task class of a request whose client named none."""

    enabled: bool = Field(
        default=True, description="it works as soon as the fleet has task classes that it knows"
    )
    path: str = Field(
        default="",
        description="a model of `tidegate-lab train-classifier`; empty: the one that ships with us",
    )
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.5, description="a request that it is less sure of is `other`"
    )
    classes: dict[Name, Name] = Field(
        default_factory=dict,
        description="the model's class = the fleet's class, where their names differ",
    )


class AgentConfig(FileSettings):
    """What the agent's process needs to start."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_AGENT_")

    listen: ListenAddress = Field(
        default=Address("127.0.0.1", 7480), description="the OpenAI-compatible HTTP face"
    )
    keys: Annotated[tuple[KeyConfig, ...], Field(max_length=API_KEYS_MAX)] = Field(
        default=(), description="keys of which clients must send one; required off loopback"
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(),
        description="origins whose pages may call the agent from a browser, and, without keys, the "
        "names beside localhost that it answers to; * for all",
    )
    tls: TlsConfig = Field(default_factory=TlsConfig, description="required off loopback")
    mode: Literal["route", "observe"] = Field(
        default="route",
        description="observe: log what would have been decided, while observe_arm answers",
    )
    observe_arm: NameOrNone = Field(
        default="", description="the arm of the fleet that answers in the mode observe"
    )
    state_dir: Path = Field(
        default=Path("tidegate-agent"), description="folder of the books and the credential"
    )
    name: Name = Field(
        default_factory=_host_name, description="this device's name; default: the machine's"
    )
    coordinator: CoordinatorLinkConfig = Field(default_factory=CoordinatorLinkConfig)
    models: tuple[ModelConfig, ...] = Field(default=(), description="local models")
    library: LibraryConfig = Field(
        default_factory=LibraryConfig, description="where fetched models are kept"
    )
    worker: WorkerConfig = Field(default_factory=WorkerConfig)
    limits: LimitsConfig = Field(
        default_factory=LimitsConfig, description="when the device's condition closes its arms"
    )
    classifier: ClassifierConfig = Field(
        default_factory=ClassifierConfig, description="tells the task class of requests"
    )
    log: LogConfig = Field(default_factory=LogConfig)
    drain: Duration = Field(
        default=timedelta(seconds=30), description="how long a stop waits for answers under way"
    )

    @model_validator(mode="after")
    def _guarded_off_loopback(self) -> AgentConfig:
        if not self.listen.is_loopback and not (self.tls.enabled and self.keys):
            raise key_error(
                "listen",
                f"{self.listen} can be reached by other machines: set tls.cert_file, "
                "tls.key_file and a [[keys]] table, or listen on 127.0.0.1",
            )
        return self

    @property
    def books_path(self) -> Path:
        """The device's books."""
        return self.state_dir / BOOKS_FILE

    @property
    def library_folder(self) -> Path:
        """Where fetched models are kept."""
        return Path(self.library.folder) if self.library.folder else self.state_dir / "models"

    @property
    def placed_models(self) -> tuple[ModelConfig, ...]:
        """The models, each with the path of its file."""
        return tuple(
            model
            if model.path
            else model.model_copy(
                update={"path": str(self.library_folder / file_name(parse_source(model.source)))}
            )
            for model in self.models
        )

    @model_validator(mode="after")
    def _observes_with_an_arm(self) -> AgentConfig:
        if self.mode == "observe" and not self.observe_arm:
            raise key_error("observe_arm", 'missing; mode = "observe" needs the arm that answers')
        return self

    @model_validator(mode="after")
    def _one_key_per_tag(self) -> AgentConfig:
        tags = [key.tag for key in self.keys]
        twice = sorted({tag for tag in tags if tags.count(tag) > 1})
        if twice:
            raise key_error("keys", f"more than one with the tag {twice[0]!r}")
        return self

    @model_validator(mode="after")
    def _one_model_per_arm(self) -> AgentConfig:
        arms = [model.arm for model in self.models]
        twice = sorted({arm for arm in arms if arms.count(arm) > 1})
        if twice:
            raise key_error("models", f"more than one for the arm {twice[0]!r}")
        return self


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> AgentConfig:
    """Read the configuration: file, then `TIDEGATE_AGENT_*`, then `overrides`.

    Raises
    ------
    ConfigProblems
        Naming the file and every key that is wrong.
    """
    return load_settings(AgentConfig, path=path, overrides=overrides)


def check(
    config: AgentConfig, *, file: Path | None = None, joined: bool = False
) -> tuple[Problem, ...]:
    """What this machine lacks of what the configuration names; nothing is changed.

    Parameters
    ----------
    file : Path, optional
        Where the configuration came from, for the commands that remedies name.
    joined : bool
        The device has joined its fleet: the join token has done its work.
    """
    option = f" --config {file}" if file is not None else ""
    problems: list[Problem] = []
    for index, each in enumerate(config.keys):
        problems += secret_problem(f"keys[{index}].key", each.key)
    if config.coordinator.join_token and not joined:
        problems += secret_problem(JOIN_KEY, config.coordinator.join_token)
    for index, model in enumerate(config.placed_models):
        if model.source and not Path(model.path).exists():
            remedy = f"is not here yet: tidegate-agent models pull {model.arm}{option}"
            problems.append(Problem(f"models[{index}].path", f"{model.path} {remedy}"))
        else:
            problems += file_problem(f"models[{index}].path", model.path)
    problems += config.tls.problems()
    files = [
        ("coordinator.ca_file", config.coordinator.ca_file),
        ("classifier.path", config.classifier.path if config.classifier.enabled else ""),
    ]
    for key, path in files:
        problems += file_problem(key, path) if path else []
    problems += folder_problem("state_dir", config.state_dir)
    return tuple(problems)


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration file."""
    return schema_of(AgentConfig)
