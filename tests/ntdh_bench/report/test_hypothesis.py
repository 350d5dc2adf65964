from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ntdh_bench.records.columns import Row, blank_row
from ntdh_bench.report import hypothesis
from ntdh_bench.report.effects import average, pool
from ntdh_bench.report.hypothesis import Stratum, Summary
from ntdh_bench.report.pairing import scored
from tests.ntdh_bench.report.rows import placed
from tests.typed import some

GAPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def pair(
    seed: int, gap: float, gain: float, ncjsd: float, tcjsd: float = 0.05, accuracy: float = 0.7,
    **given: Any,
) -> list[Row]:  # fmt: skip
    """A KD run with this gain and its control with these divergences; a gap is a teacher."""
    common = {
        **scored(blank_row()),
        "dataset": "synthetic",
        "source": "simulated",
        "protocol": "p",
        "unimodal": False,
        "seed": seed,
        "gap": gap,
        "last_val_score": 0.5,
        **given,
    }
    common["baseline_hash"] = f"{seed} {common['protocol']} {common['dataset']}"
    common["teacher_hash"] = f"{common['baseline_hash']} {gap}"
    name = f"{common['teacher_hash']} {common['mask']} {common['ratio']} {common['method']}"
    kd = {**common, "method": "KD", **given, "arm": "kd", "run": f"{name} kd"}
    control = {**common, "method": None, "arm": "without_kd", "run": f"{name} control"}
    kd |= {"last_test_score": 0.6 + gain, "last_val_ncjsd": 99.0, "last_val_tcjsd": 99.0}
    control |= {
        "last_test_score": 0.6,
        "last_val_ncjsd": ncjsd,
        "last_val_tcjsd": tcjsd,
        "last_val_teacher_score": accuracy,
    }
    return [placed(kd), placed(control)]


def noisy(seeds: int, slope: float, **given: Any) -> list[Row]:
    """Cells whose gain follows NCJSD with a slope, TCJSD and teachers at random."""
    generator = np.random.default_rng([1, *given.get("dataset", "").encode()])
    return [
        row
        for seed in range(seeds)
        for gap in GAPS
        for row in pair(
            seed,
            gap,
            slope * gap + generator.normal(0, 0.004),
            0.2 + 0.1 * gap + generator.normal(0, 0.004),
            0.05 + generator.normal(0, 0.01),
            0.7 + generator.normal(0, 0.01),
            **given,
        )
    ]


def only(rows: list[Row]) -> Stratum:
    found = hypothesis.test_hypothesis(rows).strata
    assert len(found) == 1
    return found[0]


def test_a_slope_is_least_squares_over_cells_for_one_standard_deviation() -> None:
    rows = noisy(4, -0.02)
    stratum = only(rows)
    gain, ncjsd = (
        np.array([
            np.mean([r[column] for r in rows if (r["arm"], r["gap"]) == (arm, gap)])
            for gap in GAPS
        ])
        for arm, column in (("kd", "last_test_score"), ("without_kd", "last_val_ncjsd"))
    )  # fmt: skip
    expected = np.polyfit(ncjsd / ncjsd.std(), 100 * gain, 1)[0]
    assert some(stratum.ncjsd).value == pytest.approx(expected)
    assert (stratum.cells, stratum.seeds, stratum.split) == (6, 4, "val")
    assert (stratum.moved, stratum.label) == ("teachers", "synthetic KD, p, teachers")


@pytest.mark.parametrize("slope", [-0.05, 0.05])
def test_a_clear_trend_is_shown_in_its_stratum_and_not_judged(slope: float) -> None:
    low, high = some(only(noisy(6, slope)).ncjsd).interval()
    assert low * slope > 0 < high * slope
    assert not hasattr(only(noisy(6, slope)), "verdict")


def test_the_interval_holds_the_choice_of_cells() -> None:
    """Cells differ for reasons of their own, the same for every seed: 5 % lie off 0, not most."""
    off = 0
    for trial in range(60):
        generator = np.random.default_rng(trial)
        own = generator.normal(0, 0.05, size=12)
        rows = [
            row
            for seed in range(5)
            for cell in range(12)
            for row in pair(
                seed, cell / 11, own[cell] + generator.normal(0, 0.002), math.sin(7 * cell)
            )
        ]
        low, high = some(only(rows).ncjsd).interval()
        off += not low <= 0 <= high
    assert off <= 7


def test_too_few_cells_or_seeds() -> None:
    one_seed = only(noisy(1, -0.05))
    four_cells = only([row for row in noisy(5, -0.05) if row["gap"] < 0.7])
    assert (one_seed.ncjsd, one_seed.seeds) == (None, 1)
    assert (four_cells.ncjsd, four_cells.cells) == (None, 4)
    assert hypothesis.test_hypothesis([]) == hypothesis.Hypothesis([], [], [])
    one_cell = [row for row in noisy(5, -0.05) if row["gap"] == 0]
    assert hypothesis.test_hypothesis(one_cell) == hypothesis.Hypothesis([], [], [])


def test_seeds_without_all_cells_are_left_out_and_do_not_stop_the_rest() -> None:
    rows = noisy(5, -0.05)
    gone = {(0, 0.2), (3, 0.8)}
    stratum = only([row for row in rows if (row["seed"], row["gap"]) not in gone])
    assert (stratum.cells, stratum.seeds, some(stratum.ncjsd).seeds) == (6, 5, 3)
    no_controls = [r for r in rows if r["arm"] == "kd"]
    assert hypothesis.test_hypothesis(no_controls).strata == []


@pytest.mark.parametrize("rounding", [0.0, 1e-9])
def test_a_divergence_that_varies_by_rounding_alone_has_no_slope(rounding: float) -> None:
    rows = [
        row
        for s in range(3)
        for n, gap in enumerate(GAPS)
        for row in pair(s, gap, -gap + math.sin(n + s), 0.2 + rounding * math.sin(9 * n), gap)
    ]
    stratum = only(rows)
    assert (stratum.ncjsd, stratum.difference) == (None, None)
    assert some(stratum.tcjsd).value < 0


def test_the_teachers_accuracy_may_explain_it() -> None:
    """NCJSD follows the teacher's accuracy but for noise; so does the gain: nothing is left."""
    generator = np.random.default_rng(2)
    rows = []
    for number, gap in enumerate(np.linspace(0, 1, 40)):
        x = math.sin(number)
        noise = generator.normal(0, 0.2, size=3)
        for seed in range(3):
            rows += pair(seed, float(gap), x + noise[0], -x + noise[1], noise[2], x)
    stratum = only(rows)
    assert some(stratum.ncjsd).interval()[1] < 0
    low, high = some(stratum.partial).interval()
    assert low < 0 < high


def test_a_divergence_that_the_target_beats_shows_in_the_difference() -> None:
    """Gain follows TCJSD wholly, NCJSD roughly; or NCJSD alone."""
    generator = np.random.default_rng(4)
    rows = []
    for cell in range(20):
        ncjsd, tcjsd = generator.normal(size=2)
        for seed in range(5):
            noise = generator.normal(0, 0.1, size=4)
            rows += pair(
                seed, cell / 20, -tcjsd / 100 + noise[0] / 100, ncjsd, tcjsd, 0.7 + noise[1],
            )  # fmt: skip
    beaten = only(rows)
    turned = [
        {**r, "last_val_ncjsd": r["last_val_tcjsd"], "last_val_tcjsd": r["last_val_ncjsd"]}
        for r in rows
    ]
    assert some(beaten.difference).interval()[0] > 0 > some(only(turned).difference).interval()[1]


# -- strata --------------------------------------------------------------------------------------


def changed(**given: Any) -> list[Row]:
    """Five seeds of a teacher of gap 0.5, changed; its gain falls with the ratio or dose."""
    level = given.get("ratio") or given.get("dose") or 0.0
    return [
        row
        for seed in range(5)
        for row in pair(seed, 0.5, -level / 10 + seed / 1000, 0.2 + level / 10, **given)
    ]


def study_rows() -> list[Row]:
    """A teacher as it is, with T and R masks of two layers, random masks, and interventions."""
    rows = changed()
    for layer in ("input", "hidden"):
        for removes in ("most_divergent", "random"):
            for ratio in (0.25, 0.5, 0.75):
                rows += changed(mask="feature", removes=removes, ratio=ratio, layer=layer, draw=0)
    for draw in range(1, 7):
        rows += changed(mask="feature", removes="random", ratio=draw / 10, draw=draw)
    for name in ("ShuffleNontarget", "UniformNontarget"):
        for dose in (0.25, 0.5, 0.75, 1.0):
            rows += changed(intervention=name, dose=dose)
    for row in rows:
        told = [row.get(name) for name in ("layer", "draw", "intervention", "dose", "ratio")]
        row["run"] = f"{row['run']} {told} {row['removes']}"
        if row["mask"] or row.get("intervention"):
            row["mask_hash"] = f"{told} {row['removes']}"
    return rows


def test_what_moves_the_divergence_sets_strata_apart() -> None:
    found = hypothesis.test_hypothesis(study_rows())
    assert {(s.label, s.moved, s.cells) for s in found.strata} == {
        ("synthetic KD, p, feature masks, layer input", "feature masks", 7),
        ("synthetic KD, p, feature masks, layer hidden", "feature masks", 7),
        ("synthetic KD, p, random masks", "random masks", 6),  # the teacher as it is is no draw
        ("synthetic KD, p, ShuffleNontarget", "ShuffleNontarget", 5),
        ("synthetic KD, p, UniformNontarget", "UniformNontarget", 5),
    }
    assert all(some(s.ncjsd).value < 0 for s in found.strata)
    assert {(s.moved, s.strata) for s in found.summaries if s.quantity == "ncjsd"} == {
        ("feature masks", 2), ("random masks", 1), ("ShuffleNontarget", 1), ("UniformNontarget", 1),
    }  # fmt: skip


def test_cells_say_what_they_are() -> None:
    found = hypothesis.test_hypothesis(study_rows())
    assert {(p.cell, round(p.ncjsd, 3), round(p.gain)) for p in found.points} >= {
        ("no mask", 0.2, 0),
        ("most_divergent 0.25 of input", 0.225, -2),
        ("random 0.3, draw 3", 0.23, -3),
        ("UniformNontarget 0.5", 0.25, -5),
    }


def test_masks_of_two_teachers_are_two_strata_with_a_control_each() -> None:
    rows = []
    for gap, lift in ((0.0, 0.5), (0.5, 0.0)):
        for ratio in (None, 0.2, 0.4, 0.6, 0.8):
            mask = {"mask": "feature", "removes": "random", "layer": "input"} if ratio else {}
            for seed in range(3):
                level = lift + (ratio or 0.0) + seed / 1000
                rows += pair(seed, gap, lift - level, level, ratio=ratio, **mask)
    found = hypothesis.test_hypothesis(rows).strata
    assert [(s.label, s.cells, some(s.ncjsd).value < 0) for s in found if s.ncjsd] == [
        ("synthetic KD, p, feature masks, gap 0", 5, True),
        ("synthetic KD, p, feature masks, gap 0.5", 5, True),
    ]


def test_teachers_of_different_students_are_not_compared() -> None:
    rows = []
    for classes in (3, 5):
        for row in noisy(3, -0.05, classes=classes):
            own = f"{row['baseline_hash']} {classes}"
            row["pair_hash"] += str(classes)
            same = {"objective_hash": "o", "run": f"{row['run']} {classes}"}
            rows.append({**row, "baseline_hash": own, **same})
    found = hypothesis.test_hypothesis(rows).strata
    assert [(s.label, s.cells) for s in found] == [
        ("synthetic KD, p, teachers, classes 3", 6), ("synthetic KD, p, teachers, classes 5", 6),
    ]  # fmt: skip


def test_runs_shared_by_experiments_count_once_and_unclear_cells_not() -> None:
    rows = noisy(3, -0.05)
    shared = [{**row, "experiment": "another"} for row in rows]
    assert only(rows + shared) == only(rows)
    another_teacher = [
        {**row, "run": row["run"] + "b", "teacher_hash": "b"} for row in rows if row["gap"] == 0.4
    ]
    assert only(rows + another_teacher).cells == 5


def test_weight_adjustment_changes_the_objective_and_its_unit_weights_are_kd() -> None:
    rows = [
        row
        for weight in (0.0, 1.0, 4.0)
        for row in noisy(3, -0.05, method="WeightedKL", alpha=1.0, beta=weight)
    ]
    for row in rows:
        row["run"] += str(row["beta"])
    assert hypothesis.test_hypothesis(rows).strata == []


def test_objectives_of_a_users_grid_are_strata_of_their_own() -> None:
    """Temperature x learning rate, which no column knows: labels say which is which."""
    rows = []
    for hot in ("1", "4"):
        for rate in ("0.1", "1e-3"):
            for row in noisy(3, -0.05):
                own = {"x.temperature": hot, "x.lr": rate, "gap": str(row["gap"])}
                run = f"{row['run']} {hot} {rate}"
                rows.append({**row, "cell": own, "objective_hash": hot + rate, "run": run})
    found = hypothesis.test_hypothesis(rows).strata
    assert [(s.label, s.cells, s.unclear) for s in found] == [
        (f"synthetic KD, p, temperature {hot}, lr {rate}, teachers", 6, 0)
        for hot in ("1", "4") for rate in ("0.1", "1e-3")
    ]  # fmt: skip
    unnamed = [{**row, "cell": {"gap": str(row["gap"])}} for row in rows]
    labels = [s.label for s in hypothesis.test_hypothesis(unnamed).strata]
    assert labels[0] == "synthetic KD, p, objective 10.1, teachers"
    assert len(set(labels)) == 4


def test_unclear_cells_are_counted_even_if_nothing_else_is_left() -> None:
    rows = noisy(3, -0.05)
    twice = [{**r, "run": r["run"] + "b", "teacher_hash": "b"} for r in rows]
    few = only(rows + [row for row in twice if row["gap"] == 0.4])
    assert (few.cells, few.unclear) == (5, 1)
    found = hypothesis.test_hypothesis(rows + twice)
    assert [(s.cells, s.unclear, s.ncjsd) for s in found.strata] == [(0, 6, None)]
    assert found.points == []
    assert only(rows).unclear == 0


def test_teachers_that_trained_longer_are_other_cells() -> None:
    rows = []
    for epochs in (1, 5):
        for row in noisy(3, -0.05, teacher_epochs=epochs):
            rows.append({**row, "run": f"{row['run']} {epochs}"})
            rows[-1]["teacher_hash"] += str(epochs)
    assert (only(rows).cells, only(rows).unclear) == (12, 0)


def test_teachers_of_both_modalities_are_left_out() -> None:
    rows = noisy(3, -0.05)
    both = [
        {**row, "teacher_inputs": "both", "run": f"{row['run']} both", "gain": -row["seed"]}
        for row in rows
    ]
    assert hypothesis.test_hypothesis([*rows, *both]) == hypothesis.test_hypothesis(rows)


# -- over data sets ------------------------------------------------------------------------------

REAL = ("av_mnist", "bdgp", "mnist", "nyuv2", "ravdess", "wiki")


def over_sets(rows: list[Row], quantity: str = "ncjsd", source: str = "real") -> Summary:
    found = hypothesis.test_hypothesis(rows).summaries
    return next(s for s in found if (s.quantity, s.source) == (quantity, source))


def sets(slope: float, names: Sequence[str] = REAL, **given: Any) -> list[Row]:
    known = {"source": "real", **given}
    return [row for name in names for row in noisy(3, slope, dataset=name, **known)]


@pytest.mark.parametrize(
    ("slope", "verdict"), [(-0.05, "holds"), (0.05, "fails"), (0.0, "no effect")]
)
def test_the_verdict_is_on_the_mean_over_data_sets(slope: float, verdict: str) -> None:
    summary = over_sets(sets(slope))
    assert (summary.verdict, len(summary.sets), summary.strata) == (verdict, 6, 6)
    assert over_sets(sets(slope), "tcjsd").verdict == "reference"
    strata = hypothesis.test_hypothesis(sets(slope)).strata
    expected = some(pool([some(s.ncjsd) for s in strata]))
    assert some(summary.pooled) == expected


def test_four_real_data_sets_and_any_simulated_ones_decide_nothing() -> None:
    four = over_sets(sets(-0.05, REAL[:4]))
    assert (four.verdict, four.decision) == ("inconclusive", None)
    assert some(four.pooled).high < 0
    simulated = over_sets(sets(-0.05, source="simulated"), source="simulated")
    assert (simulated.verdict, len(simulated.sets)) == ("inconclusive", 6)
    one = over_sets(sets(-0.05, REAL[:1]))
    assert (one.pooled, one.verdict) == (None, "inconclusive")


def test_protocols_methods_and_directions_of_a_data_set_are_one_effect() -> None:
    rows = sets(-0.05, protocol="there") + sets(-0.02, protocol="back")
    summary = over_sets(rows)
    assert (summary.strata, len(summary.sets)) == (12, 6)
    strata = hypothesis.test_hypothesis(rows).strata
    own = [some(s.ncjsd) for s in strata if s.dataset == "mnist"]
    assert summary.sets["mnist"] == average(own)
    # Methods that share controls and say the same do not narrow the interval.
    methods = [row for n in range(7) for row in sets(-0.05, method=f"M{n}")]
    one, seven = some(over_sets(sets(-0.05)).pooled), some(over_sets(methods).pooled)
    assert (seven.value, seven.low) == (pytest.approx(one.value), pytest.approx(one.low))


def test_what_else_varies_between_data_sets_does_not_count() -> None:
    """Sets with more divergence gain less, but within each more divergence means more gain."""
    rows = []
    for number, name in enumerate(REAL):
        for row in noisy(3, 0.03, dataset=name, source="real"):
            if row["arm"] == "kd":
                row["last_test_score"] -= 0.1 * number
            row["last_val_ncjsd"] += 0.1 * number
            rows.append(row)
    assert over_sets(rows).verdict == "fails"


def test_smoke_tests_and_students_that_still_learn_do_not_count() -> None:
    assert hypothesis.test_hypothesis([r for r in sets(-0.05) if r["seed"] < 2]).summaries == []
    rising = [{**row, "late_gain": 0.02 * (row["dataset"] == "mnist")} for row in sets(-0.05)]
    summary = over_sets(rising)
    assert "mnist" not in summary.sets
    assert len(summary.sets) == 5
    strata = hypothesis.test_hypothesis(rising).strata
    assert {(s.dataset, s.counts) for s in strata} == {(name, name != "mnist") for name in REAL}


def test_the_assumptions_delimit_a_second_mean() -> None:
    networks = {"teacher_parameters": 100, "student_parameters": 101}
    rows = sets(-0.05, **networks)
    for row in rows:
        row["last_test_teacher_score"] = 0.7 if row["dataset"] in REAL[:2] else 0.61
    summary = over_sets(rows)
    assert (len(summary.sets), some(summary.within).n, some(summary.pooled).n) == (6, 4, 6)
    assert over_sets(sets(-0.05)).within is None  # unknown is not within


def test_points_have_the_gain_over_both_controls() -> None:
    rows = noisy(3, -0.2)
    one = hypothesis.test_hypothesis(rows).points
    assert one
    assert all(point.gain_over_equal_task == point.gain for point in one)
    halved = [{**row, "task_weight": 0.5} if row["arm"] == "kd" else row for row in rows]
    alone = hypothesis.test_hypothesis(halved).points
    assert [point.gain for point in alone] == [point.gain for point in one]
    assert all(point.gain_over_equal_task is None for point in alone)
    equal = [
        {**row, "arm": "equal_task", "task_weight": 0.5, "last_test_score": 0.55}
        for row in rows
        if row["arm"] == "without_kd"
    ]
    for point in hypothesis.test_hypothesis([*halved, *equal]).points:
        assert point.gain_over_equal_task == pytest.approx(point.gain + 5)


def test_data_sets_that_are_all_alike_are_not_judged() -> None:
    rows = noisy(5, -1.0, source="real", dataset="a")
    alike = [
        {**row, "dataset": name, **{k: f"{row[k]} {name}" for k in ("run", "baseline_hash")}}
        for name in "abcde"
        for row in rows
    ]
    found = [s for s in hypothesis.test_hypothesis(alike).summaries if s.quantity == "ncjsd"]
    assert [(len(s.sets), s.pooled, s.verdict) for s in found] == [(5, None, "inconclusive")]
