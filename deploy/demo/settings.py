"""What the demo runs with: devices, prices, budget, times and shares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.demo.models.tasks import TASK_CLASSES
from shared.decision.money import Price, nanos_from_dollars

ROOT: Final = Path(__file__).resolve().parents[2]
MODELS: Final = ROOT / "deploy" / "demo" / "models"
LOCAL_ARMS: Final = ("tiny", "small")
CLOUD_ARM: Final = "large"
ARMS: Final = (*LOCAL_ARMS, CLOUD_ARM)
CLOUD_KEY_VARIABLE: Final = "DEMO_CLOUD_KEY"
CLOUD_VENV_VARIABLE: Final = "CLOUD_VENV"
MAX_TOKENS: Final = 24
DEADLINES_MS: Final = (700, 700, 400, 180, 500, 400)
"""By task class: short answers are wanted sooner. The small model is too slow for some on the pi,
where the tiny one is as good at sorting and counting."""


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """A cloud model's prices in dollars, as text so that they stay exact."""

    input_usd_per_mtok: str = "0.40"
    output_usd_per_mtok: str = "1.60"
    request_usd: str = "0.00005"

    @property
    def price(self) -> Price:
        """The same prices in nano-dollars."""
        return Price(
            input_nanos_per_mtok=nanos_from_dollars(self.input_usd_per_mtok),
            output_nanos_per_mtok=nanos_from_dollars(self.output_usd_per_mtok),
            request_nanos=nanos_from_dollars(self.request_usd),
        )


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A device class: its share of the demand, its task mix and the pace of its models.

    Attributes
    ----------
    demand_share : float
        Part of all requests that arrives at this device.
    mix : mapping of str to float
        Relative frequency of each task class.
    tokens_per_second : mapping of str to float
        Pace of each local arm, which stands in for slower hardware. Its keys are the device's
        local arms, from the weakest to the strongest.
    """

    demand_share: float
    mix: Mapping[str, float]
    tokens_per_second: Mapping[str, float]

    @property
    def local_arms(self) -> tuple[str, ...]:
        """The local arms, from the weakest to the strongest."""
        return tuple(self.tokens_per_second)

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms of the device, the cloud arm last."""
        return (*self.local_arms, CLOUD_ARM)


def _mix(*shares: float) -> Mapping[str, float]:
    return dict(zip(TASK_CLASSES, shares, strict=True))


DEVICES: Final[Mapping[str, DeviceProfile]] = {
    "pi": DeviceProfile(
        demand_share=0.34,
        mix=_mix(0.30, 0.16, 0.18, 0.14, 0.12, 0.10),
        tokens_per_second={"tiny": 90.0, "small": 24.0},
    ),
    "jetson": DeviceProfile(
        demand_share=0.36,
        mix=_mix(0.14, 0.14, 0.16, 0.16, 0.20, 0.20),
        tokens_per_second={"tiny": 180.0, "small": 60.0},
    ),
    "laptop": DeviceProfile(
        demand_share=0.30,
        mix=_mix(0.10, 0.14, 0.14, 0.14, 0.22, 0.26),
        tokens_per_second={"small": 200.0},
    ),
}
"""The device classes of the demo; one device runs of each."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """One run of the demo.

    Attributes
    ----------
    state : pathlib.Path
        Folder for logs, books and configurations; emptied at the start.
    report, picture : pathlib.Path
        The files that the run leaves behind.
    drive_s, start_s, tail_s : int
        Length of the drive, the time left for starting up, and the time after the drive in
        which the books are read. Together they are the budget's window.
    outage_from_s, outage_s : float
        When, in the drive, the coordinator is stopped and for how long.
    """

    state: Path
    report: Path
    picture: Path
    cloud_python: Path
    seed: int = 7
    drive_s: int = 150
    start_s: int = 10
    tail_s: int = 10
    slot_s: int = 2
    requests_per_s: float = 9.5
    stream_share: float = 0.3
    abort_share: float = 0.015
    outage_from_s: float = 62.0
    outage_s: float = 25.0
    network_ms: float = 80.0
    network_jitter_ms: float = 30.0
    budget_usd: str = "0.026"
    sla_floor: float = 0.95
    sla_rho: float = 1.0
    sla_slack_max: float = 0.2
    prices: PriceList = field(default_factory=PriceList)
    deadlines_ms: Mapping[str, int] = field(
        default_factory=lambda: dict(zip(TASK_CLASSES, DEADLINES_MS, strict=True))
    )

    @property
    def window_s(self) -> int:
        """The length of the budget's window, a whole number of slots."""
        total = self.start_s + self.drive_s + self.tail_s
        return -(-total // self.slot_s) * self.slot_s

    @property
    def budget_nanos(self) -> int:
        """The budget in nano-dollars."""
        return nanos_from_dollars(self.budget_usd)

    @property
    def logs(self) -> Path:
        """Where the processes write their logs."""
        return self.state / "logs"


def cloud_python(override: Path | None) -> Path:
    """The interpreter of the third-party server's virtual environment.

    Parameters
    ----------
    override : pathlib.Path or None
        The one given on the command line. Without it the environment variable `CLOUD_VENV`
        names the virtual environment, else it is `.venv-cloud`.
    """
    if override is not None:
        return override
    venv = Path(os.environ.get(CLOUD_VENV_VARIABLE) or ".venv-cloud")
    return (venv if venv.is_absolute() else ROOT / venv) / "bin" / "python"
