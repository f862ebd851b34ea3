"""Who may talk: devices, their credentials and resume tokens, join tokens, admin tokens.

Pure state: methods return the rows to be stored. Secrets enter as text and are kept as digests.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import replace

from coordinator.records import AdminTokenRow, DeviceRow, DeviceStanding, JoinTokenRow
from shared.errors import AuthenticationError, ConflictError, NotFoundError


def digest(secret: str) -> str:
    """What is kept of a secret: its SHA-256; empty for an empty one."""
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""


class Registry:
    """Every device and token that the coordinator knows."""

    def __init__(
        self,
        *,
        devices: Iterable[DeviceRow] = (),
        join_tokens: Iterable[JoinTokenRow] = (),
        admin_tokens: Iterable[AdminTokenRow] = (),
    ) -> None:
        self._devices = {device.id: device for device in devices}
        self._by_credential = {d.credential_digest: d.id for d in self._devices.values()}
        self._join_tokens = {token.digest: token for token in join_tokens}
        self._admin_tokens = {token.digest: token for token in admin_tokens}

    @property
    def devices(self) -> tuple[DeviceRow, ...]:
        """All devices, by name."""
        return tuple(sorted(self._devices.values(), key=lambda device: (device.name, device.id)))

    def devices_up(self, *, since_unix_ms: int) -> dict[str, int]:
        """Devices per class that are in good standing and were heard of since a time."""
        up: dict[str, int] = {}
        for device in self._devices.values():
            if device.standing is DeviceStanding.ACTIVE and device.seen_unix_ms >= since_unix_ms:
                up[device.device_class] = up.get(device.device_class, 0) + 1
        return up

    def device(self, device_id: str) -> DeviceRow:
        """A device by its id.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        if device_id not in self._devices:
            raise NotFoundError(f"no device {device_id!r}; `tidectl device list` shows all")
        return self._devices[device_id]

    def find(self, name_or_id: str) -> DeviceRow:
        """A device by its id or its name.

        Raises
        ------
        NotFoundError
            If there is none.
        ConflictError
            If several devices have that name.
        """
        if name_or_id in self._devices:
            return self._devices[name_or_id]
        named = [device for device in self._devices.values() if device.name == name_or_id]
        if len(named) > 1:
            ids = ", ".join(device.id for device in named)
            raise ConflictError(f"{len(named)} devices are named {name_or_id!r}; use an id: {ids}")
        return named[0] if named else self.device(name_or_id)

    def put(self, device: DeviceRow) -> DeviceRow:
        """Keep a device's new row."""
        self._devices[device.id] = device
        self._by_credential[device.credential_digest] = device.id
        return device

    def owner(self, credential: str) -> DeviceRow | None:
        """The device that a credential belongs to, whatever its standing; None if to none."""
        device_id = self._by_credential.get(digest(credential)) if credential else None
        return self._devices[device_id] if device_id is not None else None

    def authenticate(self, credential: str) -> DeviceRow:
        """The device that a credential belongs to.

        Raises
        ------
        AuthenticationError
            If it belongs to none, or to a device that was revoked.
        """
        device = self.owner(credential)
        if device is None:
            raise AuthenticationError(
                "this device credential is not known here; join again with a new join token"
            )
        if device.standing is DeviceStanding.REVOKED:
            raise AuthenticationError(f"device {device.name} was revoked; it cannot come back")
        return device

    def join(
        self,
        *,
        device_id: str,
        name: str,
        device_class: str,
        token: str,
        credential: str,
        unix_ms: int,
    ) -> tuple[DeviceRow, JoinTokenRow]:
        """Exchange a join token for a device's credential, once.

        Raises
        ------
        AuthenticationError
            If the token is wrong, used, expired, or for another device class.
        """
        row = self._join_tokens.get(digest(token)) if token else None
        if row is None:
            raise AuthenticationError(
                "this join token is not known; make one: tidectl token create"
            )
        if row.used_by:
            raise AuthenticationError("this join token was used already; each is good for one join")
        if unix_ms >= row.expires_unix_ms:
            raise AuthenticationError("this join token has expired; make a new one")
        if not device_class and not row.device_class:
            raise AuthenticationError(
                "neither the join token nor the device names a device class: set "
                "coordinator.device_class on the device"
            )
        device_class = device_class or row.device_class
        if row.device_class and row.device_class != device_class:
            raise AuthenticationError(
                f"this join token is for device class {row.device_class!r}, not {device_class!r}"
            )
        used = replace(row, used_by=device_id)
        self._join_tokens[used.digest] = used
        device = DeviceRow(
            id=device_id,
            name=name,
            device_class=device_class,
            credential_digest=digest(credential),
            joined_unix_ms=unix_ms,
        )
        return self.put(device), used

    def add_join_token(self, row: JoinTokenRow) -> JoinTokenRow:
        """Allow one join."""
        self._join_tokens[row.digest] = row
        return row

    def forget_join_tokens(self, *, before_unix_ms: int) -> None:
        """Forget those that expired before a time, used or not."""
        self._join_tokens = {
            key: token
            for key, token in self._join_tokens.items()
            if token.expires_unix_ms >= before_unix_ms
        }

    def add_admin_token(self, row: AdminTokenRow) -> AdminTokenRow:
        """Allow an operator."""
        self._admin_tokens[row.digest] = row
        return row

    def authenticate_admin(self, token: str, *, unix_ms: int) -> AdminTokenRow:
        """The operator that a token belongs to.

        Raises
        ------
        AuthenticationError
            If it belongs to none or has expired.
        """
        row = self._admin_tokens.get(digest(token)) if token else None
        if row is None or not hmac.compare_digest(row.digest, digest(token)):
            raise AuthenticationError("this admin token is not known here")
        if row.expires_unix_ms and unix_ms >= row.expires_unix_ms:
            raise AuthenticationError(f"the admin token {row.name!r} has expired")
        return row
