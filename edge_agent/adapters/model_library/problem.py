"""What can go wrong with model files."""

from __future__ import annotations

from shared.errors import TidegateError


class LibraryError(TidegateError):
    """A model file could not be fetched, checked or removed; the message says what to do."""

    code = "model_library"
