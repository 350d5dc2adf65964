"""Figures as SVG text: one style, one panel a drawing, equal bytes for equal numbers.

Panels are drawn apart, so that a page can wrap them on a narrow screen; :func:`side_by_side` puts
them into one file. Nothing here touches pyplot's global state.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import escape
from itertools import accumulate, cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ntdh_bench.report.layouts import Curve, Panel
from ntdh_bench.report.ranks import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart with any colour vision; a marker each for black and white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"
_INK, _QUIET, _FAINT, _GRID = "#222222", "#666666", "#999999", "#e4e4e4"
_WIDTH, _HEIGHT, _LEGEND_LINE = 4.3, 3.1, 0.19  # inches
_BAR_STEP = 0.4  # lines of text, between the bars of a diagram of ranks
_FONTS = "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_STYLE: Any = {
    "text.parse_math": False,  # a label may hold any character
    "svg.fonttype": "none",  # text stays text: small, searchable
    "font.size": 9.5,
    "text.color": _INK,
    "axes.facecolor": "none",
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
}


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``<svg>`` element; ``name`` keeps its ids apart from others'."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern, replacement in (
        (r" *<metadata>.*?</metadata>\n", ""),
        (r" *<defs>\s*<style[^>]*>.*?</style>\s*</defs>\n", ""),  # would hold for a whole page
        (r" font-family: [^;\"]*;", ""),
        (r' (width|height)="[\d.]+pt"', ""),  # the page, or the file, says how large
        (r"<svg ([^>]*)>", f'<svg \\1 font-family="{_FONTS}" stroke-linejoin="round">'),
        (r'(<image\b[^>]*?) id="[^"]*"', r"\1"),  # equal images would share it
        (r'id="', f'id="{name}-'),
        (r'(url\(#|href="#)', rf"\1{name}-"),
    ):
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    return svg


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    figure.patch.set_alpha(0)
    return figure


# -- lines and points ----------------------------------------------------------------------------


_HALF_LINE = 30  # characters of a label that two columns hold


def draw_panel(panel: Panel, name: str) -> str:
    """Return a panel as SVG: means with bands of their 95 % intervals, or points.

    Args:
        panel: the numbers.
        name: of the drawing, unique on a page.
    """
    with rc_context(_STYLE):
        entries = len(panel.curves) + len(panel.levels)
        longest = max(map(len, _labels(panel)))
        columns = 4 if longest <= 9 else 2 if longest <= _HALF_LINE else 1
        legend = _LEGEND_LINE * -(-entries // columns) if entries > 1 else 0
        figure = _figure(_WIDTH, _HEIGHT + legend)
        axes = figure.subplots()
        ticks = sorted({x for curve in panel.curves for x in curve.x})
        for index, curve in enumerate(panel.curves):
            _draw_curve(axes, curve, _colour(panel.curves, index), index, panel, ticks)
        dashes = cycle(((4, 2), (1, 1.5), (6, 2, 1, 2)))
        for level, dash in zip(panel.levels, dashes, strict=False):
            _draw_level(axes, level, dash)
        if panel.even:
            axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
        axes.grid(axis="y")
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        if entries > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=columns)
        axes.set_title(panel.title, pad=6 + 72 * legend)
        return _svg(figure, name)


def _labels(panel: Panel) -> list[str]:
    return [curve.label for curve in (*panel.curves, *panel.levels)]


def _colour(curves: Sequence[Curve], index: int) -> str:
    """Return the next colour, or a shade of one where the lines are ordered."""
    family = [i for i, curve in enumerate(curves) if curve.ordered]
    if index not in family:
        return _QUIET if family else _COLOURS[index % len(_COLOURS)]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    place = family.index(index) / max(1, len(family) - 1)
    return to_hex(colormaps["viridis"](0.88 * (1 - place)))


def _draw_curve(
    axes: Axes, curve: Curve, colour: str, index: int, panel: Panel, ticks: Sequence[float]
) -> None:
    scale = curve.unit.scale
    x = np.array([ticks.index(value) if panel.even else value for value in curve.x])
    mean = np.array([point.mean for point in curve.y]) * scale
    low, high = (np.array(bound) * scale for bound in _bounds(curve))
    look: dict[str, Any] = {"color": colour, "marker": _MARKERS[index % len(_MARKERS)]}
    if panel.scatter:
        axes.plot(x, mean, linestyle="", alpha=0.6, markeredgewidth=0, label=curve.label, **look)
        return
    look["marker"] = "" if len(x) > 25 else look["marker"]
    axes.fill_between(
        x, low, high, color=colour, alpha=0.08 if curve.ordered else 0.14, linewidth=0
    )
    axes.plot(x, mean, label=curve.label, **look)


def _bounds(curve: Curve) -> tuple[list[float], list[float]]:
    low = [point.mean if point.low is None else point.low for point in curve.y]
    high = [point.mean if point.high is None else point.high for point in curve.y]
    return low, high


def _draw_level(axes: Axes, level: Curve, dash: tuple[float, ...]) -> None:
    point, scale = level.y[0], level.unit.scale
    line = axes.axhline(point.mean * scale, color=_QUIET, linewidth=1.2, label=level.label)
    line.set_dashes(dash)
    if point.low is not None and point.high is not None:
        axes.axhspan(point.low * scale, point.high * scale, color=_QUIET, alpha=0.10, linewidth=0)


# -- heat maps -----------------------------------------------------------------------------------


def draw_maps(maps: Sequence[tuple[str, NDArray[np.float64]]], name: str) -> str:
    """Return heat maps ``(H, W)`` >= 0, each on a scale of its own from 0.

    They lie side by side; wide ones, which would be too small to read, below each other.
    """
    with rc_context(_STYLE):
        height, width = maps[0][1].shape
        wide = width > 2 * height
        side, across = (_WIDTH, 1) if wide else (1.7, len(maps))
        down = len(maps) // across
        figure = _figure(side * across + 0.1, (0.4 + side * min(1.0, height / width)) * down)
        axes = figure.subplots(down, across, squeeze=False)
        for axis, (title, values) in zip(axes.flat, maps, strict=True):
            axis.imshow(values, cmap="magma", vmin=0, vmax=float(values.max()) or 1.0)
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=9, fontweight="normal")
            axis.spines[:].set_visible(False)
        return _svg(figure, name)


# -- the hypothesis ------------------------------------------------------------------------------

_MARGIN = 1.15  # of the longest interval of a data set: how far a forest plot reaches


class ForestLine(NamedTuple):
    """A line of a forest plot.

    Attributes:
        label: on its left.
        value: of the estimate.
        low: lower end of its interval; None if there is none.
        high: upper end.
        kind: an estimate, one that does not count, or a summary of those that do.
        text: on its right.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    kind: Literal["counts", "apart", "summary"]
    text: str = ""


def draw_forest(
    lines: Sequence[ForestLine],
    x_label: str,
    name: str,
    limits: tuple[float, float] | None = None,
    title: str = "",
) -> str:
    """Return a forest plot: points with intervals, hollow if they do not count, and diamonds.

    Args:
        lines: from the top.
        x_label: what the values are.
        name: of the drawing, unique on a page.
        limits: of the values; by default all intervals fit but those of summaries, which are cut.
        title: of the drawing.
    """
    with rc_context(_STYLE):
        figure = _figure(_WIDTH, 0.7 + 0.32 * len(lines) + 0.2 * bool(title))
        axes = figure.subplots()
        axes.axvline(0, color=_QUIET, linewidth=0.8)
        for y, line in enumerate(lines):
            _draw_forest_line(axes, y, line)
        axes.set(
            xlim=limits or _reach(lines), ylim=(len(lines) - 0.5, -0.75), xlabel=x_label, yticks=[]
        )
        axes.set_title(title)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        return _svg(figure, name)


def _draw_forest_line(axes: Axes, y: int, line: ForestLine) -> None:
    summary = line.kind == "summary"
    colour = {"counts": _COLOURS[0], "apart": _FAINT, "summary": _COLOURS[1]}[line.kind]
    if line.low is not None and line.high is not None:
        axes.plot([line.low, line.high], [y, y], color=colour, linewidth=2.4 if summary else 1.4)
    marker = "D" if summary else "o"
    face = colour if line.kind != "apart" else "white"
    axes.plot([line.value], [y], marker=marker, color=colour, markersize=5, markerfacecolor=face)
    look: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "va": "center",
        "fontsize": 8.5,
        "fontweight": "bold" if summary else "normal",
        "color": _QUIET if line.kind == "apart" else _INK,
    }
    axes.text(0.01, y - 0.36, line.label, **look)
    axes.text(0.99, y - 0.36, line.text, ha="right", **look)


def _reach(lines: Sequence[ForestLine]) -> tuple[float, float]:
    """Return an even range around 0 that holds the intervals of all lines but summaries."""
    own = [line for line in lines if line.kind != "summary"] or lines
    ends = [abs(end) for line in own for end in (line.value, line.low, line.high) if end]
    reach = _MARGIN * max(ends, default=1.0)
    return -reach, reach


# -- doses ---------------------------------------------------------------------------------------


class DoseLine(NamedTuple):
    """How a data set answers to a dose, as differences from no dose.

    Attributes:
        place: of the data set among all that are shown: its colour and marker.
        doses: ascending.
        gain: at each; NaN if it is not known.
        ncjsd: divergence over the non-target classes, likewise.
        tcjsd: that of the target class, likewise.
    """

    place: int
    doses: Sequence[float]
    gain: Sequence[float]
    ncjsd: Sequence[float]
    tcjsd: Sequence[float]


def draw_doses(lines: Sequence[DoseLine], title: str, x_label: str, name: str) -> str:
    """Return what a dose does, a line a data set: to the gain and, below, to both divergences.

    Args:
        lines: in any order.
        title: of the drawing.
        x_label: what the dose is.
        name: of the drawing, unique on a page.
    """
    with rc_context(_STYLE):
        figure = _figure(_WIDTH, _HEIGHT + 0.9)
        above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
        for line in lines:
            above.plot(line.doses, line.gain, linewidth=1.3, alpha=0.9, **_look(line.place))
            below.plot(line.doses, line.tcjsd, color=_COLOURS[1], linewidth=0.9, dashes=(4, 2))
            below.plot(line.doses, line.ncjsd, color=_COLOURS[0], linewidth=0.9)
        for axes in (above, below):
            axes.axhline(0, color=_QUIET, linewidth=0.8)
            axes.grid(axis="y")
        above.set(ylabel="change of gain (points)")
        below.set(ylabel="change (nats)", xlabel=x_label)
        names = [
            Line2D([], [], color=_COLOURS[0], linewidth=1.2, label="NCJSD"),
            Line2D([], [], color=_COLOURS[1], linewidth=1.2, dashes=(4, 2), label="TCJSD"),
        ]
        below.legend(
            handles=names, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=2
        )
        above.set_title(title)
        return _svg(figure, name)


def _look(place: int) -> dict[str, Any]:
    """Return colour and marker of the line or points in a place, told apart up to 36."""
    marker = _MARKERS[(place // len(_COLOURS) + place) % len(_MARKERS)]
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": marker}


def draw_key(labels: Sequence[str], name: str) -> str:
    """Return what colours and markers stand for in :func:`draw_doses`: labels in their places."""
    with rc_context(_STYLE):
        figure = _figure(_WIDTH, 0.15 + _LEGEND_LINE * -(-len(labels) // 2))
        handles = [
            Line2D([], [], label=label, **_look(place)) for place, label in enumerate(labels)
        ]
        figure.legend(handles=handles, loc="center left", ncols=2)
        return _svg(figure, name)


def draw_scatter(
    groups: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str,
    name: str,
) -> str:
    """Return points of several groups (label, x, y) in one panel."""
    with rc_context(_STYLE):
        legend = _LEGEND_LINE * -(-len(groups) // 2)
        figure = _figure(_WIDTH, _HEIGHT + legend)
        axes = figure.subplots()
        axes.axhline(0, color=_QUIET, linewidth=0.8)
        for index, (label, x, y) in enumerate(groups):
            axes.plot(
                x, y, linestyle="", alpha=0.75, label=label, markeredgewidth=0, **_look(index)
            )
        axes.grid()
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=2)
        axes.set_title(title, pad=6 + 72 * legend)
        return _svg(figure, name)


# -- ranks ---------------------------------------------------------------------------------------


def draw_ranks(ranking: Ranking, name: str) -> str:
    """Return a critical-difference diagram: methods at their mean ranks, best on the left.

    Bars join methods that are not told apart; above the axis is the critical difference.
    """
    with rc_context(_STYLE):
        half = (len(ranking.methods) + 1) // 2
        first_label = 1.0 + _BAR_STEP * len(ranking.alike)
        depth = first_label + half
        figure = _figure(1.2 * _WIDTH, 0.6 + 0.21 * (depth + 2))
        axes = figure.subplots()
        low, high = math.floor(ranking.ranks[0]), math.ceil(ranking.ranks[-1])
        high = max(high, low + math.ceil(ranking.difference or 1))
        axes.set(xlim=(low, high), ylim=(depth, -2.2 if ranking.difference else -0.5))
        _draw_rank_axis(axes, low, high)
        if ranking.difference:
            _draw_bar(axes, low, low + ranking.difference, -1.6, _QUIET, 1.2)
            text = f"critical difference {ranking.difference:.2f}"
            axes.text(low, -1.9, text, va="bottom", fontsize=9)
        for place, (method, rank) in enumerate(zip(ranking.methods, ranking.ranks, strict=True)):
            left = place < half
            y = first_label + (place if left else len(ranking.methods) - 1 - place)
            end = low if left else high
            axes.plot([rank, rank, end], [0, y, y], color=_QUIET, linewidth=0.8, clip_on=False)
            axes.annotate(
                method, (end, y), (-3 if left else 3, 0), va="center",
                textcoords="offset points", ha="right" if left else "left", fontsize=9,
            )  # fmt: skip
        for index, (first, last) in enumerate(ranking.alike):
            y = 0.75 + _BAR_STEP * index
            _draw_bar(axes, ranking.ranks[first], ranking.ranks[last], y, _COLOURS[1], 2.6)
        return _svg(figure, name)


def _draw_rank_axis(axes: Axes, low: int, high: int) -> None:
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    axes.plot([low, high], [0, 0], color=_INK, linewidth=0.8, clip_on=False)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [-0.25, 0], color=_INK, linewidth=0.8, clip_on=False)
        if (tick - low) % (1 + (high - low) // 12) == 0:
            axes.text(tick, -0.4, str(tick), ha="center", va="bottom", fontsize=9)


def _draw_bar(axes: Axes, start: float, end: float, y: float, colour: str, width: float) -> None:
    axes.plot([start, end], [y, y], color=colour, linewidth=width, solid_capstyle="butt")


# -- files ---------------------------------------------------------------------------------------


def side_by_side(drawings: Sequence[str], title: str, columns: int = 2) -> str:
    """Return drawings as one SVG file, ``columns`` in a row, on white."""
    sizes = [_size(drawing) for drawing in drawings]
    across, width = min(columns, len(drawings)), max(w for w, _ in sizes)
    rows = [sizes[i : i + across] for i in range(0, len(sizes), across)]
    tops = [0.0, *accumulate(max(h for _, h in row) for row in rows)]
    parts = [
        drawing.replace(
            "<svg",
            f'<svg x="{i % across * width:g}" y="{tops[i // across]:g}" '
            f'width="{w:g}" height="{h:g}"',
            1,
        )
        for i, (drawing, (w, h)) in enumerate(zip(drawings, sizes, strict=True))
    ]
    box = f"{across * width:g} {tops[-1]:g}"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{across * width:g}pt" height="{tops[-1]:g}pt" viewBox="0 0 {box}" '
        f'role="img">\n<title>{escape(title)}</title>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{"".join(parts)}</svg>\n'
    )


def _size(drawing: str) -> tuple[float, float]:
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    if found is None:
        raise ValueError("a drawing without a viewBox")
    return float(found[1]), float(found[2])
