"""What waits to be sent to one connected device."""

from __future__ import annotations

import asyncio

from coordinator.messages import Message

OUTBOX_MESSAGES_MAX = 1_000


class Outbox:
    """Messages for one connected device; closed when a newer session takes its place."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(OUTBOX_MESSAGES_MAX)

    def put(self, message: Message) -> bool:
        """Queue a message; False when the device does not keep up."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True

    def close(self) -> None:
        """End the session after what is queued."""
        while True:
            try:
                self._queue.put_nowait(None)
            except asyncio.QueueFull:
                self._queue.get_nowait()
            else:
                return

    async def get(self) -> Message | None:
        """The next message; None at the end."""
        return await self._queue.get()
