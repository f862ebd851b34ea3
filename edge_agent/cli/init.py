"""`tidegate-agent init`: three questions, and a commented configuration."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.adapters.whole_file import write_whole
from edge_agent.cli.output import is_interactive
from edge_agent.cli.parts import problems_of
from edge_agent.config import load
from edge_agent.model_source import ModelSource, PathSource, file_name, parse_source
from shared.errors import ConfigError
from shared.limits import NAME_CHARS_MAX
from shared.settings import ConfigProblems
from shared.units import Address, parse_address

LISTEN = "127.0.0.1:7480"
NONE = "none"
JOIN_TOKEN = "env:TIDEGATE_JOIN_TOKEN"  # noqa: S105 - a reference
_ARM = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")


@dataclass(frozen=True)
class _Model:
    arm: str
    source: ModelSource


def init(
    out: Annotated[Path, typer.Argument(help="The file to write.")] = Path("agent.toml"),
    coordinator: Annotated[
        str | None, typer.Option(help="host:port of the coordinator, or `none`.")
    ] = None,
    join_token: Annotated[
        str, typer.Option(help="Reference to the join token, env:NAME or file:PATH.")
    ] = JOIN_TOKEN,
    ca_file: Annotated[
        str,
        typer.Option(help="PEM file of the authority that signed its certificate."),
    ] = "",
    models_folder: Annotated[
        str, typer.Option(help="Folder of the model files; default: in the state folder.")
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model, as SOURCE or ARM=SOURCE (hf://OWNER/REPOSITORY/FILE, https://..., a "
            "path), a folder of models, or `none`; may be repeated."
        ),
    ] = None,
    listen: Annotated[str | None, typer.Option(help="host:port to answer on.")] = None,
    state_dir: Annotated[
        str, typer.Option(help="Folder of the books and the credential.")
    ] = "tidegate-agent",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; what is not given keeps its default.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a commented configuration: where the coordinator is, which models, where to listen.

    What is given as an option is not asked. At the end it says what is left to do.
    """
    if out.exists() and not force:
        raise ConfigError("", f"{out} is there already; write another file, or say --force")
    asking = not yes and is_interactive()
    address = _coordinator(coordinator, asking=asking)
    models = _models(model, asking=asking)
    listening = _listen(listen, asking=asking)
    text = _written(
        address=address,
        join_token=join_token,
        ca_file=ca_file,
        models=models,
        models_folder=models_folder,
        listen=listening,
        state_dir=state_dir,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, text)
    except OSError as error:
        raise ConfigError("", f"{out} cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {out}")
    _say_what_is_left(out, models=models, address=address)


def _coordinator(given: str | None, *, asking: bool) -> Address | None:
    text = given
    if text is None and asking:
        typer.echo("A coordinator decides which requests are worth a paid model, within a budget.")
        text = typer.prompt("Coordinator, as host:port, or none", default=NONE)
    if text is None or text.lower() in (NONE, ""):
        return None
    return _address(text, option="--coordinator")


def _models(given: list[str] | None, *, asking: bool) -> list[_Model]:
    texts = given
    if texts is None and asking:
        typer.echo("A model is a GGUF file: hf://OWNER/REPOSITORY/FILE, https://..., or a path.")
        texts = [typer.prompt("Model, a folder of models, or none", default=NONE)]
    models = [model for text in texts or [] for model in _named(text)]
    arms = [each.arm for each in models]
    twice = sorted({arm for arm in arms if arms.count(arm) > 1})
    if twice:
        raise ConfigError("--model", f"two for the arm {twice[0]!r}; name them: ARM=SOURCE")
    return models


def _named(text: str) -> list[_Model]:
    """The models that an answer means: none, one, or all of a folder."""
    if text.lower() == NONE:
        return []
    folder = Path(text).expanduser()
    if not folder.is_dir():
        return [_model(text)]
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise ConfigError("--model", f"there is no .gguf file in {folder}")
    return [_model(str(file)) for file in files]


def _model(text: str) -> _Model:
    """A source, with the arm's name before it or made from the file's."""
    name, found, rest = text.partition("=")
    named = found and _ARM.fullmatch(name)
    try:
        source = parse_source(rest if named else text)
    except ValueError as error:
        raise ConfigError("--model", f"{text!r} {error}") from None
    if named:
        return _Model(name, source)
    stem = re.sub(r"[^a-z0-9._-]+", "-", Path(file_name(source)).stem.lower())
    return _Model(stem.lstrip("._-")[:NAME_CHARS_MAX] or "local", source)


def _listen(given: str | None, *, asking: bool) -> Address:
    text = given
    if text is None and asking:
        text = typer.prompt("Listen on, as host:port", default=LISTEN)
    return _address(text or LISTEN, option="--listen")


def _address(text: str, *, option: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise ConfigError(option, f"{text!r} {error}") from None


def _written(
    *,
    address: Address | None,
    join_token: str,
    ca_file: str,
    models: list[_Model],
    models_folder: str,
    listen: Address,
    state_dir: str,
) -> str:
    """The file, with a comment to everything that is in it."""
    open_to_others = "" if listen.is_loopback else _OFF_LOOPBACK
    parts = [
        _HEAD.format(listen=_text(str(listen)), state_dir=_text(state_dir), keys=open_to_others),
        _LINK.format(
            address=_text(str(address)), join_token=_text(join_token), ca_file=_text(ca_file)
        )
        if address is not None
        else _ALONE,
    ]
    if models_folder:
        parts.append(_LIBRARY.format(folder=_text(models_folder)))
    parts += [_table(each) for each in models] or [_NO_MODEL]
    return "\n".join(parts)


def _table(model: _Model) -> str:
    if isinstance(model.source, PathSource):
        path = os.path.abspath(Path(model.source.path).expanduser())  # noqa: PTH100 - links stay
        return _AT_PATH.format(arm=_text(model.arm), path=_text(path))
    # A query may be needed to fetch it; `str` leaves it out for the eye.
    source = getattr(model.source, "url", "") or str(model.source)
    return _FETCHED.format(arm=_text(model.arm), source=_text(source))


def _text(value: str) -> str:
    """A TOML string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _say_what_is_left(out: Path, *, models: list[_Model], address: Address | None) -> None:
    """Check the file as `run --check` does, and tell the next steps."""
    left: list[str] = []
    try:
        left += [f"{key}: {problem}" for key, problem in problems_of(load(out), file=out)]
    except ConfigProblems as error:
        left += [f"{key}: {problem}" for key, problem in error.problems]
    if not models and address is None:
        left.append("models: without a model or a coordinator there is nothing to answer with")
    if not left:
        typer.echo(f"it can be used: tidegate-agent run --config {out}")
        return
    typer.echo("left to do:")
    for line in left:
        typer.echo(f"  {line}")
    typer.echo(
        f"then: tidegate-agent run --config {out} --check, and tidegate-agent doctor --config {out}"
    )


_HEAD = """\
# The agent's configuration, made by `tidegate-agent init`. `tidegate-agent example` explains every
# key; `tidegate-agent run --config FILE --check` says whether it can be used.

listen = {listen}   # the OpenAI-compatible HTTP face
state_dir = {state_dir}   # the books of what was spent, and this device's credential
{keys}"""
_OFF_LOOPBACK = """
# Other machines can reach this address: it needs keys that clients send, and a certificate.
# [[keys]]
# key = "file:/etc/tidegate/api_key"
# tag = "my-app"
# [tls]
# cert_file = "/etc/tidegate/agent.crt"
# key_file = "/etc/tidegate/agent.key"
"""
_LINK = """\
[coordinator]
address = {address}
# The authority that signed the coordinator's certificate; empty: those of the system.
ca_file = {ca_file}
# Used once, at the first start: tidectl token create --kind join
join_token = {join_token}
"""
_ALONE = """\
# Without a coordinator the agent answers with its local models only.
# [coordinator]
# address = "coordinator.example:7481"
# join_token = "env:TIDEGATE_JOIN_TOKEN"
"""
_LIBRARY = """\
# Where `tidegate-agent models pull` keeps what it fetches.
[library]
folder = {folder}
"""
_FETCHED = """\
# `tidegate-agent models pull` fetches it. The fleet's configuration has a local arm of this name.
[[models]]
arm = {arm}
source = {source}
"""
_AT_PATH = """\
# The fleet's configuration has a local arm of this name.
[[models]]
arm = {arm}
path = {path}
"""
_NO_MODEL = """\
# [[models]]
# arm = "qwen-0.5b"
# source = "hf://Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf"
"""
