"""Work for other processes, which import it by name."""

from __future__ import annotations

import os
import signal
import threading


def interrupt_the_parent(parent_id: int) -> None:
    """Do to the parent what Ctrl-C does (to 0: nothing), and then work for ever."""
    if parent_id:
        os.kill(parent_id, signal.SIGINT)
    threading.Event().wait()
