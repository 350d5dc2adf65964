"""The seven primary claims, each decided over data sets.

A claim is a sign of an effect; of several parts, all must have it (intersection-union). Runs of a
setting become one effect; settings that pass the gates are averaged within their data set, and the
mean over at least five data sets is judged by both sides of one Holm procedure over the seven
claims. Real data decide; simulated ones are a rehearsal of the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ntdh_bench.records.columns import Row
from ntdh_bench.report import gates
from ntdh_bench.study import doses, masks
from ntdh_bench.study.results import Part, Primary, Sign
from ntdh_bench.study.sets import part
from ntdh_bench.study.settings import EffectOf, Setting, settings
from ntdh_bench.study.verdicts import Tested, verdicts


class Claim(NamedTuple):
    """A primary claim; attributes as those of :class:`Primary`.

    Attributes:
        experiments: whose runs decide it, or of whose exhibits they are part.
        parts: name to what it is in a setting; None where it was not run.
    """

    id: str
    statement: str
    effect: str
    unit: str
    sign: Sign
    experiments: tuple[str, ...]
    parts: dict[str, EffectOf]
    note: str = ""


_WITHIN = (
    "What a mask removes is drawn anew in each seed, with the same ratio: runs of a seed are "
    "compared, less what the seeds of a mask share"
)
_DAMAGED = f"that change the teacher's accuracy by more than {gates.TEACHER:g} points are left out"
CLAIMS = (
    Claim(
        "P1", "The gain falls as the non-target divergence alone is raised",
        "Slope of the gain in the share of samples whose non-target log-probabilities are shuffled",
        "points per unit of dose", -1, (doses.EXPERIMENT,), {"": doses.slope(doses.SHUFFLE, 1)},
    ),
    Claim(
        "P2", "It does not fall as much as the target divergence is raised by as much",
        "Change of the gain as NCJSD is raised, non-target log-probabilities being shuffled, minus "
        "that as TCJSD is raised by as many nats by target interventions",
        "points at equal divergence", -1, (doses.EXPERIMENT,), {"": doses.less_under_target},
        "By as many nats as both move; the mean over ShuffleTarget and ScaleTarget, where these "
        "move TCJSD and pass the gates",
    ),
    Claim(
        "P3", "The gain rises as the non-target divergence alone is lowered, and by more than "
        "where only non-target information is taken away",
        "Slope of the gain in the dose of alignment with the student, and the same minus that of "
        "the dose of the uniform distribution",
        "points per unit of dose", 1, (doses.AT_ONE,),
        {"aligned": doses.slope(doses.ALIGN, -1), "aligned minus uniform": doses.more_than_uniform},
        "At temperature 1: at another, mixing moves the target probability that is taught",
    ),
    Claim(
        "P4", "Over random masks, NCJSD predicts the gain given TCJSD and the teacher's accuracy",
        "Partial slope of the gain in NCJSD before distillation, given TCJSD and the accuracy",
        "points per standard deviation", -1, (masks.RANDOM,), {"": masks.slope_of_ncjsd},
        f"{_WITHIN}. Masks {_DAMAGED}",
    ),
    Claim(
        "P5", "It does so better than TCJSD",
        "Partial slope of the gain in NCJSD minus that in TCJSD, jointly and given the teacher's "
        "accuracy",
        "points per standard deviation", -1, (masks.RANDOM,), {"": masks.more_than_tcjsd},
        f"{_WITHIN}. Masks {_DAMAGED}",
    ),
    Claim(
        "P6", "Masks order as T > R > F over methods and ratios",
        "Accuracy of the student, T minus R and R minus F, mean over methods and ratios",
        "points", 1, masks.TABLES,
        {"T minus R": masks.difference("T", "R"), "R minus F": masks.difference("R", "F")},
        f"Ratios {_DAMAGED}",
    ),
    Claim(
        "P7", "The mask T is better than none over methods and ratios",
        "Accuracy of the student, T minus no mask, mean over methods and ratios",
        "points", 1, masks.TABLES, {"T minus none": masks.difference("T", None)},
        f"Ratios {_DAMAGED}",
    ),
)  # fmt: skip


def primary_claims(rows: Sequence[Row], source: str = "real") -> tuple[Primary, ...]:
    """Return the claims, decided on data of one source."""
    own = [row for row in rows if row["source"] == source]
    tested = [_tested(claim, settings(own, claim.experiments)) for claim in CLAIMS]
    overall, within = verdicts(tested), verdicts(tested, within=True)
    return tuple(
        Primary(c.id, c.statement, c.effect, c.unit, c.sign, found.parts, verdict, narrower, c.note)
        for c, found, verdict, narrower in zip(CLAIMS, tested, overall, within, strict=True)
    )


def secondary(rows: Iterable[Row]) -> tuple[Part, ...]:
    """Return the slope under each intervention over real data sets: descriptive, uncorrected."""
    real = [row for row in rows if row["source"] == "real"]
    run = settings(real, (doses.EXPERIMENT,))
    found = (_part(name, doses.slope(name), run, 1) for name in doses.INTERVENTIONS)
    return tuple(part for part in found if part.sets)


def _tested(claim: Claim, run: Sequence[Setting]) -> Tested:
    parts = (_part(name, effect_of, run, claim.sign) for name, effect_of in claim.parts.items())
    return Tested(claim.sign, tuple(parts))


def _part(name: str, effect_of: EffectOf, run: Sequence[Setting], sign: Sign) -> Part:
    return part(name, [effect for setting in run if (effect := effect_of(setting))], sign)
