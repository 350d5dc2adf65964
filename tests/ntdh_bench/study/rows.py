"""Made-up runs of the study's experiments, with known effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ntdh_bench.records.columns import Row
from tests.ntdh_bench.report.rows import bare_row, with_derived

SETS = ("avletters", "bdgp", "houston", "ravdess", "utd_mhad", "wiki")
DOSES = (0.25, 0.5, 0.75, 1.0)
FACTORS = (2.0, 4.0, 8.0, 16.0)
RATIOS = (0.25, 0.5, 0.75)
REMOVES = {"T": "most_divergent", "R": "random", "F": "least_divergent"}
SHUFFLE, ALIGN, UNIFORM, SHUFFLE_TARGET, SCALE_TARGET = (
    "ShuffleNontarget", "AlignNontarget", "UniformNontarget", "ShuffleTarget", "ScaleTarget",
)  # fmt: skip
#: What each moves: NCJSD and TCJSD in nats at the largest dose.
MOVES = {
    SHUFFLE: (0.2, 0.0), ALIGN: (-0.3, 0.0), UNIFORM: (-0.05, 0.0), SHUFFLE_TARGET: (0.0, 0.1),
    SCALE_TARGET: (0.0, 0.2),
}  # fmt: skip
_BLANK = bare_row()
NOISE = 0.002  # of a score, by seed and run


def pair(
    cell: dict[str, str], gain: float, ncjsd: float, tcjsd: float, teacher: float = 0.7,
    **given: Any,
) -> list[Row]:  # fmt: skip
    """A run with KD and a gain (a share), and its control, with divergences before."""
    common = {
        "source": "real", "seed": 0, "epochs": 50, "task_weight": 1.0, "distill_weight": 1.0,
        "teacher_parameters": 1000, "student_parameters": 1010, "late_gain": 0.001,
        "intervention": None, "dose": None, "last_val_score": 0.7, **given,
    }  # fmt: skip
    place = f"{common['experiment']} {common['dataset']} {common['protocol']}"
    student = f"{place} {common['seed']}"
    changed = [label for axis, label in cell.items() if axis != "method"]
    touched = common["intervention"] or common.get("mask")
    hashes = {
        "baseline_hash": student, "teacher_hash": student, "pair_hash": place,
        "mask_hash": " ".join(changed) if touched else None,
    }  # fmt: skip
    start = 0.7 + 0.01 * (common["seed"] % 3)
    measured = {
        "last_val_teacher_score": teacher, "last_test_teacher_score": teacher,
        "last_val_ncjsd": ncjsd, "last_val_tcjsd": tcjsd, "last_test_ncjsd": ncjsd,
        "last_test_tcjsd": tcjsd, "part_of": common["experiment"],
    }  # fmt: skip
    kd = {"arm": "kd", "method": "KD", "last_test_score": start + gain, "cell": cell}
    alone = {"arm": "without_kd", "method": None, "last_test_score": start,
             "cell": {**cell, "method": "without_kd"}, "distill_weight": 0.0}  # fmt: skip
    return [
        {**_BLANK, **common, **hashes, **measured, **own, "run": f"{student} {cell} {arm}",
         **({"method": common["method"]} if arm == "kd" and "method" in common else {})}
        for arm, own in (("kd", kd), ("alone", alone))
    ]  # fmt: skip


def interventions(
    gains: dict[str, float],
    sets: Iterable[str] = SETS,
    seeds: int = 10,
    moves: dict[str, tuple[float, float]] | None = None,
    protocols: Callable[[str], Sequence[str]] = lambda name: [name],
    **given: Any,
) -> list[Row]:
    """Runs of interventions, with the same outcome at both temperatures.

    Args:
        gains: of each intervention, in points, from dose 0 to the largest.
        sets: data sets.
        seeds: their number.
        moves: as :data:`MOVES`.
        protocols: of a data set.
    """
    noise = np.random.default_rng(0)
    found: list[Row] = []
    for dataset in sets:
        for protocol in protocols(dataset):
            for seed in range(seeds):
                # Divergences of the seed, kept where they are not moved.
                first, other = 0.4 + noise.normal(0, 0.02), 0.1 + noise.normal(0, 0.01)
                for name, share, dose in _doses(gains):
                    ncjsd, tcjsd = (moves or MOVES).get(name or "", (0.0, 0.0))
                    values = (
                        0.02 + 0.01 * gains.get(name or "", 0.0) * share + noise.normal(0, NOISE),
                        first + share * ncjsd + (noise.normal(0, 0.002) if ncjsd else 0.0),
                        other + share * tcjsd + (noise.normal(0, 0.001) if tcjsd else 0.0),
                    )
                    for experiment in ("interventions", "interventions_t1"):
                        found += pair(
                            {"method": "KD", "intervention": name or "none", "dose": f"{dose}"},
                            *values,
                            **{"experiment": experiment, "dataset": dataset, "seed": seed,
                               "protocol": protocol, "intervention": name, "dose": dose, **given},
                        )  # fmt: skip
    return with_parts(found)


def _doses(names: Iterable[str]) -> list[tuple[str | None, float, float | None]]:
    """Intervention, share of the largest dose, and dose."""
    found: list[tuple[str | None, float, float | None]] = [(None, 0.0, None)]
    for name in names:
        doses = FACTORS if name == SCALE_TARGET else DOSES
        found += [(name, dose / doses[-1], dose) for dose in doses]
    return found


def random_masks(
    slopes: tuple[float, float, float],
    sets: Iterable[str] = SETS,
    seeds: int = 6,
    masks: int = 18,
    teachers: float = 0.01,
    shared: float = 0.0,
    **given: Any,
) -> list[Row]:
    """Runs of random masks: all seeds have their ratios, each draws for itself what they remove.

    Args:
        slopes: of the gain in points, in NCJSD, TCJSD and the teacher's accuracy, each a standard
            deviation.
        teachers: standard deviation of the teacher's accuracy over masks, a share.
        shared: of the gain in what the seeds of a mask share, in points.
    """
    random = np.random.default_rng(1)
    found: list[Row] = []
    for dataset in sets:
        ratios = random.normal(size=masks)
        for seed in range(seeds):
            drawn = random.normal(size=(masks, 3))
            drawn[0] = 0
            for index, (cell, ratio) in enumerate(zip(drawn, ratios, strict=True)):
                mask = {"mask": "feature", "removes": "random", "ratio": 0.3} if index else {}
                found += pair(
                    {"method": "KD", "mask": f"r{index:02}" if index else "none"},
                    0.01 * (float(cell @ slopes) + shared * ratio) + random.normal(0, NOISE),
                    0.4 + 0.03 * (cell[0] + ratio) + random.normal(0, 0.002),
                    0.15 + 0.02 * cell[1] + random.normal(0, 0.002),
                    0.7 + teachers * float(np.clip(cell[2], -2, 2)),
                    **{"experiment": "random_masks", "dataset": dataset, "protocol": dataset,
                       "seed": seed, **mask, **given},
                )  # fmt: skip
    return with_parts(found)


def mask_table(
    points: dict[str, float],
    sets: Iterable[str] = SETS,
    seeds: int = 5,
    methods: Sequence[str] = ("KD", "DKD"),
    ncjsd: dict[str, float] | None = None,
    teacher: Callable[[float], float] = lambda ratio: 0.7,
    **given: Any,
) -> list[Row]:
    """Runs of a table of masks; ``points`` is what students gain by each of T, R, F and none."""
    random = np.random.default_rng(2)
    moved = {"T": -0.04, "R": 0.0, "F": 0.04} if ncjsd is None else ncjsd
    found: list[Row] = []
    cells = [("none", None), *((name, ratio) for name in REMOVES for ratio in RATIOS)]
    for dataset in sets:
        for seed in range(seeds):
            for method in methods:
                for name, ratio in cells:
                    mask = {"mask": "feature", "removes": REMOVES[name]} if ratio else {}
                    found += pair(
                        {"method": method, "mask": name, "ratio": f"{ratio}"},
                        0.01 * points[name] + random.normal(0, NOISE),
                        0.4 + moved.get(name, 0.0) + random.normal(0, 0.002),
                        0.1,
                        teacher(ratio) if ratio else 0.7,
                        **{"experiment": "table_pairs", "dataset": dataset, "protocol": dataset,
                           "seed": seed, "method": method, "ratio": ratio, **mask, **given},
                    )  # fmt: skip
    return with_parts(found)


def with_parts(rows: list[Row]) -> list[Row]:
    """Rows as the report has them."""
    return [{**row, "part_of": row["experiment"]} for row in with_derived(rows)]
