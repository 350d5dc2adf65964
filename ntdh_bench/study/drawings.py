"""Drawings of the study: forest plots over data sets, and dose-response curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ntdh_bench.report.effects import Pooled
from ntdh_bench.report.figures import (
    DoseLine,
    ForestLine,
    draw_doses,
    draw_forest,
    draw_key,
    side_by_side,
)
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.report.wording import interval
from ntdh_bench.study.results import DoseCurve, DosePoint, Part, Primary, SetEffect, Study

_SHARE, _WEIGHT = "share of the samples", "weight of the other distribution"
#: Class of an intervention: what it does, in words, and what its dose is.
INTERVENTIONS: Mapping[str, tuple[str, str]] = {
    "ShuffleNontarget": ("Non-target classes shuffled", _SHARE),
    "AlignNontarget": ("Non-target classes as the student has them", _WEIGHT),
    "UniformNontarget": ("Non-target classes made uniform", _WEIGHT),
    "ClassNontarget": ("Non-target classes as in the class mean", _SHARE),
    "ShuffleTarget": ("Lead of the target exchanged", _SHARE),
    "ScaleTarget": ("Lead of the target multiplied or divided", "factor (0: as it is)"),
    "ShiftTarget": ("Log-odds of the target shifted up or down", "shift (nats)"),
}


class Drawing(NamedTuple):
    """A drawing: what it shows, and the SVG element."""

    label: str
    svg: str


def forests(claim: Primary) -> list[Drawing]:
    """Return a forest plot of each part of a claim that was run."""
    return [
        Drawing(_label(claim, part), _forest(claim, part, f"forest-{claim.id}-{place}"))
        for place, part in enumerate(claim.parts)
        if any(found.effect for found in part.sets)
    ]


def dose_curves(curves: Sequence[DoseCurve], source: str) -> list[Drawing]:
    """Return a drawing an intervention, the key to their data sets behind them."""
    own = [curve for curve in curves if curve.source == source]
    sets = sorted({curve.dataset for curve in own})
    drawings = [
        Drawing(title, _doses(title, x_label, found, sets, f"doses-{name}-{source}"))
        for name, (title, x_label) in _named(own).items()
        if (found := [curve for curve in own if curve.intervention == name])
    ]
    if not drawings:
        return []
    return [*drawings, Drawing(f"Data sets: {', '.join(sets)}", draw_key(sets, f"key-{source}"))]


def readme_figure(study: Study) -> str | None:
    """Return the first claim's forest plot beside the curves it rests on; None before any run."""
    claim = study.claims[0]
    if not any(found.effect for found in claim.parts[0].sets):
        return None
    title = f"{claim.id}. Gain against dose, over data sets"
    curves = dose_curves(study.curves, "real")
    drawn = [*curves[:1], *curves[-1:]]
    forest = _forest(claim, claim.parts[0], "study", title)
    return side_by_side([forest, *(svg for _, svg in drawn)], _label(claim, claim.parts[0]))


# -- forest plots --------------------------------------------------------------------------------


def _label(claim: Primary, part: Part) -> str:
    return f"{claim.id}{f', {part.name}' if part.name else ''}: {claim.statement}"


def _forest(claim: Primary, part: Part, name: str, title: str = "") -> str:
    lines = [line for found in part.sets if (line := _set_line(found))]
    lines += _summary_line("all that count", part.summary)
    lines += _summary_line("of these, within both assumptions", part.within)
    expected = "below" if claim.sign < 0 else "above"
    part_of = f"{part.name}: " if part.name else ""
    return draw_forest(lines, f"{part_of}{claim.unit}; claimed {expected} 0", name, title=title)


def _set_line(found: SetEffect) -> ForestLine | None:
    if found.effect is None:
        return None
    value, (low, high) = found.effect.value, found.effect.interval()
    text = interval(value, low, high)
    return ForestLine(found.dataset, value, low, high, "counts" if found.counts else "apart", text)


def _summary_line(label: str, pooled: Pooled | None) -> list[ForestLine]:
    if pooled is None:
        return []
    value, low, high = pooled.value, pooled.low, pooled.high
    text = interval(value, low, high)
    return [ForestLine(f"{label} ({pooled.n})", value, low, high, "summary", text)]


# -- curves --------------------------------------------------------------------------------------


def _named(curves: Iterable[DoseCurve]) -> dict[str, tuple[str, str]]:
    """Return title and dose of all interventions, those that are known here first."""
    others = {curve.intervention: (curve.intervention, "dose") for curve in curves}
    return {**INTERVENTIONS, **{n: said for n, said in others.items() if n not in INTERVENTIONS}}


def _doses(
    title: str, x_label: str, curves: Sequence[DoseCurve], sets: Sequence[str], name: str
) -> str:
    lines = [_dose_line(curve, sets.index(curve.dataset)) for curve in curves]
    return draw_doses(lines, title, x_label, name)


def _dose_line(curve: DoseCurve, place: int) -> DoseLine:
    points = curve.points
    doses = [point.dose for point in points]
    return DoseLine(
        place,
        doses,
        _changes(points, [point.gain for point in points]),
        _changes(points, [point.ncjsd for point in points]),
        _changes(points, [point.tcjsd for point in points]),
    )


def _changes(points: Sequence[DosePoint], found: Sequence[Estimate | None]) -> list[float]:
    """Return means minus that at dose 0; NaN where either is unknown."""
    start = next((e.mean for p, e in zip(points, found, strict=True) if p.dose == 0 and e), None)
    return [math.nan if e is None or start is None else e.mean - start for e in found]
