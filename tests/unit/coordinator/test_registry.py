"""Who may talk: devices, join tokens, admin tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.records import AdminTokenRow, DeviceRow, DeviceStanding, JoinTokenRow
from coordinator.registry import Registry, digest
from shared.errors import AuthenticationError, ConflictError, NotFoundError

PI = DeviceRow("d1", "pi", "edge", digest("secret-1"), 0)


def join(registry: Registry, token: str = "token", device_class: str = "edge") -> DeviceRow:
    """Exchange a join token at time 50."""
    return registry.join(
        device_id="d2",
        name="new",
        device_class=device_class,
        token=token,
        credential="secret-2",
        unix_ms=50,
    )[0]


def inviting(device_class: str = "edge", *, expires: int = 100) -> Registry:
    """A registry with one join token."""
    return Registry(join_tokens=[JoinTokenRow(digest("token"), device_class, 0, expires)])


def test_a_secret_is_kept_as_its_digest() -> None:
    """An empty secret has none, so that it matches nothing."""
    assert 64 == len(digest("secret"))
    assert "" == digest("")


def test_a_device_is_known_by_its_credential() -> None:
    """Neither a wrong nor an empty one will do."""
    registry = Registry(devices=[PI])
    assert PI == registry.authenticate("secret-1")
    for wrong in ("secret-2", "", digest("secret-1")):
        with pytest.raises(AuthenticationError, match="not known"):
            registry.authenticate(wrong)


def test_a_revoked_device_cannot_come_back() -> None:
    """A quarantined one may: it has to be told, and to report."""
    registry = Registry(devices=[replace(PI, standing=DeviceStanding.REVOKED)])
    with pytest.raises(AuthenticationError, match="revoked"):
        registry.authenticate("secret-1")
    quarantined = registry.put(replace(PI, standing=DeviceStanding.QUARANTINED))
    assert quarantined == registry.authenticate("secret-1")


def test_a_join_token_gives_a_device_its_credential() -> None:
    """And is used up."""
    registry = inviting()
    device = join(registry)
    assert ("d2", "edge", device) == (device.id, device.device_class, registry.device("d2"))
    assert device == registry.authenticate("secret-2")
    with pytest.raises(AuthenticationError, match="used already"):
        join(registry)


@pytest.mark.parametrize(
    ("registry", "token", "device_class", "problem"),
    [
        (inviting(), "guess", "edge", "not known"),
        (inviting(), "", "edge", "not known"),
        (inviting(expires=50), "token", "edge", "expired"),
        (inviting("laptop"), "token", "edge", "for device class 'laptop'"),
        (inviting(""), "token", "", "neither"),
    ],
)
def test_a_token_that_does_not_fit_is_refused(
    registry: Registry, token: str, device_class: str, problem: str
) -> None:
    """Wrong, late, for another class, or without any class."""
    with pytest.raises(AuthenticationError, match=problem):
        join(registry, token, device_class)
    assert () == registry.devices


@pytest.mark.parametrize(("of_token", "of_device"), [("", "edge"), ("edge", "")])
def test_either_side_may_name_the_class(of_token: str, of_device: str) -> None:
    """A token for any class, or a device that names none."""
    assert "edge" == join(inviting(of_token), device_class=of_device).device_class


def test_a_device_is_found_by_name_or_id() -> None:
    """A name that two devices share does not say which."""
    twin = replace(PI, id="d3", name="twin")
    registry = Registry(devices=[PI, twin, replace(twin, id="d4")])
    assert (PI, PI) == (registry.find("d1"), registry.find("pi"))
    with pytest.raises(ConflictError, match="d3, d4"):
        registry.find("twin")
    with pytest.raises(NotFoundError, match="tidectl device list"):
        registry.find("nobody")


def test_devices_are_listed_by_name() -> None:
    """In the same order at every call."""
    other = replace(PI, id="d0", name="zebra")
    assert (PI, other) == Registry(devices=[other, PI]).devices


def test_an_operator_is_known_by_a_token() -> None:
    """Until it expires; 0 means never."""
    registry = Registry()
    registry.add_admin_token(AdminTokenRow(digest("a"), "ann", 0, 0))
    registry.add_admin_token(AdminTokenRow(digest("b"), "bob", 0, 100))
    assert "ann" == registry.authenticate_admin("a", unix_ms=10**15).name
    assert "bob" == registry.authenticate_admin("b", unix_ms=99).name
    with pytest.raises(AuthenticationError, match="'bob' has expired"):
        registry.authenticate_admin("b", unix_ms=100)
    for wrong in ("c", ""):
        with pytest.raises(AuthenticationError, match="not known"):
            registry.authenticate_admin(wrong, unix_ms=0)


def test_devices_up_are_those_in_good_standing_and_heard_of_lately() -> None:
    """Counted per class; the silent, the revoked and the quarantined do not count."""
    rows = [
        DeviceRow("a", "a", "pi", "1", 0, seen_unix_ms=100),
        DeviceRow("b", "b", "pi", "2", 0, seen_unix_ms=99),
        DeviceRow("c", "c", "pi", "3", 0, seen_unix_ms=200, standing=DeviceStanding.REVOKED),
        DeviceRow("d", "d", "laptop", "4", 0, seen_unix_ms=150),
    ]
    assert {"pi": 1, "laptop": 1} == Registry(devices=rows).devices_up(since_unix_ms=100)
