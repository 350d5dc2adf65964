"""The answer as it stands: how the verdicts on the primary claims are read.

The readings are those of the plan, which was committed before the runs (`results/plan.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ntdh_bench.report import wording
from ntdh_bench.report.effects import (
    FAILS,
    HOLDS,
    INCONCLUSIVE,
    MARGIN,
    NO_EFFECT,
    NOT_RUN,
    OUT_OF_SCOPE,
)
from ntdh_bench.study.results import Guide, Primary, Study

_VERBS = {
    HOLDS: ("holds", "hold"),
    FAILS: ("fails", "fail"),
    NO_EFFECT: ("shows no effect", "show no effect"),
    INCONCLUSIVE: ("is inconclusive", "are inconclusive"),
    OUT_OF_SCOPE: ("is out of scope", "are out of scope"),
    NOT_RUN: ("was not run", "were not run"),
}


_GROUPS = {
    "Interventions on what the teacher says": ("P1", "P2", "P3"),
    "Random masks": ("P4", "P5"),
    "The paper's masks": ("P6", "P7"),
}


class Answer(NamedTuple):
    """What the verdicts say.

    Attributes:
        short: the answer in a few words.
        reading: what that means, in a sentence; empty where nothing is decided.
        verdicts: those that it follows from, in a sentence.
    """

    short: str
    reading: str
    verdicts: str


def answer(claims: Sequence[Primary]) -> Answer:
    """Return what the claims together say of the hypothesis, as P1 and P3 were to be read."""
    found = {claim.id: claim.overall.verdict for claim in claims}
    if set(found.values()) <= {NOT_RUN}:
        return Answer("Not tested yet", "", "No primary claim was run.")
    said = [
        f"{_listed(ids)} {_VERBS[verdict][len(ids) > 1]}"
        for verdict in _VERBS
        if (ids := [name for name, own in found.items() if own == verdict])
    ]
    return Answer(*_reading(found), f"{'; '.join(said)}.")


def in_short(study: Study) -> list[str]:
    """Return all that the study says in five lines, as Markdown, each number with its gates."""
    said = answer(study.claims)
    first = " ".join(filter(None, [f"**{said.short}.**", said.reading, said.verdicts]))
    claims = {claim.id: claim for claim in study.claims}
    groups = [
        f"**{title}.** {'. '.join(_told(claims[name]) for name in names)}."
        for title, names in _GROUPS.items()
    ]
    return [f"{first} {counted(study.claims)}", *groups, f"**What to do.** {_advised(study.guide)}"]


def counted(claims: Sequence[Primary]) -> str:
    """Say over how many data sets the answer goes."""
    found = [data for claim in claims for part in claim.parts for data in part.sets]
    run = {data.dataset for data in found}
    counts = {data.dataset for data in found if data.counts}
    within = {data.dataset for data in found if data.within}
    return (
        f"The unit is the data set. Real ones that were run: {len(run)}; that pass the gates of a "
        f"claim or more: {len(counts)}; that also lie within both assumptions of the hypothesis: "
        f"{len(within)}."
    )


def _told(claim: Primary) -> str:
    """Return what a claim says, and the verdict with its numbers, or why there is none."""
    decided = claim.overall
    told = f"*{claim.statement}* ({claim.id}): {decided.verdict}"
    if decided.p_holm is None:
        return f"{told}, {decided.reason}" if decided.reason not in ("", decided.verdict) else told
    means = [f"{part.name} {wording.pooled(part.summary)}".strip() for part in claim.parts]
    return (
        f"{told}; {', '.join(means)} {claim.unit} over the {decided.n} data sets that pass its "
        f"gates, Holm p {wording.p_value(decided.p_holm)}"
    )


def _advised(guide: Guide) -> str:
    if not guide.methods:
        return "No method was run on real data."
    return " ".join([_best(guide), *guide.advice])


def _best(guide: Guide) -> str:
    """Name the method of the largest mean, of those that were run on the same data sets: on all."""
    sets = len({line.dataset for line in guide.lines})
    on_all = [of for of in guide.methods if of.gain.n == sets]
    if not on_all:
        return f"No method was run on all {sets} data sets."
    best = on_all[0]
    certain = best.gain.low is not None and best.gain.low > 0
    return (
        f"Of the {len(on_all)} methods that were run on all {sets} data sets, {best.method} has "
        "the largest mean gain over the student without KD, "
        f"{wording.estimate(best.gain)} points (the best of many, partly by luck"
        f"{'' if certain else '; the interval holds 0'}); it helped in {best.helped} and harmed in "
        f"{best.harmed} of {best.lines} settings."
    )


def _reading(found: Mapping[str, str]) -> tuple[str, str]:
    raised, lowered = found.get("P1", NOT_RUN), found.get("P3", NOT_RUN)
    against = (FAILS, NO_EFFECT)
    if raised == FAILS:
        return "No", "The gain rises as the non-target divergence alone is raised."
    if (raised, lowered) == (HOLDS, HOLDS):
        return "Yes", "The non-target divergence decides, as the hypothesis says."
    if raised == HOLDS and lowered in against:
        return "No: a symptom", (
            "Wrong non-target detail harms, but right detail need not help: agreement goes with "
            "what decides, and is not it."
        )
    if (raised, lowered) == (NO_EFFECT, NO_EFFECT):
        return "No", (
            "Wrong non-target detail, and right detail in its place, change the gain by less than "
            f"{MARGIN:g} points on average."
        )
    return "Not decided", ""


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
