"""Other theories of when distillation helps, on the cells of P4: what each predicts the gain from.

Each has one predictor, measured before distillation between the teacher as it teaches and the
student without KD, on validation data. Slopes are of that predictor alone, so that theories stand
side by side; over the same cells their predictors go together, and a slope is no cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ntdh_bench.records.columns import Row
from ntdh_bench.report.contrasts import Measure, column
from ntdh_bench.report.effects import run_part, run_slopes
from ntdh_bench.study.masks import RANDOM, random_masks, spread
from ntdh_bench.study.results import Rival, SettingEffect, Sign
from ntdh_bench.study.sets import part
from ntdh_bench.study.settings import GAIN, NCJSD, Setting, moved, settings, teacher

_SHARED, _OF_STUDENT, _OF_TEACHER = (
    column(f"{name}_before")
    for name in ("mi_teacher_student", "mi_student_label", "mi_teacher_label")
)


def surplus(row: Row) -> float | None:
    """Return I(teacher; student) minus I(student; label) of the classes they choose, in nats."""
    shared, own = _SHARED(row), _OF_STUDENT(row)
    return None if shared is None or own is None else shared - own


def general(row: Row) -> float | None:
    """Return I(teacher; student) as a share of I(teacher; label); None where the latter is 0."""
    shared, whole = _SHARED(row), _OF_TEACHER(row)
    return None if shared is None or not whole else shared / whole


@dataclass(frozen=True)
class Theory:
    """A theory, and what it predicts the gain from; see :class:`Rival`."""

    name: str
    predictor: str
    sign: Sign
    measure: Measure
    note: str = ""


THEORIES = (
    Theory("NTDH", "NCJSD", -1, NCJSD, "For comparison: alone, where P4 has it beside others"),
    Theory(
        "Complementary information (arXiv 2510.13182)",
        "I(teacher; student) - I(student; label)", 1, surplus,
        "Of predicted classes; the theory asks whether it is above 0. All masks of a seed have one "
        "student without KD, so that cells differ in the first term",
    ),
    Theory(
        "Modality focusing (MFH)", "I(teacher; student) / I(teacher; label)", 1, general,
        "Stands for the share of decisive features that both modalities have: of what the teacher "
        "says of the label, how much the other modality's network says as well",
    ),
    Theory(
        "Alignment of features", "linear CKA before the last layers", 1, column("cka_before")
    ),
    Theory("Alignment of labels", "linear CKA of the logits", 1, column("cka_logits_before")),
    Theory("A better teacher", "the teacher's accuracy as distilled", 1, teacher),
)  # fmt: skip


def rivals(rows: Sequence[Row]) -> tuple[Rival, ...]:
    """Return how each theory does on real data; none before random masks were run."""
    run = settings([row for row in rows if row["source"] == "real"], (RANDOM,))
    return tuple(found for theory in THEORIES if (found := _rival(theory, run)).sets)


def _rival(theory: Theory, run: Sequence[Setting]) -> Rival:
    effects = [effect for setting in run if (effect := _slope(theory.measure, setting))]
    found = part("", effects, theory.sign)
    return Rival(theory.name, theory.predictor, theory.sign, found.sets, found.summary, theory.note)


def _slope(measure: Measure, setting: Setting) -> SettingEffect | None:
    """Return the slope of the gain in a predictor over the masks that have it, gated as P4 is."""
    found = random_masks(setting, measure)
    if found is None:
        return None
    predictor = found.values(measure)
    slopes = run_slopes(found.values(GAIN), predictor[None])
    return setting.effect(
        slopes[0] if slopes else None,
        (moved(spread(found, NCJSD)), setting.teacher_gate(found.rows)),
        {"predictor's standard deviation": float(run_part(predictor).std())},
    )
