"""Line charts and histograms as SVG strings that take the page's colours and fonts."""

import io
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = (
    "#2f6fde",
    "#e07b1a",
    "#2a9d64",
    "#b0479b",
    "#8a6d3b",
    "#4fa3b8",
    "#d64545",
    "#7d6bd6",
    "#9aa329",
    "#5f6b7a",
)
BESIDE = 4
"""Names in a legend that find room among the lines; longer ones are below the chart."""
SIZE = (4.3, 2.5)  # inches at 72 dpi: readable unscaled on a phone, three beside each other on a desktop

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Name -> (x values, y values)."""


def line_chart(
    series: Series,
    *,
    x_label: str,
    log_y: bool = False,
    colours: Mapping[str, str] | None = None,
    legend: bool = True,
    smoothed: bool = True,
) -> str:
    """Draw named lines over a common axis and return SVG.

    Args:
        series: the lines.
        x_label: name of the common axis.
        log_y: a logarithmic axis for the values.
        colours: those of some names; others take the next one.
        legend: name the lines in the chart, if there are several.
        smoothed: draw a moving average over lines of many points.
    """
    figure, axes = _figure()
    for number, (name, (xs, ys)) in enumerate(series.items()):
        colour = (colours or {}).get(name, COLOURS[number % len(COLOURS)])
        noisy = smoothed and len(ys) > 40
        axes.plot(xs, ys, color=colour, linewidth=1.0 if noisy else 1.8, alpha=0.3 if noisy else 1.0)
        if noisy:
            axes.plot(xs, smooth(ys), color=colour, linewidth=1.8)
        axes.plot([], [], color=colour, linewidth=1.8, label=name)
    if log_y:
        axes.set_yscale("log")
    axes.set_xlabel(x_label)
    if legend and len(series) > BESIDE:
        figure.set_figheight(SIZE[1] + 0.22 * math.ceil(len(series) / 3))
        figure.legend(frameon=False, loc="outside lower center", ncols=3, handlelength=1.2)
    elif legend and len(series) > 1:
        axes.legend(frameon=False, loc="best", handlelength=1.2)
    return _svg(figure)


def histogram(values: Sequence[float], *, x_label: str, bins: int = 24) -> str:
    """Draw a histogram and return SVG."""
    figure, axes = _figure()
    axes.hist(values, bins=bins, color=COLOURS[0], alpha=0.85)
    axes.set_xlabel(x_label)
    return _svg(figure)


def smooth(values: Sequence[float], share: float = 0.04) -> list[float]:
    """Return a centred moving average over about `share` of the values."""
    half = max(1, round(len(values) * share / 2))
    total = [0.0]
    for value in values:
        total.append(total[-1] + value)
    out = []
    for i in range(len(values)):
        low, high = max(0, i - half), min(len(values), i + half + 1)
        out.append((total[high] - total[low]) / (high - low))
    return out


def _figure() -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=SIZE, dpi=72, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.tick_params(length=0, labelsize=8.5)
    axes.xaxis.label.set_fontsize(8.5)
    axes.locator_params(axis="x", nbins=6)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "legend.fontsize": 8.5}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # The page decides the size; only the viewBox stays.
    return re.sub(
        r'(<svg[^>]*?) (?:width|height)="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", text, count=1),
        count=1,
    )
