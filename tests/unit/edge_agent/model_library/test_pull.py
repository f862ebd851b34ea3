"""Fetching models, from a server on loopback that speaks the Hub's protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.adapters.model_library import (
    LibraryError,
    ModelLibrary,
    Progress,
    Pulled,
    Wanted,
    pull,
    remote,
)
from edge_agent.adapters.model_library.library import FREE_BYTES_MIN, parts_of
from edge_agent.adapters.model_library.origin import origin_path, read_origin
from edge_agent.adapters.model_library.pull import verify
from edge_agent.model_source import parse_source
from shared.clock import SystemClock
from tests.fakes.hub_server import COMMIT, HubServer, running_hub
from tests.unit.edge_agent.llama_cpp.gguf_files import TINY

NAME = "owner/repo/tiny.gguf"
TINY_BYTES = TINY.read_bytes()
SHA256 = hashlib.sha256(TINY_BYTES).hexdigest()
OTHER = TINY_BYTES + b"a later version"
HUB = "hf://owner/repo/tiny.gguf"


class Told(Progress):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []

    def begin(self, what: str, *, done: int, total: int | None) -> None:
        self.steps.append([what, done, total])

    def advance(self, done: int) -> None:
        self.steps[-1][1] += done


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A hub with one model."""
    with running_hub(files={NAME: TINY_BYTES}) as running:
        yield running


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads are tried again at once, and not for long."""
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    monkeypatch.setattr(remote, "WAIT_S", 0.0)


class Device:
    """A device's library, filled from a hub."""

    def __init__(self, folder: Path, hub: HubServer, *, disk_bytes_max: int = 0) -> None:
        self.library = ModelLibrary(folder / "models", disk_bytes_max=disk_bytes_max)
        self.path = self.library.folder / "tiny.gguf"
        self.hub = hub
        self.told = Told()

    def pull(self, source: str = HUB, *, sha256: str = "", again: bool = False) -> Pulled:
        """Fetch the model."""
        self.told = Told()
        return pull(
            Wanted(self.path, parse_source(source), sha256),
            library=self.library,
            clock=SystemClock(),
            progress=self.told,
            again=again,
            endpoint=self.hub.hub_url,
        )

    def left_over(self) -> list[str]:
        """Files beside the model, its record and the lock."""
        mine = {"tiny.gguf", "tiny.gguf.origin.json", ".pull.lock"}
        return sorted(path.name for path in self.library.folder.iterdir() if path.name not in mine)


@pytest.fixture
def device(tmp_path: Path, hub: HubServer) -> Device:
    """A device without models."""
    return Device(tmp_path, hub)


def test_a_model_comes_from_the_hub(device: Device) -> None:
    """The commit is pinned, the Hub's checksum compared and recorded, nothing else is left."""
    done = device.pull()
    assert TINY_BYTES == device.path.read_bytes()
    assert (len(TINY_BYTES), 0, False) == (done.fetched_bytes, done.resumed_bytes, done.was_there)
    origin = read_origin(device.path)
    assert origin is not None
    assert (HUB, COMMIT, SHA256, "hub") == (
        origin.source,
        origin.revision,
        origin.sha256,
        origin.checked_against,
    )
    assert [] == device.left_over()
    assert [
        ["fetching tiny.gguf", len(TINY_BYTES), len(TINY_BYTES)],
        ["checking tiny.gguf", len(TINY_BYTES), len(TINY_BYTES)],
    ] == device.told.steps
    gets = [each.path for each in device.hub.asked if each.method == "GET"]
    assert f"/owner/repo/resolve/{COMMIT}/tiny.gguf" == gets[0]


def test_a_model_that_is_there_is_not_fetched_again(device: Device) -> None:
    """Nobody is asked for anything."""
    device.pull()
    device.hub.asked.clear()
    assert device.pull().was_there
    assert [] == device.hub.asked


def test_a_file_in_xet_storage_comes_over_plain_http(device: Device) -> None:
    """Which the Hub offers for every file, and which can be resumed."""
    device.hub.xet = True
    device.pull()
    assert TINY_BYTES == device.path.read_bytes()
    assert not [each for each in device.hub.asked if "token" in each.path]


def test_a_download_that_breaks_off_goes_on_by_itself(device: Device) -> None:
    """Each piece is asked for from where the last one ended, as long as some comes."""
    device.hub.cut_after = [10_000, 5_000, 1]
    device.pull()
    assert TINY_BYTES == device.path.read_bytes()
    ranges = [each.headers.get("range") for each in device.hub.downloads()]
    assert [None, "bytes=10000-", "bytes=15000-", "bytes=15001-"] == ranges


def test_an_interrupted_download_is_resumed_by_the_next_pull(device: Device) -> None:
    """What has come is kept in a part file, never in the model's place."""
    device.hub.cut_after = [20_000, 0, 0]
    with pytest.raises(LibraryError, match="run the same command again"):
        device.pull()
    (part,) = parts_of(device.path)
    assert (20_000, False) == (part.stat().st_size, device.path.exists())
    done = device.pull()
    assert (20_000, len(TINY_BYTES) - 20_000) == (done.resumed_bytes, done.fetched_bytes)
    assert TINY_BYTES == device.path.read_bytes()
    assert [] == device.left_over()


def test_a_part_of_another_version_is_dropped(device: Device) -> None:
    """The Hub's file has changed in between: the pieces would not fit together."""
    device.hub.cut_after = [20_000, 0, 0]
    with pytest.raises(LibraryError):
        device.pull()
    device.hub.files[NAME] = OTHER
    assert 0 == device.pull().resumed_bytes
    assert OTHER == device.path.read_bytes()


def test_a_server_without_ranges_sends_the_whole_file_again(device: Device) -> None:
    """The part is overwritten, and the progress goes back."""
    device.hub.ranges = False
    device.hub.cut_after = [20_000]
    device.pull()
    assert TINY_BYTES == device.path.read_bytes()
    assert ["fetching tiny.gguf", len(TINY_BYTES), len(TINY_BYTES)] == device.told.steps[0]


def test_a_revision_is_asked_for(device: Device) -> None:
    """A branch, a tag or a commit; the record names the commit."""
    device.pull("hf://owner/repo@v1/tiny.gguf")
    origin = read_origin(device.path)
    assert origin is not None
    assert "1" * 40 == origin.revision


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf://owner/repo@nope/tiny.gguf", "no such revision"),
        ("hf://owner/repo/nope.gguf", "no such file"),
        ("hf://nobody/nothing/tiny.gguf", "no such repository"),
        ("/no/such/folder/tiny.gguf", "No such file"),
    ],
)
def test_what_does_not_exist_is_named(device: Device, source: str, says: str) -> None:
    """And nothing is begun."""
    with pytest.raises(LibraryError, match=says) as caught:
        device.pull(source)
    assert source in str(caught.value)
    assert [] == device.left_over()


def test_a_gated_model_needs_a_token(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to give one; the token never reaches the CDN."""
    device.hub.gated = True
    with pytest.raises(LibraryError, match="HF_TOKEN"):
        device.pull()
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    device.pull()
    assert TINY_BYTES == device.path.read_bytes()
    shown = {each.server for each in device.hub.asked if "authorization" in each.headers}
    assert {"hub"} == shown


def test_a_hub_that_cannot_be_reached_is_named(device: Device) -> None:
    """With what to do."""
    device.hub.hub_url = "http://127.0.0.1:9"
    with pytest.raises(LibraryError, match="check the network"):
        device.pull()


def test_a_pinned_checksum_goes_over_the_hubs(device: Device) -> None:
    """Another file is refused before a byte of it comes."""
    with pytest.raises(LibraryError, match="is pinned"):
        device.pull(sha256="0" * 64)
    assert [] == device.hub.downloads()
    device.pull(sha256=SHA256)
    origin = read_origin(device.path)
    assert origin is not None
    assert "config" == origin.checked_against


def test_content_with_another_checksum_is_not_kept(device: Device) -> None:
    """Damaged on its way, or a lie."""
    device.hub.lie = "0" * 64
    with pytest.raises(LibraryError, match="nothing of it was kept"):
        device.pull()
    assert (False, []) == (device.path.exists(), device.left_over())


def test_a_file_that_is_no_model_is_refused_and_named(device: Device) -> None:
    """Its header is read before it takes its place."""
    device.hub.files[NAME] = b"<html>Sign in</html>" * 100
    with pytest.raises(LibraryError, match=r"hf://owner/repo/tiny\.gguf is no GGUF file"):
        device.pull()
    assert (False, []) == (device.path.exists(), device.left_over())


def test_a_truncated_model_is_refused(device: Device) -> None:
    """The Hub may hold a broken file too."""
    device.hub.files[NAME] = TINY_BYTES[:100]
    with pytest.raises(LibraryError, match="ends within its header"):
        device.pull()


def test_the_quota_is_kept_before_the_download(tmp_path: Path, hub: HubServer) -> None:
    """The error has all the figures and the remedy."""
    device = Device(tmp_path, hub, disk_bytes_max=len(TINY_BYTES) - 1)
    with pytest.raises(LibraryError, match="quota") as caught:
        device.pull()
    assert "library.disk_bytes_max" in str(caught.value)
    assert [] == hub.downloads()
    roomy = Device(tmp_path / "other", hub, disk_bytes_max=len(TINY_BYTES) + 10_000)
    roomy.pull()
    assert roomy.path.exists()


def test_the_quota_counts_what_is_begun(tmp_path: Path, hub: HubServer) -> None:
    """What a part has is not needed twice."""
    device = Device(tmp_path, hub, disk_bytes_max=len(TINY_BYTES) + 10_000)
    hub.cut_after = [len(TINY_BYTES) - 100, 0, 0]
    with pytest.raises(LibraryError):
        device.pull()
    device.pull()
    assert TINY_BYTES == device.path.read_bytes()


def test_the_quota_is_kept_when_no_size_is_told(tmp_path: Path, hub: HubServer) -> None:
    """The download ends when the room does."""
    hub.sized = False
    device = Device(tmp_path, hub, disk_bytes_max=30_000)
    with pytest.raises(LibraryError, match="quota"):
        device.pull(f"{hub.cdn_url}/{NAME}")
    assert not device.path.exists()
    assert device.library.used_bytes() <= 30_000


def test_a_full_disk_is_told_before_the_download(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of it stays free for the books."""
    free = FREE_BYTES_MIN + len(TINY_BYTES) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(LibraryError, match="the disk of"):
        device.pull()
    assert [] == device.hub.downloads()


def test_a_model_comes_from_an_address(device: Device) -> None:
    """Without a checksum of the source its own is recorded; the Hub's token stays here."""
    device.pull(f"{device.hub.cdn_url}/{NAME}?signature=secret")
    origin = read_origin(device.path)
    assert origin is not None
    assert (SHA256, "") == (origin.sha256, origin.checked_against)
    assert "secret" not in origin_path(device.path).read_text()
    assert not [each for each in device.hub.asked if "authorization" in each.headers]


def test_an_address_is_resumed_only_for_the_same_content(device: Device) -> None:
    """By its ETag, also when it changes between two requests of one pull."""
    url = f"{device.hub.cdn_url}/{NAME}"
    device.hub.cut_after = [20_000, 0, 0]
    with pytest.raises(LibraryError):
        device.pull(url)
    assert 20_000 == device.pull(url).resumed_bytes
    device.hub.files[NAME] = OTHER
    assert 0 == device.pull(url, again=True).resumed_bytes
    assert OTHER == device.path.read_bytes()


def test_an_address_that_knows_no_head_is_fetched_whole(device: Device) -> None:
    """Some servers know GET only."""
    device.hub.heads = False
    device.pull(f"{device.hub.cdn_url}/{NAME}", sha256=SHA256)
    assert TINY_BYTES == device.path.read_bytes()


def test_a_model_comes_from_a_path(device: Device) -> None:
    """A copy, checked like any other."""
    done = device.pull(str(TINY), sha256=SHA256)
    assert (TINY_BYTES, len(TINY_BYTES)) == (device.path.read_bytes(), done.fetched_bytes)
    assert [] == device.hub.asked


def test_a_changed_file_at_the_source_is_no_surprise(device: Device) -> None:
    """What was recorded once holds until someone asks for the new one."""
    device.pull()
    device.path.unlink()
    device.hub.files[NAME] = OTHER
    with pytest.raises(LibraryError, match="has changed since it was recorded"):
        device.pull()
    device.pull(again=True)
    assert OTHER == device.path.read_bytes()


def test_again_replaces_a_model_at_once(device: Device) -> None:
    """The old file is there until the new one is whole."""
    device.pull()
    device.hub.files[NAME] = OTHER
    device.hub.cut_after = [20_000, 0, 0]
    with pytest.raises(LibraryError):
        device.pull(again=True)
    assert TINY_BYTES == device.path.read_bytes()
    device.pull(again=True)
    assert OTHER == device.path.read_bytes()


def test_a_file_put_there_by_hand_is_checked_against_its_pin(device: Device) -> None:
    """And has a record from then on."""
    device.path.parent.mkdir()
    device.path.write_bytes(TINY_BYTES)
    with pytest.raises(LibraryError, match="instead of " + "0" * 64):
        device.pull(sha256="0" * 64)
    assert device.pull(sha256=SHA256).was_there
    origin = read_origin(device.path)
    assert origin is not None
    assert SHA256 == origin.sha256
    assert [] == device.hub.asked


def test_another_pin_than_the_recorded_one_is_told(device: Device) -> None:
    """Without reading the file."""
    device.pull()
    with pytest.raises(LibraryError, match="is pinned"):
        device.pull(sha256="0" * 64)


def test_a_damaged_file_is_found(device: Device) -> None:
    """By its checksum when it is verified; by its size when it is pulled."""
    device.pull()
    damaged = bytearray(TINY_BYTES)
    damaged[-1] ^= 1
    device.path.write_bytes(damaged)
    with pytest.raises(LibraryError, match="is damaged or another file"):
        verify(device.path, sha256=SHA256, progress=Told())
    device.path.write_bytes(TINY_BYTES[:-1])
    with pytest.raises(LibraryError, match="is damaged or another file"):
        device.pull()


def test_a_damaged_record_is_named(device: Device) -> None:
    """With what to do about it."""
    device.pull()
    origin_path(device.path).write_text("{")
    with pytest.raises(LibraryError, match="remove it"):
        device.pull()


def test_two_pulls_at_once_do_not_mix(device: Device) -> None:
    """The second is told that the folder is in use."""
    lock = device.library.lock(device.library.folder)
    with pytest.raises(LibraryError, match="in use by another process"):
        device.pull()
    lock.release()
    device.pull()


def test_removing_a_model_leaves_nothing(device: Device) -> None:
    """The file, its record and what was begun."""
    device.pull()
    (device.library.folder / ".tiny.gguf.0123456789ab.part").write_bytes(b"x" * 10)
    record = origin_path(device.path).stat().st_size
    assert len(TINY_BYTES) + record + 10 == device.library.remove(device.path)
    assert [".pull.lock"] == [path.name for path in device.library.folder.iterdir()]
    with pytest.raises(LibraryError, match="there is no"):
        device.library.remove(device.path)


def test_the_library_lists_what_it_has(device: Device) -> None:
    """Whole files and begun ones, with their records."""
    assert [] == device.library.files()
    device.pull()
    (device.library.folder / ".other.gguf.0123456789ab.part").write_bytes(b"x" * 10)
    other, tiny = device.library.files()
    assert ("other.gguf", 0, 10, None) == (
        other.path.name,
        other.size_bytes,
        other.part_bytes,
        other.origin,
    )
    assert (len(TINY_BYTES), 0) == (tiny.size_bytes, tiny.part_bytes)
    assert SHA256 == json.loads(origin_path(tiny.path).read_text())["sha256"]
