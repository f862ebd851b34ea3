"""A fleet that can pay, for what is measured on real processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.fleet import CloudArm, Fleet
from tests.e2e.provider import Provider


@contextmanager
def paying_fleet(**more: Any) -> Iterator[Fleet]:
    """A coordinator and a provider; devices have the local arm `tiny` and the paid arm `cloud`.

    Parameters
    ----------
    more
        What `Fleet.start` takes beside these arms.
    """
    provider = Provider()
    provider.start()
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder))
        try:
            clouds = {"cloud": CloudArm(provider.base_url)}
            fleet.start(clouds=clouds, classes={"edge": ["tiny", "cloud"]}, **more)
            yield fleet
        finally:
            fleet.close()
            provider.stop()
