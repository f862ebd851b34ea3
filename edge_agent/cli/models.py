"""`tidegate-agent models`: fetch, list, check and remove the model files of this device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, read_shape
from edge_agent.adapters.model_library import (
    LibraryError,
    ModelLibrary,
    Pulled,
    Wanted,
    pull,
)
from edge_agent.adapters.model_library.library import parts_of, size_text
from edge_agent.adapters.model_library.origin import read_origin
from edge_agent.adapters.model_library.pull import verify
from edge_agent.cli.options import ConfigFile
from edge_agent.cli.output import (
    NONE,
    Format,
    OutputFormat,
    console,
    is_interactive,
    show_json,
    table,
)
from edge_agent.cli.progress import showing
from edge_agent.config import AgentConfig, ModelConfig, load
from edge_agent.model_source import file_name, parse_source
from shared.clock import SystemClock
from shared.errors import ConfigError, NotFoundError

INTERRUPTED = 130
app = typer.Typer(
    name="models",
    no_args_is_help=True,
    help="Fetch, list, check and remove the model files of this device.",
)
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ARM]...", help="Arms of the configuration; none means all."),
]


@app.command("pull")
def pull_command(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARM|SOURCE]...",
            help="Arms of the configuration, or sources: hf://OWNER/REPOSITORY(@REVISION)/FILE, "
            "https://..., a path. None: every model of the configuration that has a source.",
        ),
    ] = None,
    config: ConfigFile = None,
    sha256: Annotated[str, typer.Option(help="The checksum that a single SOURCE must have.")] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Fetch what the source has now, even if it is here.")
    ] = False,
    output: Format = OutputFormat.TABLE,
) -> None:
    """Fetch model files. Ctrl-C keeps what has come; the same command goes on from there.

    The checksum is the one that the configuration pins, else the one that the Hub tells; it is
    recorded beside the file. A private or gated repository needs HF_TOKEN.
    """
    settings = load(config)
    library, pulled = _library(settings), []
    for arm, wanted in _wanted(settings, what or [], sha256=sha256):
        with showing(output) as progress, _going_on(wanted):
            done = pull(
                wanted, library=library, clock=SystemClock(), progress=progress, again=again
            )
        pulled.append({"arm": arm, **_pulled(done)})
        if output is OutputFormat.TABLE:
            typer.echo(_said(arm, done))
    if output is OutputFormat.JSON:
        show_json({"pulled": pulled})
    elif not pulled:
        typer.echo("nothing is missing: no model of the configuration has a `source`")


@app.command("list")
def list_command(config: ConfigFile = None, output: Format = OutputFormat.TABLE) -> None:
    """Show every model of the configuration and every other file of the library."""
    settings = load(config)
    library, rows = _library(settings), _rows(settings)
    if output is OutputFormat.JSON:
        limit = library.disk_bytes_max or None
        usage = {"folder": str(library.folder), "used_bytes": library.used_bytes()}
        show_json({"models": rows, "library": {**usage, "disk_bytes_max": limit}})
        return
    columns = ["ARM", "STATE", "SIZE", "SHA256", "SOURCE", "PATH"]
    shown = [
        [
            row["arm"] or NONE,
            row["state"],
            size_text(row["size_bytes"]) if row["size_bytes"] else NONE,
            row["sha256"][:12] or NONE,
            row["source"] or NONE,
            row["path"],
        ]
        for row in rows
    ]
    console().print(table(columns, shown, right=["SIZE"]))
    quota = f" of {size_text(library.disk_bytes_max)}" if library.disk_bytes_max else ""
    typer.echo(f"\n{size_text(library.used_bytes())}{quota} in {library.folder}")


@app.command("verify")
def verify_command(
    arms: Names = None, config: ConfigFile = None, output: Format = OutputFormat.TABLE
) -> None:
    """Read model files as a whole and compare their checksums. Exits with 1 if one is wrong."""
    settings, results = load(config), []
    for model in _models(settings, arms or []):
        path, expected, against = _expected(model)
        with showing(output) as progress:
            try:
                found, problem = verify(path, sha256=expected, progress=progress), ""
            except LibraryError as error:
                found, problem = "", str(error)
        results.append(
            {
                "arm": model.arm,
                "path": model.path,
                "ok": not problem,
                "sha256": found,
                "checked_against": against,
                "problem": problem,
            }
        )
        if output is OutputFormat.TABLE:
            checked = f"sha256 {found}, as {against}" if against else f"sha256 {found}, not pinned"
            typer.echo(f"{model.arm}: {problem or checked}", err=bool(problem))
    if output is OutputFormat.JSON:
        show_json({"verified": results})
    raise typer.Exit(0 if all(result["ok"] for result in results) else 1)


@app.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(help="An arm, or a file of the library.")],
    config: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Format = OutputFormat.TABLE,
) -> None:
    """Delete a model file with its record and with what was begun of it."""
    settings = load(config)
    library, path = _library(settings), _path_of(settings, name)
    library.removable(path)
    if not yes:
        if not is_interactive():
            raise ConfigError("", f"nobody can be asked whether to delete {path}; pass --yes")
        typer.confirm(f"Delete {path}?", abort=True, err=True)
    freed = library.remove(path)
    if output is OutputFormat.JSON:
        show_json({"removed": str(path), "freed_bytes": freed})
        return
    typer.echo(f"removed {path}: {size_text(freed)} are free again")


def _library(settings: AgentConfig) -> ModelLibrary:
    return ModelLibrary(settings.library_folder, disk_bytes_max=settings.library.disk_bytes_max)


def _models(settings: AgentConfig, arms: Sequence[str]) -> list[ModelConfig]:
    """The models of these arms, or all."""
    by_arm = {model.arm: model for model in settings.placed_models}
    unknown = [arm for arm in arms if arm not in by_arm]
    if unknown:
        known = ", ".join(by_arm) or "none"
        raise NotFoundError(f"no model for the arm {unknown[0]!r} is configured; known: {known}")
    return [by_arm[arm] for arm in arms] if arms else list(by_arm.values())


def _wanted(
    settings: AgentConfig, what: Sequence[str], *, sha256: str
) -> Iterator[tuple[str, Wanted]]:
    """What to fetch: arms with their configuration, or sources into the library."""
    by_arm = {model.arm: model for model in settings.placed_models}
    names = list(what) or [model.arm for model in settings.models if model.source]
    here = [Path(model.path).exists() for model in by_arm.values()]
    if not names and not (here and all(here)):
        raise ConfigError("models", "none has a `source`; name one: models pull hf://...")
    if sha256 and (len(names) != 1 or names[0] in by_arm):
        raise ConfigError("--sha256", "goes with a single source; an arm's is in its configuration")
    for name in names:
        model = by_arm.get(name)
        if model is None:
            try:
                source = parse_source(name)
            except ValueError as error:
                raise ConfigError(name, str(error)) from None
            if "/" not in name:
                _models(settings, [name])
            yield "", Wanted(settings.library_folder / file_name(source), source, sha256.lower())
        elif not model.source:
            raise ConfigError(f"models.{name}.source", "missing; there is nowhere to fetch it from")
        else:
            yield name, Wanted(Path(model.path), parse_source(model.source), model.sha256)


def _rows(settings: AgentConfig) -> list[dict[str, Any]]:
    """Every configured model and every other file of the library."""
    library = _library(settings)
    rows = [
        _row(library, Path(model.path), arm=model.arm, source=model.source)
        for model in settings.placed_models
    ]
    known = {row["path"] for row in rows}
    rows += [
        _row(library, stored.path) for stored in library.files() if str(stored.path) not in known
    ]
    return rows


def _row(library: ModelLibrary, path: Path, *, arm: str = "", source: str = "") -> dict[str, Any]:
    stored, problem = library.stored(path), ""
    state = "partial" if stored.part_bytes else "missing"
    if stored.size_bytes:
        state = "ready" if arm else "unused"
        try:
            read_shape(path)
        except ModelFileError as error:
            state, problem = "broken", str(error)
    origin = stored.origin
    return {
        "arm": arm,
        "state": state,
        "size_bytes": stored.size_bytes,
        "part_bytes": stored.part_bytes,
        "sha256": origin.sha256 if origin and stored.size_bytes else "",
        "revision": origin.revision if origin else "",
        "source": source or (origin.source if origin else ""),
        "path": str(path),
        "problem": problem,
    }


def _expected(model: ModelConfig) -> tuple[Path, str, str]:
    """A model's file, the checksum that it must have, and who says so."""
    path = Path(model.path)
    if model.sha256:
        return path, model.sha256, "pinned"
    origin = read_origin(path)
    return path, origin.sha256 if origin else "", "recorded" if origin else ""


def _path_of(settings: AgentConfig, name: str) -> Path:
    """The file of an arm, or a file of the library."""
    for model in settings.placed_models:
        if model.arm == name:
            return Path(model.path)
    if "/" in name or name.startswith("."):
        raise ConfigError("", f"{name!r} is neither an arm nor a file of {settings.library_folder}")
    return settings.library_folder / name


def _pulled(done: Pulled) -> dict[str, Any]:
    origin = done.origin
    return {
        "path": str(done.path),
        "fetched_bytes": done.fetched_bytes,
        "resumed_bytes": done.resumed_bytes,
        "sha256": origin.sha256 if origin else "",
        "revision": origin.revision if origin else "",
        "checked_against": origin.checked_against if origin else "",
    }


def _said(arm: str, done: Pulled) -> str:
    name = arm or done.path.name
    if done.was_there:
        return f"{name}: {done.path} is there already"
    text = f"{name}: {done.path}"
    if done.origin and not done.origin.checked_against:
        text += (
            f"\n  its source tells no checksum; to pin what has come: sha256 = "
            f'"{done.origin.sha256}"'
        )
    if not arm and done.origin:
        text += f'\n  to use it: [[models]] arm = "...", source = "{done.origin.source}"'
    return text


@contextmanager
def _going_on(wanted: Wanted) -> Iterator[None]:
    """Ctrl-C ends with a word on what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = sum(part.stat().st_size for part in parts_of(wanted.path))
        typer.echo(
            f"\nstopped; {size_text(kept)} of {wanted.path.name} are kept: the same command goes "
            "on from there",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
