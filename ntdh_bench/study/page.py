"""What the report's page opens on: the answer as it stands, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ntdh_bench.records.details import MAX_LATE_GAIN
from ntdh_bench.report import gates, wording
from ntdh_bench.report.effects import MARGIN, MIN_SETS
from ntdh_bench.report.elements import (
    badge,
    file_links,
    heads,
    labelled,
    scroll,
    sort_value,
    verdict_badge,
)
from ntdh_bench.report.html import Html, el, join
from ntdh_bench.study.answer import answer, counted
from ntdh_bench.study.drawings import INTERVENTIONS, dose_curves, forests
from ntdh_bench.study.guide_page import guide_section
from ntdh_bench.study.results import (
    ASSUMPTIONS,
    COUNTING,
    MIN_SEEDS,
    DoseCurve,
    Part,
    Power,
    Primary,
    Rival,
    Sensitivity,
    SettingEffect,
    Study,
)
from ntdh_bench.study.texts import SECONDARY_HEAD, SECONDARY_NOTE, secondary_lines

QUESTION = (
    "A network on one modality teaches a network on another. Is it their divergence over the "
    "classes that are not the target (NCJSD) that decides how much the student gains? The "
    "Non-target Divergence Hypothesis says: the smaller it is before distillation, the more."
)
_GATES = {
    "manipulation": "the divergence moved as intended",
    "teacher": "the teacher says the same of the target, or is right as often, within "
    f"{gates.TEACHER:g} points",
    "converged": f"the control gains < {MAX_LATE_GAIN:g} points in its last fifth of epochs",
    "capacity": f"Assumption 1: as many parameters, within {100 * gates.CAPACITY:g} %",
    "strength": f"Assumption 2: as strong alone, within {gates.STRENGTH:g} points",
}
_VERDICTS = (
    "Fixed with their gates before the runs; what changed since is in the plan's log. A claim "
    f"holds, or fails, if the mean over at least {MIN_SETS} data sets of {MIN_SEEDS} "
    "seeds lies reliably on its side of 0, or on the other (Holm over all of them); it "
    f"shows no effect if the mean lies reliably within ±{MARGIN:g}."
)
_PLANNED = "How verdicts are read was fixed before the runs (plan.md)."
_FIRST = "P1"  # the claim whose forest plot is on the first screen
_SIGNS = {True: "✓", False: "✗", None: "?"}


def front(study: Study, files: Sequence[str] = ()) -> Html:
    """Return what the page opens on.

    Args:
        study: what it found.
        files: names of its files in the results folder.
    """
    if not study.curves and not any(map(_settings, (*study.claims, *study.rehearsal))):
        return join(_opening(study), guide_section(study.guide), file_links(files))
    return join(
        _opening(study),
        _claims(study),
        _gates(study.claims),
        _curves(study),
        _sensitivity(study.sensitivity),
        _rivals(study.rivals),
        guide_section(study.guide),
        _rehearsal(study),
        file_links(files),
    )


def _opening(study: Study) -> Html:
    said = answer(study.claims)
    lines = [
        el("li", _name(claim), el("span", claim.statement),
           verdict_badge(claim.overall.verdict))
        for claim in study.claims
    ]  # fmt: skip
    return el(
        "div",
        el(
            "div",
            el("p", QUESTION),
            el(
                "div",
                el("h2", said.short),
                el("p", *(f"{text} " for text in (said.reading, said.verdicts) if text)),
                class_="headline",
            ),
            el("ol", *lines, class_="verdicts"),
            el("p", f"{counted(study.claims)} {_PLANNED}", class_="note"),
            *(el("p", line, class_="note") for line in study.left_out),
        ),
        _first_forest(study.claims),
        class_="opening",
    )


def _name(claim: Primary) -> Html:
    """Return a claim's id, as a link to what it rests on if that is anything."""
    return el("a", claim.id, href=f"#{claim.id}") if _settings(claim) else el("b", claim.id)


def _first_forest(claims: Sequence[Primary]) -> Html:
    found = [drawing for claim in claims if claim.id == _FIRST for drawing in forests(claim)]
    if not found:
        how = join(
            "No effect can be told yet. Run it: ", el("code", "ntdh-bench sweep interventions")
        )
        return el("div", el("p", badge("not run"), " ", how), class_="card")
    note = (
        "A line a data set, with its 95 % interval over seeds; hollow: a gate fails, and it does "
        "not count. Diamonds: means over data sets, with their intervals."
    )
    return el(
        "figure",
        el("figcaption", el("b", found[0].label)),
        el("div", *(labelled(svg, label) for label, svg in found), class_="panels"),
        el("figcaption", note),
    )


# -- claims --------------------------------------------------------------------------------------


def _claims(study: Study) -> Html:
    seen = {power.claim: power for power in study.power}
    return join(
        el("h3", "The primary claims"),
        el("p", _VERDICTS),
        _claims_table(study.claims, "Primary claims"),
        *(_basis(claim, seen) for claim in study.claims if _settings(claim)),
    )


def _claims_table(claims: Sequence[Primary], label: str) -> Html:
    names = ("verdict", "claim", "data sets", "effect [95 %]", "Holm p", "within both assumptions")
    body = el("tbody", *(_claim(claim) for claim in claims))
    head = el("thead", heads(names, 2, sortable=False))
    return scroll(el("table", head, body, class_="primary"), label)


def _claim(claim: Primary) -> Html:
    decided = claim.overall
    told = decided.reason in ("", decided.verdict)
    reason = "" if told else el("div", decided.reason, class_="note")
    effects = [el("div", _effect(part)) for part in claim.parts]
    known = any(part.summary for part in claim.parts)
    return el(
        "tr",
        el("td", verdict_badge(decided.verdict), class_="text"),
        el("td", el("b", claim.id), f" {claim.statement}", reason, class_="text wide"),
        el("td", str(decided.n)),
        el("td", *effects, el("div", claim.unit, class_="unit") if known else ""),
        el("td", wording.p_value(decided.p_holm)),
        el("td", verdict_badge(claim.within.verdict), f" n {claim.within.n}"),
    )


def _effect(part: Part) -> str:
    name = f"{part.name}: " if part.name else ""
    return f"{name}{wording.pooled(part.summary)}"


def _basis(claim: Primary, seen: dict[str, Power]) -> Html:
    """Return what a claim rests on, to be opened: its data sets, forest plots and gates."""
    settings = _settings(claim)
    drawn = [labelled(svg, label) for label, svg in forests(claim)] if claim.id != _FIRST else []
    note = f"{claim.note[:1].upper()}{claim.note[1:]}." if claim.note else ""
    said = [f"Measured: {claim.effect} ({claim.unit}).", note, *_powers(claim, seen)]
    sets = len({setting.dataset for setting in settings})
    shown = f"gates in {sets} data set{'s' * (sets > 1)}{' and forest plot' * bool(drawn)}"
    return el(
        "details",
        el("summary", f"{claim.id}: {shown}"),
        el(  # within, so that a link to it opens the details
            "div",
            el("p", *(f"{text} " for text in said if text), class_="note"),
            el("div", *drawn, class_="panels") if drawn else "",
            _settings_table(claim),
            id=claim.id,
        ),
    )


def _powers(claim: Primary, seen: dict[str, Power]) -> list[str]:
    found = [power for name, power in seen.items() if name.split(",")[0] == claim.id]
    return [
        f"With {power.n} data sets as far apart as these, an effect of "
        f"{wording.number(power.effect)} {power.unit} would be found in 80 % of studies."
        for power in found
        if power.effect is not None
    ]


def _settings(claim: Primary) -> list[SettingEffect]:
    return [setting for part in claim.parts for found in part.sets for setting in found.settings]


def _settings_table(claim: Primary) -> Html:
    several = len(claim.parts) > 1
    names = ("data set", "protocol", *(["part"] if several else []), "effect [95 %]",
             "seeds × cells", *COUNTING, *ASSUMPTIONS)  # fmt: skip
    lines = [
        _setting(setting, [part.name] if several else [])
        for part in claim.parts
        for found in part.sets
        for setting in found.settings
    ]
    head = el("thead", heads(names, 2 + several))
    table = el("table", head, el("tbody", *lines), class_="dense")
    return scroll(table, f"{claim.id}: data sets and gates")


def _setting(setting: SettingEffect, part: list[str]) -> Html:
    effect = setting.effect
    shown = wording.interval(effect.value, *effect.interval()) if effect else "–"
    found = {gate.name: gate for gate in setting.gates}
    return el(
        "tr",
        el("th", setting.dataset, scope="row"),
        el("td", setting.protocol, class_="text"),
        *(el("td", name, class_="text") for name in part),
        el("td", shown, data_value=sort_value(effect.value if effect else None)),
        el("td", f"{effect.seeds} × {effect.cells}" if effect else "–"),
        *(_gate(found.get(name)) for name in (*COUNTING, *ASSUMPTIONS)),
    )


def _gate(gate: gates.Gate | None) -> Html:
    if gate is None:
        return el("td", "–", class_="none")
    kind = {True: "holds", False: "fails", None: "none"}[gate.passed]
    sign = el("span", _SIGNS[gate.passed], class_=kind)
    return el("td", sign, f" {gate.shown}", class_="text gate")


# -- gates ---------------------------------------------------------------------------------------


def _gates(claims: Sequence[Primary]) -> Html:
    names = ("gate", *(claim.id for claim in claims))
    lines = [
        el(
            "tr",
            el("th", _GATES[name], "" if name in COUNTING else " *", scope="row"),
            *(el("td", _passes(claim, name)) for claim in claims),
        )
        for name in (*COUNTING, *ASSUMPTIONS)
    ]
    table = el("table", el("thead", heads(names, 1, sortable=False)), el("tbody", *lines))
    return join(
        el("h3", "The gates"),
        scroll(table, "Settings that pass each gate"),
        el(
            "p",
            "Settings (a protocol of a data set, each direction its own) that pass, of those that "
            "were run. What fails one of the first three does not count; those with * delimit the "
            "hypothesis, so that every claim is also judged within them.",
            class_="note",
        ),
    )


def _passes(claim: Primary, name: str) -> str:
    """Return how many settings pass a gate in all parts of a claim that were run, of how many."""
    passed: dict[str, bool] = {}
    for setting in _settings(claim):
        for gate in setting.gates:
            if gate.name == name:
                before = passed.get(setting.protocol, True)
                passed[setting.protocol] = before and gate.passed is True
    return f"{sum(passed.values())} / {len(passed)}" if passed else "–"


# -- beside the claims ---------------------------------------------------------------------------


def _curves(study: Study) -> Html:
    drawn = [labelled(svg, label) for label, svg in dose_curves(study.curves, "real")]
    if not drawn:
        return Html()
    *panels, key = drawn
    return join(
        el("h3", "Dose and response"),
        el(
            "p",
            "Interventions on what the trained teacher says move one divergence and leave the "
            "other as it was. Shuffled non-target classes and exchanged or scaled leads leave the "
            "teacher's accuracy as well; the rest can change it (see Numbers). A line a data set, "
            "also of those that fail a gate: how the gain changes against the teacher as it is, "
            "and below, how far both divergences moved before distillation.",
        ),
        el("figure", el("div", *panels, class_="panels three"), el("div", key, class_="panels")),
        _secondary(study.secondary),
        el("details", el("summary", "Numbers"), _curves_table(study.curves)),
    )


def _secondary(parts: Sequence[Part]) -> Html:
    lines = [
        el("tr", el("th", name, scope="row"), *(el("td", text) for text in rest))
        for name, *rest in secondary_lines(parts)
    ]
    if not lines:
        return Html()
    table = el("table", el("thead", heads(SECONDARY_HEAD, 1)), el("tbody", *lines))
    return join(scroll(table, "Slopes"), el("p", SECONDARY_NOTE, class_="note"))


def _curves_table(curves: Sequence[DoseCurve]) -> Html:
    names = ("data set", "intervention", "dose", "gain [95 %]", "NCJSD", "TCJSD", "teacher (%)")
    lines = [
        el(
            "tr",
            el("th", curve.dataset, scope="row"),
            el("td", INTERVENTIONS.get(curve.intervention, (curve.intervention,))[0],
               class_="text"),
            el("td", f"{point.dose:g}"),
            el("td", wording.estimate(point.gain)),
            *(
                el("td", wording.number(found.mean if found else None, digits))
                for found, digits in ((point.ncjsd, 3), (point.tcjsd, 3), (point.teacher, 1))
            ),
        )
        for curve in curves
        if curve.source == "real"
        for point in curve.points
    ]  # fmt: skip
    table = el("table", el("thead", heads(names, 2)), el("tbody", *lines))
    return scroll(table, "Dose and response")


def _sensitivity(found: Sequence[Sensitivity]) -> Html:
    if not found:
        return Html()
    return join(
        el("h3", "Does it depend on how it is specified?"),
        *(_specifications(sensitivity) for sensitivity in found),
    )


def _specifications(found: Sensitivity) -> Html:
    lines = [
        el(
            "tr",
            el("th", s.name, scope="row"),
            el("td", str(s.sets)),
            el("td", wording.number(s.value)),
            el("td", {True: "agrees", False: "differs", None: "–"}[s.agrees], class_="text"),
        )
        for s in found.specifications
    ]
    names = ("specification", "data sets", "effect", "sign")
    table = el("table", el("thead", heads(names, 1)), el("tbody", *lines))
    primary = f", {wording.number(found.primary)} as specified" if found.primary is not None else ""
    return join(
        el("p", f"{found.effect}{primary}: ", el("b", found.agreement), "."),
        el("details", el("summary", "Specifications"), scroll(table, found.effect)),
    )


def _rivals(rivals: Iterable[Rival]) -> Html:
    lines = [
        el(
            "tr",
            el("th", rival.name, scope="row"),
            el("td", rival.predictor, el("div", rival.note, class_="note") if rival.note else "",
               class_="text wide"),
            el("td", "> 0" if rival.sign > 0 else "< 0"),
            el("td", str(rival.summary.n if rival.summary else 0)),
            el("td", wording.pooled(rival.summary)),
        )
        for rival in rivals
    ]  # fmt: skip
    if not lines:
        return Html()
    names = ("theory", "predicts the gain from", "claims", "data sets", "slope [95 %]")
    table = el("table", el("thead", heads(names, 2, sortable=False)), el("tbody", *lines))
    return join(
        el("h3", "Rival theories on the same runs"),
        el("p", "Points of gain per standard deviation of the predictor, over random masks."),
        scroll(table, "Rival theories"),
    )


def _rehearsal(study: Study) -> Html:
    """Return the claims on simulated data, to be opened, if any was run."""
    if not any(_settings(claim) for claim in study.rehearsal):
        return Html()
    return el(
        "details",
        el("summary", "The same on simulated data: a rehearsal that decides nothing"),
        el("p", badge("simulated"), " ", wording.SIMULATED_NOTE),
        _claims_table(study.rehearsal, "Rehearsal"),
    )
