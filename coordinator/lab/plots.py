"""Pictures of the lab's results: rows of panels with lines, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.policy.base import FloatArray
from shared.errors import ConfigError

_PANEL_INCHES = (5.0, 4.0)
_DPI = 120


@dataclass(frozen=True, eq=False, kw_only=True)
class Series:
    """One line.

    Parameters
    ----------
    name : str
        In the legend.
    x, y : ndarray, shape (n,)
    low, high : ndarray, shape (n,), optional
        Ends of a shaded band.
    marker : str
        matplotlib's sign for the points; none by default.
    """

    name: str
    x: FloatArray
    y: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None
    marker: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes.

    Parameters
    ----------
    title, x_label, y_label : str
    series : sequence of Series
    x_log, y_log : bool
        Logarithmic axes.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_log: bool = False
    y_log: bool = False


def save_panels(path: Path, *, panels: Sequence[Panel], title: str = "") -> None:
    """Draw panels side by side and write them as a PNG file.

    A name has the same colour in every panel; the legend stands in the first one.

    Raises
    ------
    ConfigError
        When matplotlib is not installed, or the file cannot be written.
    """
    try:
        # Here, not above: it takes half a second, and only pictures need it.
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "--out", "pictures need matplotlib: pip install 'tidegate[lab]'"
        ) from error
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * len(panels), height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.series))
    colour = {name: f"C{index % 10}" for index, name in enumerate(names)}
    style = {name: "-" if index < 10 else "--" for index, name in enumerate(names)}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for line in panel.series:
            axes.plot(
                line.x,
                line.y,
                color=colour[line.name],
                linestyle=style[line.name],
                marker=line.marker or None,
                label=line.name,
                linewidth=1.4,
            )
            if line.low is not None and line.high is not None:
                axes.fill_between(
                    line.x, line.low, line.high, color=colour[line.name], alpha=0.15, linewidth=0
                )
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.set_xscale("log" if panel.x_log else "linear")
        axes.set_yscale("log" if panel.y_log else "linear")
        axes.grid(visible=True, alpha=0.25)
    figure.axes[0].legend(fontsize="small")
    if title:
        figure.suptitle(title)
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError("--out", f"{path} cannot be written: {error.strerror}") from error
