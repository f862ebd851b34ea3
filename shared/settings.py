"""Configuration: where values come from, how errors name their key, secrets by reference."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from shared.errors import ConfigError
from shared.limits import CONFIG_BYTES_MAX
from shared.units import Address, duration_ms, duration_text, parse_address, size_bytes

PROBLEMS_SHOWN_MAX: Final = 20
PROBLEM_CHARS_MAX: Final = 240
_SECRET_BYTES_MAX: Final = 16 * 1024
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


class Problem(NamedTuple):
    """What is wrong with one key."""

    key: str
    problem: str


class ConfigProblems(ConfigError):
    """A configuration cannot be used, for all of these reasons.

    Parameters
    ----------
    problems : iterable of Problem
        At least one; `key` and `problem` of the base class are the first one's.
    source : str
        The file at fault, if there is one.
    """

    def __init__(self, problems: Iterable[Problem], *, source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(*self.problems[0])

    def __str__(self) -> str:
        # Short enough for the details of a gRPC status, which travel in a header.
        lines = [
            (f"{key}: {problem}" if key else problem)[:PROBLEM_CHARS_MAX]
            for key, problem in self.problems
        ]
        hidden = len(lines) - PROBLEMS_SHOWN_MAX
        if hidden > 0:
            lines = [*lines[:PROBLEMS_SHOWN_MAX], f"... and {hidden} more problems"]
        return "\n".join(f"{self.source}: {line}" if self.source else line for line in lines)


def dotted_key(path: Iterable[str | int], *, prefix: str = "") -> str:
    """A path into a configuration as it would be written in TOML: `arms."a.b".price`."""
    key = prefix
    for part in path:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            quoted = part if _BARE_KEY.fullmatch(part) else '"' + part[:64] + '"'
            key += f".{quoted}" if key else quoted
    return key


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` with the closest known word, or else what is known."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(words)}"


def key_error(key: str, problem: str) -> PydanticCustomError:
    """What a validator of a whole model raises about one of its keys."""
    return PydanticCustomError("key", "{problem}", {"key": key, "problem": problem})


def problems_of(
    error: ValidationError, *, model: type[BaseModel], prefix: str = ""
) -> list[Problem]:
    """One problem per error of pydantic's, in this project's words and without the input."""
    found = []
    for detail in error.errors(include_url=False, include_input=False):
        path, kind = detail["loc"], detail["type"]
        if kind == "extra_forbidden":
            parent = _model_at(model, path[:-1])
            problem = f"unknown key{did_you_mean(str(path[-1]), parent.model_fields)}"
        elif kind == "missing":
            field = _model_at(model, path[:-1]).model_fields.get(str(path[-1]))
            hint = field.description if field else None
            problem = f"missing; {hint}" if hint else "missing"
        elif kind == "model_type" or kind == "dict_type":
            problem = "should be a table"
        elif kind == "key":
            path, problem = (*path, detail["ctx"]["key"]), detail["msg"]
        else:
            problem = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
        found.append(Problem(dotted_key(path, prefix=prefix), problem))
    return found


def _model_at(model: type[BaseModel], path: Iterable[str | int]) -> type[BaseModel]:
    """The model that a path leads to, through lists, tables and optional values."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = _unwrapped(field.annotation) if field else here
        else:
            here = _unwrapped(get_args(here)[-1 if get_origin(here) is dict else 0])
    return here if isinstance(here, type) and issubclass(here, BaseModel) else model


def _unwrapped(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def check_secret_ref(ref: str) -> str:
    """Accept `env:NAME` and `file:PATH`; refuse anything else without repeating it.

    Raises
    ------
    ValueError
        If it could be a literal secret.
    """
    kind, _, rest = ref.partition(":")
    if kind not in ("env", "file") or not rest:
        raise ValueError('should be a reference, "env:NAME" or "file:PATH", never the secret')
    if kind == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", rest):
        raise ValueError('"env:" should be followed by the name of an environment variable')
    return ref


def read_secret(ref: str, *, key: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """The secret behind a reference. Never logged, never part of an error.

    Parameters
    ----------
    ref : str
        `env:NAME` or `file:PATH`; surrounding white space of the content is dropped.
    key : str
        The configuration key that holds the reference, for the error.

    Raises
    ------
    ConfigError
        If the reference is malformed, leads nowhere, or to what no secret looks like.
    """
    try:
        kind, _, name = check_secret_ref(ref).partition(":")
    except ValueError as error:
        raise ConfigError(key, str(error)) from None
    if kind == "env":
        found = environ.get(name)
        if found is None:
            raise ConfigError(key, f"the environment variable {name} is not set")
    else:
        found = _secret_file(Path(name), key=key)
    secret = found.strip()
    if not secret:
        raise ConfigError(key, f"{ref} is empty")
    if not (secret.isascii() and secret.isprintable()) or " " in secret:
        raise ConfigError(key, f"{ref} holds white space or characters that no secret has")
    return secret


def _secret_file(path: Path, *, key: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(key, f"cannot read the file {path}: {error.strerror}") from None
    if len(content) > _SECRET_BYTES_MAX:
        raise ConfigError(key, f"the file {path} is longer than {_SECRET_BYTES_MAX} bytes")
    return content.decode("utf-8", errors="replace")


def file_problem(key: str, path: Path | str) -> list[Problem]:
    """Nothing if the file can be read, else one problem that says why."""
    try:
        with Path(path).open("rb"):
            return []
    except OSError as error:
        return [Problem(key, f"cannot read the file {path}: {error.strerror}")]


def folder_problem(key: str, path: Path) -> list[Problem]:
    """Nothing if files can be made in the folder, or it can be made itself; else what forbids."""
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return []
    why = "cannot be written by this user" if there.is_dir() else "is no folder"
    at = str(there) if there == path.absolute() else f"{path} is not there, and {there}"
    return [Problem(key, f"{at} {why}: choose another, or have it made for this user")]


def secret_problem(key: str, ref: str) -> list[Problem]:
    """Nothing if the reference leads to a secret, else one problem that says why not."""
    try:
        read_secret(ref, key=key)
    except ConfigError as error:
        return [Problem(error.key, error.problem)]
    return []


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    return timedelta(milliseconds=duration_ms(value))


def _duration_as_text(value: timedelta) -> str:
    return duration_text(round(value.total_seconds() * 1_000))


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(_duration_as_text),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h|d)$"}),
]
"""Written with a unit: `"10s"`."""

ByteSize = Annotated[
    int, BeforeValidator(size_bytes), WithJsonSchema({"type": ["string", "integer"]})
]
"""Written with a unit, `"512MiB"`, or as whole bytes."""

ListenAddress = Annotated[
    Address,
    BeforeValidator(parse_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": "^.+:[0-9]{1,5}$"}),
]
"""Written as `"host:port"`."""

SecretRef = Annotated[
    str,
    AfterValidator(check_secret_ref),
    WithJsonSchema({"type": "string", "pattern": "^(env|file):.+$"}),
]
"""Written as `"env:NAME"` or `"file:PATH"`."""


class FileSettings(BaseSettings):
    """Settings from a TOML file, the environment over it, and flags over both.

    Subclasses set `env_prefix`. Nested keys are joined by two underscores in the environment.
    Unknown variables with the prefix are ignored: container platforms add some of their own.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_nested_delimiter="__",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        nested_model_default_partial_update=True,
    )
    of_file: ClassVar[dict[str, Any]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, cls.of_file)


S = TypeVar("S", bound=FileSettings)


def load_settings(
    model: type[S], *, path: Path | None, overrides: Mapping[str, Any] | None = None
) -> S:
    """Read settings.

    Parameters
    ----------
    model : type
        A `FileSettings`.
    path : Path or None
        The TOML file; None reads the environment and the overrides only.
    overrides : mapping, optional
        Values of flags, nested as in the file; they win.

    Raises
    ------
    ConfigProblems
        Naming the file, or the variable, and every key that is wrong.
    """
    source = str(path) if path else ""
    prefix = str(model.model_config.get("env_prefix", ""))
    # Sources are part of the class in pydantic-settings, so each file gets a class of its own.
    of_file = read_toml(path) if path is not None else {}
    bound: type[S] = type(
        model.__name__, (model,), {"of_file": of_file, "__module__": model.__module__}
    )
    try:
        return bound(**dict(overrides or {}))
    except SettingsError as error:
        raise ConfigProblems([Problem("", f"environment: {error}")]) from None
    except ValidationError as error:
        problems = [
            Problem(key, problem + _origin(key, prefix=prefix, overrides=overrides or {}))
            for key, problem in problems_of(error, model=model)
        ]
        raise ConfigProblems(problems, source=source) from None


class _Schema(GenerateJsonSchema):
    """Writes defaults as they are written in the file."""

    def encode_default(self, dft: Any) -> Any:
        """A default value as JSON."""
        if isinstance(dft, timedelta):
            return _duration_as_text(dft)
        return super().encode_default(str(dft) if isinstance(dft, Address) else dft)


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a configuration file."""
    schema = model.model_json_schema(schema_generator=_Schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. A byte-order mark before it, as some editors put it, is passed over.

    Raises
    ------
    ConfigProblems
        If it cannot be read as TOML, in words that name the file.
    """
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            problem = f"larger than {CONFIG_BYTES_MAX} bytes"
        else:
            return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"no UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problem = f"not valid TOML: {error}"
    raise ConfigProblems([Problem("", problem)], source=str(path))


def _origin(key: str, *, prefix: str, overrides: Mapping[str, Any]) -> str:
    """Where a wrong value came from, if not from the file."""
    parts = key.split(".")
    here: Any = overrides
    for part in parts:
        here = here.get(part) if isinstance(here, Mapping) else None
    if here is not None:
        return " (from a flag)"
    names = {f"{prefix}{'__'.join(parts[:depth])}".upper() for depth in range(1, len(parts) + 1)}
    found = [name for name in os.environ if name.upper() in names]
    return f" (from the variable {found[0]})" if found else ""
