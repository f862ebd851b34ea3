"""From Tidegate's errors to gRPC statuses, in one place; what was not foreseen stays inside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import structlog

from shared.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    LimitError,
    LostLeadershipError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    ProtocolVersionError,
    StoreError,
    TidegateError,
)

log = structlog.get_logger(__name__)
INTERNAL: Final = "an internal error; see the server's log"
_STATUSES: Final[tuple[tuple[type[TidegateError], grpc.StatusCode], ...]] = (
    (ProtocolVersionError, grpc.StatusCode.FAILED_PRECONDITION),
    (ProtocolError, grpc.StatusCode.ABORTED),
    (AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (LimitError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (LostLeadershipError, grpc.StatusCode.UNAVAILABLE),
    (StoreError, grpc.StatusCode.UNAVAILABLE),
)


@asynccontextmanager
async def translated(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Turn an error of the body into the call's status."""
    try:
        yield
    except TidegateError as error:
        code = next((c for kind, c in _STATUSES if isinstance(error, kind)), None)
        if code is not None:
            await context.abort(code, str(error))
        log.exception("call_failed")
        await context.abort(grpc.StatusCode.INTERNAL, INTERNAL)
    except (grpc.aio.AbortError, grpc.RpcError):
        raise
    except Exception:
        log.exception("call_failed")
        await context.abort(grpc.StatusCode.INTERNAL, INTERNAL)
