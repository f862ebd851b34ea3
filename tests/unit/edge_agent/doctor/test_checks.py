"""Each of the doctor's checks, on machines that are made up."""

from __future__ import annotations

import asyncio
import http.server
import json
import platform
import socket
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.adapters.doctor import accelerator, cloud, local, machine
from edge_agent.adapters.doctor.finding import Finding, Verdict
from edge_agent.adapters.sqlite_books import SqliteBooks
from edge_agent.books import MetaKey, PutConfig, PutMeta
from edge_agent.cli.parts import new_classifier
from edge_agent.config import AgentConfig, load
from edge_agent.ports import LocalModel
from shared.decision.types import Battery, DeviceState, TaskClass
from shared.units import Address
from tests.fakes.samples import cloud_arm, device_config, local_arm
from tests.fakes.task_models import small_onnx
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

X86 = "processor : 0\nflags : fpu sse4_2 avx avx2 f16c fma {more}\n"
OLD_X86 = "processor : 0\nflags : fpu sse4_2 avx\n"
GIB = 2**30
STATE = DeviceState(memory_total_bytes=4 * GIB, memory_available_bytes=2 * GIB)
OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL


def settings(**overrides: Any) -> AgentConfig:
    """A configuration."""
    return load(None, overrides)


def model(path: Path = TINY, **options: Any) -> LocalModel:
    """A model of an arm `tiny`."""
    return LocalModel(arm="tiny", path=str(path), **options)


def verdicts(findings: Iterator[Finding]) -> list[Verdict]:
    """In their order."""
    return [finding.verdict for finding in findings]


@pytest.mark.parametrize(
    ("kind", "cpuinfo", "verdict", "says"),
    [
        ("x86_64", X86.format(more="avx512f"), OK, "AVX2, FMA, F16C, avx512f"),
        ("x86_64", OLD_X86, WARN, "without AVX2, FMA, F16C"),
        ("aarch64", "Features : fp asimd crc32 asimddp i8mm\n", OK, "arm64"),
        ("aarch64", "Features : fp asimd crc32\n", WARN, "without dot product"),
        ("arm64", "", OK, "arm64"),
    ],
)
def test_the_processor_is_judged_by_what_llama_cpp_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, cpuinfo: str, verdict: Verdict,
    says: str,
) -> None:  # fmt: skip
    """A Pi 4 lacks the dot product of a Pi 5; macOS has no /proc."""
    monkeypatch.setattr(platform, "machine", lambda: kind)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    found = machine.processor(tmp_path)
    assert verdict is found.verdict
    assert says in found.says


def test_a_model_that_does_not_fit_is_named() -> None:
    """Into the machine, or into what the worker may take."""
    assert [OK] == verdicts(machine.memory([model()], memory_bytes_max=0, state=STATE))
    tight = machine.memory([model()], memory_bytes_max=10_000, state=STATE)
    found = next(tight)
    assert (FAIL, True) == (found.verdict, "worker.memory_bytes_max" in found.says)
    small = DeviceState(memory_total_bytes=10_000, memory_available_bytes=5_000)
    found = next(machine.memory([model()], memory_bytes_max=0, state=small))
    assert (FAIL, True) == (found.verdict, "smaller model" in found.remedy)


def test_models_that_fit_only_one_by_one_need_a_limit() -> None:
    """Else the system's killer would choose."""
    tight = DeviceState(memory_total_bytes=4 * GIB, memory_available_bytes=50_000)
    (found,) = machine.memory([model()], memory_bytes_max=0, state=tight)
    assert (WARN, True) == (found.verdict, "worker.memory_bytes_max" in found.remedy)
    (found,) = machine.memory([model()], memory_bytes_max=GIB, state=tight)
    assert OK is found.verdict


@pytest.mark.parametrize(("free", "verdict"), [(5 * GIB, OK), (GIB // 2, WARN), (10_000_000, FAIL)])
def test_the_disk_needs_room_for_the_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: Verdict
) -> None:
    """Also where the state folder is not made yet."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert verdict is machine.disk(settings(state_dir=str(tmp_path / "not/yet"))).verdict


def test_a_limit_that_the_board_cannot_tell_is_found() -> None:
    """It would never close anything."""
    limits = {"local": {"temperature_celsius_max": 80.0, "battery_percent_min": 10.0}}
    blind = list(machine.sensors(settings(limits=limits), state=DeviceState()))
    assert [WARN, WARN, OK] == [finding.verdict for finding in blind]
    assert "limits.local.battery_percent_min" in blind[1].says
    state = DeviceState(
        temperature_celsius=50.0, power_watts=4.0, battery=Battery(0.5, on_mains=True)
    )
    (found,) = machine.sensors(settings(limits=limits), state=state)
    assert "50 °C, 4.0 W, battery 50%, on the mains" == found.says
    throttled = DeviceState(throttled=True, throttle_reasons=("under_voltage",))
    assert "under_voltage" in next(machine.sensors(settings(), state=throttled)).says


def llama(**told: Any) -> tuple[str, ...]:
    """A command that says what the probe of a llama.cpp would."""
    cpu = {"name": "CPU", "description": "A processor", "type": 0}
    gpu = {"name": "CUDA0", "description": "Orin", "type": 1}
    devices = [cpu, gpu] if told.pop("gpu", False) else [cpu]
    text = json.dumps({"version": "1.2.3", "devices": devices})
    return (sys.executable, "-c", f"print({text!r})")


CRASH = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
MISSING = (sys.executable, "-c", "import no_such_llama_cpp")


@pytest.mark.parametrize(
    ("command", "gpu_layers", "device", "verdict", "says"),
    [
        (llama(), 0, False, OK, "on the processor alone"),
        (llama(), 0, True, WARN, "there is an NVIDIA device"),
        (llama(), -1, False, FAIL, "gpu_layers of tiny asks for a GPU"),
        (llama(gpu=True), -1, True, OK, "on Orin"),
        (llama(gpu=True), 0, True, WARN, "which no model uses"),
        (CRASH, 0, False, FAIL, "built for another processor (SIGILL)"),
        (MISSING, 0, False, FAIL, "No module named"),
    ],
)
def test_llama_cpp_is_asked_in_a_process_of_its_own(
    tmp_path: Path,
    *,
    command: tuple[str, ...],
    gpu_layers: int,
    device: bool,
    verdict: Verdict,
    says: str,
) -> None:
    """So that a build for another processor is found instead of ending the doctor."""
    (tmp_path / "dev").mkdir()
    if device:
        (tmp_path / "dev/nvhost-gpu").touch()
    found = accelerator.accelerator([model(gpu_layers=gpu_layers)], root=tmp_path, command=command)
    assert verdict is found.verdict
    assert says in found.says


def test_the_llama_cpp_of_this_machine_is_found(tmp_path: Path) -> None:
    """The real probe."""
    found = accelerator.accelerator([], root=tmp_path)
    assert (OK, True) == (found.verdict, "llama-cpp-python" in found.says)


def test_models_are_judged_by_their_files(tmp_path: Path) -> None:
    """Missing with the command that fetches, broken, and changed since they came."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    tables = [
        {"arm": "good", "path": str(TINY)},
        {"arm": "gone", "path": str(tmp_path / "gone.gguf"), "source": "hf://o/r/gone.gguf"},
        {"arm": "lost", "path": str(tmp_path / "lost.gguf")},
        {"arm": "broken", "path": str(broken)},
    ]
    good, gone, lost, bad = local.models(settings(models=tables, state_dir=str(tmp_path)))
    assert [OK, FAIL, FAIL, FAIL] == [f.verdict for f in (good, gone, lost, bad)]
    assert "tidegate-agent models pull gone" == gone.remedy
    assert "source" in lost.remedy
    assert "download it again" in bad.says
    (none,) = local.models(settings(state_dir=str(tmp_path)))
    assert WARN is none.verdict


def test_the_classifier_is_tried_and_compared_with_the_fleets_classes(tmp_path: Path) -> None:
    """What it cannot tell apart is told before clients wonder."""
    path = tmp_path / "mine.onnx"
    path.write_bytes(small_onnx())
    other, code, trip = (TaskClass(name, deadline_ms=0) for name in ("other", "code", "trip"))

    def look(*classes: TaskClass, **options: Any) -> Finding:
        made = new_classifier(settings(classifier={"path": str(path), **options}))
        fleet = replace(device_config(local_arm()), task_classes=classes)
        return local.classifier(made, fleet=fleet if classes else None)

    assert (OK, "switched off") == (look(enabled=False).verdict, look(enabled=False).says[:12])
    assert "no classes to tell apart so far" in look(other).says
    assert "no classes to tell apart so far" in look().says
    assert "tells code" == look(other, code).says
    assert (WARN, True) == (look(code, trip).verdict, "cannot tell trip" in look(code, trip).says)
    assert "tells code, trip" == look(code, trip, classes={"trips": "trip"}).says
    path.write_bytes(b"junk")
    assert (FAIL, True) == (look(code).verdict, "mine.onnx: is not a model" in look(code).says)


async def made_books(folder: Path) -> Path:
    """Books of a device that has joined, with a configuration."""
    path = folder / "books.db"
    books = SqliteBooks(path)
    config = device_config(local_arm(), cloud_arm(api_key_ref="env:NO_SUCH_KEY"))
    await books.commit([PutMeta(MetaKey.CREDENTIAL, "tdc-secret"), PutConfig(config)], sync=True)
    await books.close()
    return path


async def test_the_books_are_read_without_disturbing_anybody(tmp_path: Path) -> None:
    """What they say of this device is used by the other checks; nothing secret is shown."""
    seen = local.books(tmp_path / "books.db")
    assert (OK, "", None) == (seen.finding.verdict, seen.credential, seen.config)
    path = await made_books(tmp_path)
    seen = local.books(path)
    assert (OK, "tdc-secret") == (seen.finding.verdict, seen.credential)
    assert seen.config is not None
    assert "tdc-secret" not in str(seen.finding)
    path.chmod(0o644)
    assert "chmod 600" in local.books(path).finding.remedy


async def test_corrupt_books_are_found(tmp_path: Path) -> None:
    """Those in use, and those that were set aside."""
    path = await made_books(tmp_path)
    (tmp_path / "books.db.corrupt-123").touch()
    assert "set aside as books.db.corrupt-123" in local.books(path).finding.says
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    data = bytearray(path.read_bytes())
    data[4_000:9_000] = b"\xff" * 5_000
    path.write_bytes(data)
    assert FAIL is local.books(path).finding.verdict
    path.write_bytes(b"no database")
    assert FAIL is local.books(path).finding.verdict


@contextmanager
def listening(*, is_agent: bool) -> Iterator[Address]:
    """An HTTP server on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if is_agent:
                self.send_header("x-tidegate-request-id", "req-1")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Tests are silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield Address("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_is_free_the_agents_or_another_programs() -> None:
    """A running agent is no problem."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        number = found.getsockname()[1]
    assert OK is local.port(Address("127.0.0.1", number), tls=False).verdict
    with listening(is_agent=True) as address:
        found_agent = local.port(address, tls=False)
    assert (OK, True) == (found_agent.verdict, "the agent is running" in found_agent.says)
    with listening(is_agent=False) as address:
        assert FAIL is local.port(address, tls=False).verdict
    assert FAIL is local.port(Address("192.0.2.1", 7480), tls=False).verdict


def test_what_the_configuration_names_must_be_here() -> None:
    """Secrets and certificates; models have a check of their own."""
    key = {"key": "env:NO_SUCH_KEY", "tag": "shop"}
    named = settings(keys=[key], models=[{"arm": "a", "path": "/no/such"}])
    (found,) = local.configuration(named)
    assert (FAIL, True) == (found.verdict, "keys[0].key" in found.says)
    assert [OK] == verdicts(local.configuration(settings()))


async def test_a_paid_endpoint_is_reached_without_a_request(tmp_path: Path) -> None:
    """A connection, and not a byte of a request (rule S_1)."""
    came: list[bytes] = []
    closed = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read())
        writer.close()
        closed.set()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    key_file = tmp_path / "key"
    key_file.write_text("sk-secret")
    config = device_config(
        local_arm(), cloud_arm("paid", base_url=url, api_key_ref=f"file:{key_file}")
    )
    (found,) = await cloud.cloud(config, environ={})
    await asyncio.wait_for(closed.wait(), 10)
    assert [b""] == came
    assert (OK, "cloud paid", True) == (found.verdict, found.check, "its key is here" in found.says)
    server.close()
    await server.wait_closed()
    (found,) = await cloud.cloud(config, environ={})
    assert (FAIL, True) == (found.verdict, "cannot be reached" in found.says)


@pytest.mark.parametrize(
    ("ref", "verdict", "says"),
    [
        ("", OK, "needs no key"),
        ("env:PAID_KEY", OK, "its key is here"),
        ("env:NO_SUCH_KEY", WARN, "NO_SUCH_KEY is not set here"),
        ("file:/no/such/key", FAIL, "cannot read the file"),
        ("coordinator:paid", OK, "comes with the link"),
    ],
)
async def test_the_key_of_a_paid_arm_is_looked_for(ref: str, verdict: Verdict, says: str) -> None:
    """A variable may be set for the service alone, so its absence is no failure."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    config = device_config(cloud_arm(base_url=url, api_key_ref=ref))
    (found,) = await cloud.cloud(config, environ={"PAID_KEY": "sk-secret"})
    assert (verdict, True) == (found.verdict, says in found.says)
    assert "sk-secret" not in str(found)
    server.close()
    await server.wait_closed()


async def test_without_a_configuration_no_endpoint_is_known() -> None:
    """The coordinator names them."""
    assert [OK] == [found.verdict for found in await cloud.cloud(None, environ={})]
    only_local = device_config(local_arm())
    assert [OK] == [found.verdict for found in await cloud.cloud(only_local, environ={})]


def test_books_that_are_open_elsewhere_can_be_read(tmp_path: Path) -> None:
    """A doctor beside a running agent."""
    asyncio.run(made_books(tmp_path))
    path = tmp_path / "books.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert OK is local.books(path).finding.verdict
