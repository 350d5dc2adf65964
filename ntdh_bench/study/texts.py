"""The study in words: Markdown to read, and CSV that holds every number."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ntdh_bench.report import wording
from ntdh_bench.report.effects import MARGIN, MIN_SETS, Pooled
from ntdh_bench.report.gates import Gate
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.report.tables import fixed, markdown_rows, plain
from ntdh_bench.study.answer import in_short
from ntdh_bench.study.results import (
    ASSUMPTIONS,
    COUNTING,
    MIN_SEEDS,
    Decision,
    DoseCurve,
    Guide,
    Part,
    Power,
    Primary,
    Rival,
    Sensitivity,
    SetEffect,
    SettingEffect,
    Study,
)

RULES = (
    f"The unit is the data set: its protocols and directions are averaged first. A verdict needs "
    f"{MIN_SETS} data sets that count; one counts if it has {MIN_SEEDS} seeds and passes the gates "
    f"{', '.join(COUNTING)}. Means are over data sets, each of "
    f"which counts the same, their intervals Student's over them. *Holds* and *fails* "
    f"need Holm's correction over both sides of the seven claims, *no effect* a mean within "
    f"± {MARGIN:g} (two one-sided tests). Each claim is judged again over the data sets within "
    f"Assumptions 1 and 2 ({' and '.join(ASSUMPTIONS)})."
)
SECONDARY_HEAD = (
    "intervention", "slope [95 %]", "data sets", "above 0", "below 0", "NCJSD", "TCJSD",
    "two-way TCJSD",
)  # fmt: skip
SECONDARY_NOTE = (
    "Points from no dose to the largest, over data sets that pass the gates but for manipulation; "
    "one lies above 0 if its interval does. Where divergences moved: least and most, in nats; "
    "TCJSD is one term of its two-way form, that of the target against all else, and may fall as "
    "that rises. Uncorrected: they decide nothing."
)
_GATES = (*COUNTING, *ASSUMPTIONS)
_AGREES = {True: "yes", False: "no", None: "–"}
_SIGNS = {True: "✓", False: "✗", None: "?"}
_EFFECT = ("value", "low", "high", "variance", "p", "seeds", "cells")
_HEAD = (
    "claim", "part", "unit", "source", "level", "dataset", "protocol", *_EFFECT, "n", "between",
    "p_holm", "verdict", "counts", "within", *_GATES, "measured", "reason",
)  # fmt: skip


# -- Markdown ------------------------------------------------------------------------------------


def markdown(study: Study) -> str:
    """Return the study as Markdown."""
    parts = [
        "# The study",
        "\n".join(f"- {line}" for line in in_short(study)),
        "\n".join(f"- {line}" for line in study.left_out),
        RULES,
        "## Primary claims",
        _claims(study.claims),
        *(_claim(claim) for claim in study.claims if _is_run(claim)),
        *_section("Power", _power(study.power)),
        *_section("Interventions, secondary", _secondary(study.secondary)),
        *(_sensitivity(found) for found in study.sensitivity),
        *_section("Rival theories", _rivals(study.rivals)),
        *_section("What to do with it", _guide(study.guide)),
        *_section("Rehearsal on simulated data", _rehearsal(study.rehearsal)),
        wording.SEEDS_NOTE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(heading: str, text: str) -> list[str]:
    return [f"## {heading}", text] if text else []


def _is_run(claim: Primary) -> bool:
    return any(part.sets for part in claim.parts)


def _claims(claims: Iterable[Primary]) -> str:
    head = ("claim", "says", "effect [95 %]", "n", "Holm p", "verdict", "within both assumptions")
    lines = [
        (
            claim.id, claim.statement, _effects(claim, claim.parts), str(claim.overall.n),
            wording.p_value(claim.overall.p_holm), _verdict(claim.overall),
            f"{_verdict(claim.within)} (n {claim.within.n})",
        )
        for claim in claims
    ]  # fmt: skip
    return markdown_rows(head, lines)


def _effects(claim: Primary, parts: Iterable[Part]) -> str:
    """Return the means of a claim's parts, its unit after the last."""
    said = [f"{part.name}: " * bool(part.name) + _pooled(part.summary) for part in parts]
    known = any(part.summary for part in claim.parts)
    return f"{'; '.join(said)} {claim.unit}" if known else "–"


def _pooled(found: Pooled | None) -> str:
    return "–" if found is None else wording.interval(found.value, found.low, found.high)


def _verdict(decision: Decision) -> str:
    return f"{decision.verdict}: {decision.reason}" if _tells(decision) else decision.verdict


def _tells(decision: Decision) -> bool:
    return bool(decision.reason) and decision.reason != decision.verdict


def _claim(claim: Primary) -> str:
    """Return the data sets of a claim."""
    head = ("data set", f"effect [95 %], {claim.unit}", "seeds", "counts", *_GATES)
    where = "below" if claim.sign < 0 else "above"
    told = f"{claim.effect}; expected {where} 0." + f" {claim.note}." * bool(claim.note)
    text = [f"### {claim.id}. {claim.statement}", told]
    for part in claim.parts:
        lines = [
            (
                found.dataset, wording.interval(found.value, found.low, found.high),
                str(found.seeds), "yes" if found.counts else "no", *map(_gate, found.gates),
            )
            for found in part.sets
        ]  # fmt: skip
        text += [f"{part.name}:"] if part.name else []
        text += [markdown_rows(head, lines)] if lines else ["Not run."]
    return "\n\n".join(text)


def _gate(gate: Gate) -> str:
    return f"{_SIGNS[gate.passed]} {gate.shown}".strip()


def _power(found: Iterable[Power]) -> str:
    lines = [
        (power.claim, str(power.n), f"{power.effect:.2f} {power.unit}")
        for power in found
        if power.effect is not None
    ]
    head = ("claim", "data sets", "smallest effect found with 80 % power")
    return markdown_rows(head, lines) if lines else ""


def secondary_lines(parts: Iterable[Part]) -> list[tuple[str, ...]]:
    """Return a line an intervention, under :data:`SECONDARY_HEAD`."""
    lines = []
    for part in parts:
        sets = [found for found in part.sets if found.counts]
        above = sum(found.low is not None and found.low > 0 for found in sets)
        below = sum(found.high is not None and found.high < 0 for found in sets)
        moved = [_range(sets, f"{name} moved") for name in SECONDARY_HEAD[5:]]
        mean = wording.pooled(part.summary)
        lines.append((part.name, mean, str(len(sets)), str(above), str(below), *moved))
    return lines


def _secondary(parts: Iterable[Part]) -> str:
    lines = secondary_lines(parts)
    note = f"{SECONDARY_NOTE} Every dose is in study_curves.csv."
    return f"{markdown_rows(SECONDARY_HEAD, lines)}\n\n{note}" if lines else ""


def _range(sets: Iterable[SetEffect], name: str) -> str:
    counted = [setting for of in sets for setting in of.settings if setting.counts]
    every = (dict(setting.measured).get(name, math.nan) for setting in counted)
    found = [value for value in every if not math.isnan(value)]
    return f"{fixed(min(found), 3)} to {fixed(max(found), 3)}" if found else "–"


def _estimate(found: Estimate | None, digits: int = 2) -> str:
    if found is None:
        return "–"
    return wording.interval(found.mean, found.low, found.high, digits)


def _sensitivity(found: Sensitivity) -> str:
    head = ("specification", "data sets", "effect", "agrees in sign")
    lines = [
        (s.name, str(s.sets), wording.number(s.value), _AGREES[s.agrees])
        for s in found.specifications
    ]
    primary = f"As specified: {wording.number(found.primary)}; {found.agreement}."
    return "\n\n".join([f"## Sensitivity: {found.effect}", primary, markdown_rows(head, lines)])


def _rivals(rivals: Iterable[Rival]) -> str:
    head = ("theory", "predicts the gain from", "expected", "slope [95 %]", "data sets")
    lines = [
        (
            rival.name, rival.predictor, "< 0" if rival.sign < 0 else "> 0",
            _pooled(rival.summary), str(sum(found.counts for found in rival.sets)),
        )
        for rival in rivals
    ]  # fmt: skip
    return markdown_rows(head, lines) if lines else ""


def _guide(guide: Guide) -> str:
    if not guide.lines:
        return ""
    head = ("method", "data sets", "gain", "gain over equal task", "helped", "harmed", "settings")
    lines = [
        (
            of.method, str(of.gain.n), _estimate(of.gain), _estimate(of.gain_equal),
            str(of.helped), str(of.harmed), str(of.lines),
        )
        for of in guide.methods
    ]  # fmt: skip
    note = "Means over data sets, in points. Every data set and direction is in study_guide.csv."
    return "\n\n".join([markdown_rows(head, lines), note, *guide.advice])


def _rehearsal(claims: Sequence[Primary]) -> str:
    if not any(map(_is_run, claims)):
        return ""
    return f"{wording.SIMULATED_NOTE} They decide nothing.\n\n{_claims(claims)}"


# -- CSV -----------------------------------------------------------------------------------------


def claims_csv(study: Study) -> str:
    """Return every number of the claims: means, data sets, and the settings that these are of."""
    both = [("real", claim) for claim in study.claims]
    both += [("simulated", claim) for claim in study.rehearsal if _is_run(claim)]
    return _csv(_HEAD, (line for source, claim in both for line in _lines(source, claim)))


def _lines(source: str, claim: Primary) -> Iterable[dict[str, Any]]:
    start = {"claim": claim.id, "unit": claim.unit, "source": source}
    for part in claim.parts:
        named = {**start, "part": part.name}
        yield {**named, "level": "all that count", **_mean(part.summary, claim.sign),
               **_decided(claim.overall)}  # fmt: skip
        yield {**named, "level": "within both assumptions", **_mean(part.within, claim.sign),
               **_decided(claim.within)}  # fmt: skip
        for found in part.sets:
            yield {**named, "level": "data set", **_of_set(found)}
            for setting in found.settings:
                yield {**named, "level": "setting", **_of_setting(setting, claim.sign)}


def _mean(found: Pooled | None, sign: int) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "value": found.value, "low": found.low, "high": found.high, "variance": found.error**2,
        "p": found.p_greater if sign > 0 else found.p_less, "n": found.n, "between": found.between,
    }  # fmt: skip


def _decided(decision: Decision) -> dict[str, Any]:
    return {
        "p_holm": decision.p_holm, "verdict": decision.verdict, "reason": decision.reason,
    }  # fmt: skip


def _of_set(found: SetEffect) -> dict[str, Any]:
    effect = found.effect
    return {
        "dataset": found.dataset, "value": found.value, "low": found.low, "high": found.high,
        "variance": effect.variance if effect else None, "p": found.p, "seeds": found.seeds,
        "cells": effect.cells if effect else 0, "counts": found.counts, "within": found.within,
        **{gate.name: _gate(gate) for gate in found.gates},
    }  # fmt: skip


def _of_setting(setting: SettingEffect, sign: int) -> dict[str, Any]:
    effect = setting.effect
    low, high = effect.interval() if effect else (None, None)
    numbers = {} if effect is None else {
        "value": effect.value, "low": low, "high": high, "variance": effect.variance,
        "p": effect.p_greater if sign > 0 else effect.p_less, "seeds": effect.seeds,
        "cells": effect.cells,
    }  # fmt: skip
    return {
        "dataset": setting.dataset, "protocol": setting.protocol, **numbers,
        "counts": setting.counts, "within": setting.within,
        **{gate.name: _gate(gate) for gate in setting.gates},
        "measured": "; ".join(f"{name} {value:.6g}" for name, value in setting.measured),
    }  # fmt: skip


def curves_csv(curves: Iterable[DoseCurve]) -> str:
    """Return dose-response curves, a line a dose."""
    names = ("gain", "ncjsd", "tcjsd", "teacher")
    head = ["dataset", "source", "intervention", "protocols", "dose"]
    head += [f"{name}{end}" for name in names for end in _ENDS]
    lines = (
        {
            "dataset": curve.dataset, "source": curve.source, "intervention": curve.intervention,
            "protocols": " ".join(curve.protocols), "dose": point.dose,
            **{k: v for name in names for k, v in _ends(name, getattr(point, name)).items()},
        }
        for curve in curves
        for point in curve.points
    )  # fmt: skip
    return _csv(head, lines)


def guide_csv(guide: Guide) -> str:
    """Return the lines of the guide."""
    own = ("dataset", "source", "experiment", "protocol", "teacher", "method")
    names = ("gain", "gain_equal", "lead")
    head = [*own, *(f"{name}{end}" for name in names for end in _ENDS), "helped"]
    lines = (
        {
            **{name: getattr(line, name) for name in own},
            **{k: v for name in names for k, v in _ends(name, getattr(line, name)).items()},
            "helped": line.helped,
        }
        for line in guide.lines
    )
    return _csv(head, lines)


_ENDS = ("", "_low", "_high", "_n")


def _ends(name: str, found: Estimate | None) -> dict[str, Any]:
    values = (found.mean, found.low, found.high, found.n) if found else (None,) * len(_ENDS)
    return dict(zip((f"{name}{end}" for end in _ENDS), values, strict=True))


def _csv(head: Sequence[str], lines: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: plain(value) for name, value in line.items()})
    return text.getvalue()
