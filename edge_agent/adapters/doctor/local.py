"""What is on this device: configuration, models, classifier, books, and the port to listen on."""

from __future__ import annotations

import errno
import http.client
import socket
import sqlite3
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_agent.adapters.classifier import OnnxClassifier
from edge_agent.adapters.doctor.finding import Finding, fail, ok, warn
from edge_agent.adapters.identity_file import IdentityFile
from edge_agent.adapters.llama_cpp.gguf_header import ModelFileError, read_shape
from edge_agent.adapters.model_library import LibraryError, ModelLibrary
from edge_agent.adapters.model_library.library import size_text
from edge_agent.adapters.model_library.origin import read_origin
from edge_agent.adapters.sqlite_books_file import SCHEMA_VERSION
from edge_agent.books import MetaKey
from edge_agent.candidates import OTHER_CLASS
from edge_agent.config import AgentConfig, ModelConfig, check
from shared import wire
from shared.decision.types import DeviceConfig
from shared.errors import ConfigError, ProtocolError
from shared.units import Address

AGENT_S: Final = 3.0


@dataclass(frozen=True)
class BooksSeen:
    """What the doctor reads in the books, without disturbing an agent that has them open."""

    finding: Finding
    credential: str = ""
    config: DeviceConfig | None = None


def configuration(settings: AgentConfig) -> Iterator[Finding]:
    """What the configuration names and this machine lacks."""
    joined = IdentityFile(settings.books_path).read() is not None
    missing = check(settings, joined=joined)
    problems = [each for each in missing if not each.key.startswith("models[")]
    for problem in problems:
        yield fail("configuration", f"{problem.key}: {problem.problem}", "correct or supply it")
    if not problems:
        yield ok("configuration", "everything that it names is here")


def models(settings: AgentConfig) -> Iterator[Finding]:
    """Every model: there, whole, and what it was when it came."""
    if not settings.models:
        yield warn(
            "models",
            "none is configured: only paid arms can answer",
            "add one: tidegate-agent models pull hf://..., and a [[models]] table",
        )
    for model in settings.placed_models:
        yield _model(model)
    library = ModelLibrary(settings.library_folder, disk_bytes_max=settings.library.disk_bytes_max)
    used, limit = library.used_bytes(), library.disk_bytes_max
    if limit and used > limit:
        yield warn(
            "models",
            f"{size_text(used)} in {library.folder}, over the quota of {size_text(limit)}",
            "remove some: tidegate-agent models list",
        )


def model_check(arm: str) -> str:
    """What a finding about a model's file is called."""
    return f"model {arm}"


def _model(model: ModelConfig) -> Finding:
    name, path = model_check(model.arm), Path(model.path)
    pull = f"tidegate-agent models pull {model.arm}"
    if not path.exists():
        remedy = pull if model.source else "put it there, or give the model a `source`"
        return fail(name, f"{path} is not there", remedy)
    try:
        size = read_shape(path).file_bytes
        origin = read_origin(path)
    except (ModelFileError, LibraryError) as error:
        return fail(name, str(error), f"{pull} --again" if model.source else "replace the file")
    if origin is not None and origin.size_bytes != size:
        return fail(
            name,
            f"{path} has {size} bytes, and had {origin.size_bytes} when it came",
            f"{pull} --again",
        )
    if model.sha256 and origin is not None and origin.sha256 != model.sha256:
        return fail(name, f"{path} has another sha256 than is pinned", f"{pull} --again")
    return ok(name, f"{path}, {size_text(size)}")


def classifier(made: OnnxClassifier | None, *, fleet: DeviceConfig | None) -> Finding:
    """Whether the model works, and tells apart what the fleet's classes are."""
    if made is None:
        return ok("classifier", f"switched off: what no client names is of class `{OTHER_CLASS}`")
    try:
        made.load()
    except ConfigError as error:
        return fail("classifier", str(error), "mend it, or set classifier.enabled = false")
    wanted = {each.id for each in fleet.task_classes} - {OTHER_CLASS} if fleet else set()
    strange = sorted(wanted - made.knows)
    if strange:
        return warn(
            "classifier",
            f"cannot tell {', '.join(strange)}: clients must name them in x-tidegate-task",
            "map names in [classifier.classes], or tidegate-lab train-classifier",
        )
    if not wanted:
        return ok("classifier", "works; the fleet has no classes to tell apart so far")
    return ok("classifier", f"tells {', '.join(sorted(wanted))}")


def books(path: Path) -> BooksSeen:
    """Whether the books can be trusted, and what they say of this device."""
    aside = sorted(path.parent.glob(f"{path.name}.corrupt-*")) if path.parent.is_dir() else []
    aside = [each for each in aside if not each.name.endswith(("-wal", "-shm"))]
    if not path.exists():
        return BooksSeen(ok("books", f"none yet at {path}: the first start makes them"))
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            meta = dict(connection.execute("SELECT key, value FROM meta"))
            documents = dict(connection.execute("SELECT key, record FROM document"))
            spooled = connection.execute("SELECT count(*) FROM spool").fetchone()[0]
        config = wire.decode_config(documents["config"]) if "config" in documents else None
    except (sqlite3.Error, ProtocolError) as error:
        return BooksSeen(_corrupt(path, str(error)))
    if result != "ok":
        return BooksSeen(_corrupt(path, result))
    says = f"{path}, {spooled} records, {size_text(path.stat().st_size)}"
    if version > SCHEMA_VERSION:
        finding = fail("books", f"{path} are of a newer agent", "start the newer agent again")
    elif path.stat().st_mode & 0o077:
        finding = warn("books", f"{says}; others may read them", f"chmod 600 {path}")
    elif aside:
        finding = warn(
            "books",
            f"{says}; corrupt ones were set aside as {aside[-1].name}",
            "find out why (disk, power), then remove them",
        )
    else:
        finding = ok("books", says)
    return BooksSeen(finding, meta.get(MetaKey.CREDENTIAL, ""), config)


def _corrupt(path: Path, problem: str) -> Finding:
    return fail(
        "books",
        f"{path} cannot be trusted ({problem})",
        "start the agent: it sets them aside and says so; then check the disk",
    )


def port(address: Address, *, tls: bool) -> Finding:
    """Whether the address is free, or taken by the agent itself."""
    problem: OSError | None = None
    for family, kind, _, _, target in _resolved(address):
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(target)
            except OSError as error:
                problem = error
    if problem is None:
        return ok("port", f"{address} is free")
    if problem.errno != errno.EADDRINUSE:
        return fail(
            "port", f"{address} cannot be used ({problem.strerror})", "choose another `listen`"
        )
    if _is_agent(address, tls=tls):
        return ok("port", f"the agent is running at {address}")
    return fail(
        "port", f"{address} is in use by another program", "stop it, or choose another `listen`"
    )


def _resolved(address: Address) -> Sequence[tuple[int, int, int, str, tuple[object, ...]]]:
    try:
        return socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror:
        return []


def _is_agent(address: Address, *, tls: bool) -> bool:
    """Whether what listens there answers as an agent does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104
    if tls:
        # Only to tell who listens; nothing is said that could be overheard.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, address.port, timeout=AGENT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, address.port, timeout=AGENT_S)
    with closing(connection):
        try:
            connection.request("GET", "/livez")
            return bool(connection.getresponse().getheader("x-tidegate-request-id"))
        except (OSError, http.client.HTTPException):
            return False
