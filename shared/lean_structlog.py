"""structlog without rich, for who imports this before it.

Where rich is installed, for the commands, structlog loads it to draw tracebacks on consoles: 3 MB
and a tenth of a second at every start of a daemon that writes plain ones.
"""

from __future__ import annotations

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
