"""What masks on the teacher do in a setting: random ones, and the paper's T, R and F."""

from __future__ import annotations

import numpy as np

from ntdh_bench.records.columns import Row
from ntdh_bench.report.contrasts import Measure
from ntdh_bench.report.effects import run_part, run_slopes, seed_mean
from ntdh_bench.report.gates import untouched, weakest
from ntdh_bench.report.statistics import Array
from ntdh_bench.study.results import SettingEffect
from ntdh_bench.study.settings import (
    GAIN,
    NCJSD,
    ON_TEST,
    SCORE,
    TCJSD,
    Block,
    Cell,
    EffectOf,
    Setting,
    block,
    moved,
    teacher,
)

RANDOM = "random_masks"
#: Experiments of all methods under masks; and those that are part of their exhibits.
TABLES = ("table2", "table3", "table_pairs")
#: Fewer random masks tell no slope beside two others.
MIN_CELLS = 10
_OF_MASK = ("mask", "ratio")  # the last part of axes
_REMOVES = {"T": "most_divergent", "R": "random", "F": "least_divergent", None: None}


# -- random masks --------------------------------------------------------------------------------


def slope_of_ncjsd(setting: Setting) -> SettingEffect | None:
    """Return the slope of the gain in NCJSD over random masks, given TCJSD and the teacher (P4).

    Accuracy is measured on few rows: alone it does not hold constant what makes a teacher better,
    and NCJSD takes the credit (``results/study/nulls.md``).
    """
    found = random_masks(setting)
    if found is None:
        return None
    slope = run_slopes(found.values(GAIN), _predictors(found), [[1, 0, 0]])
    apart = spread(found, NCJSD)
    return setting.effect(
        slope[0] if slope else None,
        (moved(apart), setting.teacher_gate(found.rows)),
        {"NCJSD moved": float(apart.mean())},
    )


def more_than_tcjsd(setting: Setting) -> SettingEffect | None:
    """Return the slope of the gain in NCJSD minus that in TCJSD, given the teacher (P5)."""
    found = random_masks(setting)
    if found is None:
        return None
    slopes = run_slopes(found.values(GAIN), _predictors(found), [[1, -1, 0]])
    spreads = spread(found, NCJSD), spread(found, TCJSD)
    return setting.effect(
        slopes[0] if slopes else None,
        (weakest(map(moved, spreads)), setting.teacher_gate(found.rows)),
        {"NCJSD moved": float(spreads[0].mean()), "TCJSD moved": float(spreads[1].mean())},
    )


def _predictors(found: Block) -> Array:
    """Return NCJSD, TCJSD and the teacher's accuracy, ``(3, cells, seeds)``.

    Each is the mean over validation and test data, as noise in what is held constant would be laid
    to the other.
    """
    measures = NCJSD, TCJSD, teacher
    return np.stack([(found.values(m) + found.values(ON_TEST[m])) / 2 for m in measures])


def spread(found: Block, measure: Measure) -> Array:
    """Return how far apart the upper and the lower half of a seed's masks lie, by seed.

    Less what the seeds of a mask share, its ratio. The halves are those of test data, and how far
    apart they lie is measured on validation data, so that noise alone gives 0 on average.
    """
    values, order = (run_part(found.values(m)) for m in (measure, ON_TEST[measure]))
    ordered = np.take_along_axis(values, np.argsort(order, axis=0), axis=0)
    half = len(values) // 2
    apart: Array = ordered[len(values) - half :].mean(axis=0) - ordered[:half].mean(axis=0)
    return apart


def random_masks(setting: Setting, *measures: Measure) -> Block | None:
    """Return the random masks that leave the teacher's accuracy as it is, all if these are few.

    A mask has its ratio in all seeds; which features it removes is drawn anew in each.

    Args:
        setting: whose.
        measures: that their runs have beside gain, divergences and the teacher's accuracy.
    """
    rows = [row for row in setting.distilled if row["method"] == "KD" and not untouched(row)]
    found = block(rows, _label, (GAIN, *ON_TEST, *ON_TEST.values(), *measures))
    sound = found.sound(setting)
    kept = found.only(sound) if len(sound) >= MIN_CELLS else found
    return kept if len(kept.runs) > 1 else None


def _label(row: Row) -> Cell:
    return tuple(label for _, label in sorted(row["cell"].items()))


# -- the paper's masks ---------------------------------------------------------------------------


def difference(first: str, second: str | None) -> EffectOf:
    """Return what measures how much better students are under one mask than under another.

    The mean over methods and ratios at which both masks leave the teacher's accuracy as it is; over
    all of them if there is none, and the gate is not passed. A mask that is better by the paper's
    account has the smaller NCJSD: that is the manipulation.

    Args:
        first: ``T``, ``R`` or ``F``.
        second: likewise; None: no mask.
    """

    def effect(setting: Setting) -> SettingEffect | None:
        return _difference(setting, _REMOVES[first], _REMOVES[second])

    return effect


def _difference(setting: Setting, first: str | None, second: str | None) -> SettingEffect | None:
    masked = [row for row in setting.distilled if row["mask"] in (None, "feature")]
    found = block(masked, _in_table, (SCORE, NCJSD))
    pairs = [
        ((*method, first, ratio), (*method, second, ratio if second else None))
        for *method, removes, ratio in found.runs
        if removes == first
    ]
    pairs = [pair for pair in pairs if pair[1] in found.runs]
    if not pairs:
        return None
    sound = set(found.sound(setting))
    kept = [pair for pair in pairs if sound.issuperset(pair)] or pairs

    def lead(measure: Measure) -> Array:
        of = dict(zip(found.runs, found.values(measure), strict=True))
        mean: Array = np.mean([of[ours] - of[theirs] for ours, theirs in kept], axis=0)
        return mean

    changed = found.only(cell for pair in kept for cell in pair).rows
    return setting.effect(
        seed_mean(lead(SCORE), len(kept)),
        (moved(-lead(NCJSD)), setting.teacher_gate(changed)),
        {"NCJSD lower by": float(-lead(NCJSD).mean())},
    )


def _in_table(row: Row) -> Cell:
    """Return where a run lies: labels that do not tell its mask, then what the mask removes."""
    others = [axis for axis in sorted(row["cell"]) if axis.rpartition(".")[2] not in _OF_MASK]
    return (*(row["cell"][axis] for axis in others), row["removes"], row["ratio"])
