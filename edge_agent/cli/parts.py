"""A configuration as the parts of the agent take it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_agent.adapters.classifier import SHIPPED_MODEL, OnnxClassifier
from edge_agent.adapters.coordinator_link import LinkTarget
from edge_agent.adapters.http_api import ApiKey
from edge_agent.adapters.identity_file import IdentityFile
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, read_shape
from edge_agent.adapters.llama_cpp.supervisor import LlamaWorker
from edge_agent.candidates import OTHER_CLASS
from edge_agent.config import JOIN_KEY, AgentConfig, check
from edge_agent.ports import LocalModel
from shared.clock import Clock
from shared.decision.key_budget import KeyBudget
from shared.decision.money import PPM
from shared.decision.types import Arm, ArmKind, DeviceConfig, TaskClass
from shared.errors import ConfigError
from shared.settings import Problem, read_secret


def local_models(settings: AgentConfig) -> list[LocalModel]:
    """Every configured model with the place of its file."""
    fields = [model.model_dump(exclude={"source", "sha256"}) for model in settings.placed_models]
    return [LocalModel(**given) for given in fields]


def new_worker(settings: AgentConfig, *, clock: Clock) -> LlamaWorker:
    """A worker for these models, not started yet.

    Raises
    ------
    ConfigError
        When the models cannot be used together.
    """
    return LlamaWorker(
        models=local_models(settings),
        clock=clock,
        memory_bytes_max=settings.worker.memory_bytes_max or None,
        hang_timeout_s=settings.worker.hang_timeout.total_seconds(),
    )


def new_classifier(settings: AgentConfig) -> OnnxClassifier | None:
    """A classifier that has not read its model yet; None where none is wanted."""
    wanted = settings.classifier
    if not wanted.enabled:
        return None
    return OnnxClassifier(
        Path(wanted.path) if wanted.path else SHIPPED_MODEL,
        threshold=wanted.threshold,
        renamed=wanted.classes,
        eager=bool(wanted.path or wanted.classes),
    )


def tried_classifier(settings: AgentConfig) -> OnnxClassifier | None:
    """The same, after what the operator has set is known to work.

    Raises
    ------
    ConfigError
        When the model cannot be used.
    """
    classifier = new_classifier(settings)
    if classifier is not None and classifier.eager:
        classifier.load()
    return classifier


def problems_of(settings: AgentConfig, *, file: Path | None) -> tuple[Problem, ...]:
    """What this machine lacks of what the configuration names, else what is no good of it."""
    joined = IdentityFile(settings.books_path).read() is not None
    missing = check(settings, file=file, joined=joined)
    return missing or (*_unusable_models(settings), *_unusable_parts(settings))


def _unusable_models(settings: AgentConfig) -> Iterator[Problem]:
    """By the headers of their files: to load them all would take long."""
    for index, model in enumerate(settings.placed_models):
        try:
            read_shape(Path(model.path))
        except ModelFileError as error:
            yield Problem(f"models[{index}].path", str(error))


def _unusable_parts(settings: AgentConfig) -> Iterator[Problem]:
    """The keys and the classifier that the operator has set."""
    try:
        api_keys_of(settings)
    except ConfigError as error:
        yield Problem(error.key, error.problem)
    try:
        tried_classifier(settings)
    except ConfigError as error:
        yield Problem("classifier", str(error))


def api_keys_of(settings: AgentConfig) -> list[ApiKey]:
    """The keys of which clients must show one, with their secrets. Never logged.

    Raises
    ------
    ConfigError
        When a reference leads nowhere, or two applications have the same secret.
    """
    keys: list[ApiKey] = []
    for index, each in enumerate(settings.keys):
        secret = read_secret(each.key, key=f"keys[{index}].key")
        same = [key.tag for key in keys if key.secret == secret]
        if same:
            problem = f"is the secret of {same[0]!r} too; each application needs one of its own"
            raise ConfigError(f"keys[{index}].key", problem)
        keys.append(ApiKey(secret, each.tag, each.task_class, refine_tag=each.refine_tag))
    return keys


def key_budgets_of(settings: AgentConfig) -> list[KeyBudget]:
    """The budgets of those keys that have one."""
    return [key.budget for key in settings.keys if key.budget is not None]


def fallback_config(settings: AgentConfig) -> DeviceConfig:
    """The device's own models, for as long as no coordinator has configured it."""
    arms = tuple(
        Arm(
            id=model.arm,
            kind=ArmKind.LOCAL,
            model=model.arm,
            context_tokens_max=model.context_tokens,
            max_tokens_default=min(256, model.context_tokens // 2),
            bytes_per_token_ppm=3 * PPM,
        )
        for model in settings.models
    )
    return DeviceConfig(
        version=0,
        device_class="",
        arms=arms,
        task_classes=(TaskClass(OTHER_CLASS, deadline_ms=0),),
        price_version=0,
        budget_name="",
        close_wait_ms=30_000,
    )


def link_target(settings: AgentConfig) -> LinkTarget:
    """Where the coordinator is, and how this device joins."""
    link = settings.coordinator
    return LinkTarget(
        address=str(link.address),
        plaintext=link.plaintext,
        ca_file=Path(link.ca_file) if link.ca_file else None,
        device_name=settings.name,
        device_class=link.device_class,
        join_token=lambda: read_secret(link.join_token, key=JOIN_KEY),
    )
