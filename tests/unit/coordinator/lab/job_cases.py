"""Work for other processes, which import it by name."""

from __future__ import annotations

import os
import signal
import threading


def interrupt_the_parent(parent_id: int) -> None:
    """Work for ever, and do to the parent what somebody at Ctrl-C does (to 0: nothing).

    Python loses the interrupt that comes while it finalises an object, so it comes again.
    """
    while True:
        if parent_id:
            os.kill(parent_id, signal.SIGINT)
        threading.Event().wait(5.0)
