"""The answer as it stands: how the verdicts on the primary claims are read.

The readings are those of the plan, which was committed before the runs (`results/plan.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ntdh_bench.report.effects import FAILS, HOLDS, INCONCLUSIVE, NO_EFFECT, OUT_OF_SCOPE
from ntdh_bench.study.results import Primary

NOT_RUN = "not run"
_VERBS = {
    HOLDS: ("holds", "hold"),
    FAILS: ("fails", "fail"),
    NO_EFFECT: ("shows no effect", "show no effect"),
    INCONCLUSIVE: ("is inconclusive", "are inconclusive"),
    OUT_OF_SCOPE: ("is out of scope", "are out of scope"),
    NOT_RUN: ("was not run", "were not run"),
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
        return "No", "What the teacher says of the non-target classes does not matter."
    return "Not decided", ""


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
