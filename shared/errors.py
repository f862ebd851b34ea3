"""One tree of errors. Each says what happened, which value, and what to do."""

from __future__ import annotations


class TidegateError(Exception):
    """The root of every error that Tidegate raises on purpose.

    Attributes
    ----------
    code : str
        A stable word for programs, such as `budget_exceeded`.
    """

    code = "internal"


class InvariantError(TidegateError):
    """A promise of the code to itself was broken: a defect, never an operating error."""

    code = "invariant"


def invariant(holds: bool, message: str) -> None:
    """Raise `InvariantError` unless `holds`; unlike `assert` it survives `python -O`."""
    if not holds:
        raise InvariantError(message)


class ConfigError(TidegateError):
    """A configuration cannot be used.

    Parameters
    ----------
    key : str
        The dotted key at fault, such as `arms.gpt.price.input_usd_per_mtok`.
    problem : str
        What is wrong with it and what would be right.
    """

    code = "config_invalid"

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


class NotFoundError(TidegateError):
    """What was named does not exist."""

    code = "not_found"


class ConflictError(TidegateError):
    """The request contradicts what is already recorded."""

    code = "conflict"


class PermissionDeniedError(TidegateError):
    """The credential does not allow this."""

    code = "permission_denied"


class AuthenticationError(TidegateError):
    """No credential, or one that is wrong, used up, expired or revoked."""

    code = "unauthenticated"


class ProtocolError(TidegateError):
    """The peer sent what the protocol does not allow."""

    code = "protocol"


class ProtocolVersionError(ProtocolError):
    """The peers' protocol versions are too far apart."""

    code = "protocol_version"

    def __init__(self, *, ours: object, theirs: object) -> None:
        super().__init__(
            f"protocol {theirs} does not work with protocol {ours}: major versions must agree "
            "and minor versions may differ by one; upgrade the older peer"
        )


class LimitError(TidegateError):
    """A value is beyond one of the limits in `shared/limits.py`."""

    code = "limit_exceeded"


class StoreError(TidegateError):
    """Durable state could not be read or written."""

    code = "store"


class BooksFullError(StoreError):
    """The device's disk is full (rule O_3): paid arms close, local answers go on."""

    code = "disk_full"


class BooksCorruptError(StoreError):
    """The device's books cannot be trusted (rule O_3); they are set aside, not reset."""

    code = "books_corrupt"


class LostLeadershipError(StoreError):
    """Another coordinator has become the one writer (rule C_5)."""

    code = "not_leader"
