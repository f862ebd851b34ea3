"""Checks that both directions of the translation share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from shared.decision.money import PPM
from shared.errors import LimitError, ProtocolError
from shared.limits import AMOUNT_NANOS_MAX, ID_CHARS_MAX, NUMBER_MAX

MessageT = TypeVar("MessageT", bound=Message)
ValueT = TypeVar("ValueT")


def parse(message: MessageT, data: bytes) -> MessageT:
    """Fill an empty message from bytes.

    Raises
    ------
    ProtocolError
        If the bytes are no such message.
    """
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        name = message.DESCRIPTOR.name
        raise ProtocolError(f"{len(data)} bytes are no {name} message: {error}") from error
    return message


class encoding:  # noqa: N801 - used as a statement; a class costs half of a generator
    """Turn what protobuf refuses, such as a number beyond 32 bits, into a `LimitError`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise LimitError(f"{self._what} cannot be encoded: {error}") from error


def known(values: Mapping[int, ValueT], number: int, *, field: str) -> ValueT:
    """The value of an enum number that a peer sent."""
    try:
        return values[number]
    except KeyError:
        raise ProtocolError(
            f"{field} {number} is none of {sorted(values)}; is the peer of a newer version?"
        ) from None


def read_nanos(value: int, *, field: str) -> int:
    """An amount from a peer, at least 0 and at most `AMOUNT_NANOS_MAX`."""
    if not 0 <= value <= AMOUNT_NANOS_MAX:
        raise ProtocolError(f"{field} must be from 0 to {AMOUNT_NANOS_MAX}, not {value}")
    return value


def read_number(value: int, *, field: str, least: int = 1) -> int:
    """The number of a lease or a record, or a count, from a peer: it must fit into the books."""
    if not least <= value <= NUMBER_MAX:
        raise ProtocolError(f"{field} must be from {least} to {NUMBER_MAX}, not {value}")
    return value


def read_ppm(value: int, *, field: str) -> int:
    """A share from a peer, in parts per million."""
    if not 0 <= value <= PPM:
        raise ProtocolError(f"{field} must be from 0 to {PPM}, not {value}")
    return value


def read_chance(value: int, *, field: str) -> int:
    """A share that cannot be nothing, from a peer: what was left out is a whole one."""
    return read_ppm(value, field=field) or PPM


def read_id(value: str, *, field: str) -> str:
    """A name from a peer that must be there, and that the books find things by."""
    problem = _problem_of_id(value)
    if problem:
        raise ProtocolError(f"{field} {problem}")
    return value


def _problem_of_id(value: str) -> str:
    if not value:
        return "is missing"
    if len(value) > ID_CHARS_MAX:
        return f"has {len(value)} characters, the most is {ID_CHARS_MAX}: {value[:32]!r}..."
    return f"has a NUL: {value!r}" if "\x00" in value else ""


def write_nanos(value: int, *, field: str) -> int:
    """An amount to be sent or stored, at least 0 and at most `AMOUNT_NANOS_MAX`."""
    if not 0 <= value <= AMOUNT_NANOS_MAX:
        raise LimitError(f"{field} must be from 0 to {AMOUNT_NANOS_MAX}, not {value}")
    return value


def write_number(value: int, *, field: str, least: int = 1) -> int:
    """The number of a lease or a record, or a count, to be sent or stored."""
    if not least <= value <= NUMBER_MAX:
        raise LimitError(f"{field} must be from {least} to {NUMBER_MAX}, not {value}")
    return value


def write_ppm(value: int, *, field: str) -> int:
    """A share to be sent or stored, in parts per million."""
    if not 0 <= value <= PPM:
        raise LimitError(f"{field} must be from 0 to {PPM}, not {value}")
    return value


def write_chance(value: int, *, field: str) -> int:
    """A share that cannot be nothing, to be sent or stored: a whole one is left out."""
    if value == 0:
        raise LimitError(f"{field} must be more than 0")
    return 0 if value == PPM else write_ppm(value, field=field)


def write_id(value: str, *, field: str) -> str:
    """A name to be sent or stored that must be there, and be found again."""
    problem = _problem_of_id(value)
    if problem:
        raise LimitError(f"{field} {problem}")
    return value
