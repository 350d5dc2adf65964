from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ntdh_bench.records.columns import Row, blank_row
from ntdh_bench.report import hypothesis
from ntdh_bench.report.pairing import scored
from ntdh_bench.report.statistics import random_effects
from tests.ntdh_bench.report.rows import placed
from tests.typed import some

GAPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def pair(
    seed: int, gap: float, gain: float, ncjsd: float, tcjsd: float = 0.05, accuracy: float = 0.7,
    **given: Any,
) -> list[Row]:  # fmt: skip
    """A KD run with this gain and its control with these divergences."""
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
    common["baseline_hash"] = f"{seed} {gap} {common['protocol']} {common['dataset']}"
    common["teacher_hash"] = common["baseline_hash"]
    name = f"{common['baseline_hash']} {common['mask']} {common['ratio']} {common['method']}"
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
    generator = np.random.default_rng(0)
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


def only(rows: list[Row]) -> hypothesis.Stratum:
    found = hypothesis.test_hypothesis(rows).strata
    assert len(found) == 1
    return found[0]


def test_correlations_are_over_seed_averaged_cells_of_the_controls_divergence() -> None:
    rows = noisy(4, -0.02)
    stratum = only(rows)
    means = {
        (arm, column): [
            np.mean([r[column] for r in rows if r["arm"] == arm and r["gap"] == gap])
            for gap in GAPS
        ]
        for arm, column in (
            ("kd", "last_test_score"),
            ("without_kd", "last_val_ncjsd"),
            ("without_kd", "last_val_tcjsd"),
        )
    }
    gain = means["kd", "last_test_score"]
    rho = [
        stats.spearmanr(means["without_kd", f"last_val_{name}"], gain).statistic
        for name in ("ncjsd", "tcjsd")
    ]
    assert some(stratum.ncjsd).value == pytest.approx(rho[0])
    assert some(stratum.tcjsd).value == pytest.approx(rho[1])
    assert some(stratum.difference).value == pytest.approx(rho[0] - rho[1])
    assert (stratum.cells, stratum.seeds, stratum.split) == (6, 4, "val")


@pytest.mark.parametrize(
    ("slope", "verdict"), [(-0.05, "supports"), (0.05, "contradicts"), (0.0, "inconclusive")]
)
def test_the_sign_of_a_clear_trend_is_the_verdict(slope: float, verdict: str) -> None:
    stratum = only(noisy(6, slope))
    assert stratum.verdict == verdict
    assert stratum.ncjsd is not None
    assert -1 <= stratum.ncjsd.low <= stratum.ncjsd.high <= 1


def test_the_interval_is_that_of_a_loop_over_resampled_seeds() -> None:
    rows = noisy(3, -0.01)
    kd = {(r["seed"], r["gap"]): r["last_test_score"] for r in rows if r["arm"] == "kd"}
    ncjsd = {(r["seed"], r["gap"]): r["last_val_ncjsd"] for r in rows if r["arm"] != "kd"}
    generator = np.random.default_rng(5)
    values = []
    for _ in range(2000):
        drawn = generator.integers(0, 3, size=3)
        means = [[np.mean([x[s, g] for s in drawn]) for g in GAPS] for x in (ncjsd, kd)]
        ranks = [stats.rankdata(x) for x in means]
        values.append(np.corrcoef(*ranks)[0, 1])
    low, high = np.percentile(values, [2.5, 97.5])
    found = some(only(rows).ncjsd)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.06)


def test_too_few_cells_or_seeds() -> None:
    one_seed = only(noisy(1, -0.05))
    three_cells = only([row for row in noisy(5, -0.05) if row["gap"] < 0.5])
    assert (one_seed.verdict, one_seed.ncjsd) == ("too few", None)
    assert (three_cells.verdict, three_cells.cells) == ("too few", 3)
    assert hypothesis.test_hypothesis([]) == hypothesis.Hypothesis([], [], [])
    one_cell = [row for row in noisy(5, -0.05) if row["gap"] == 0]
    assert hypothesis.test_hypothesis(one_cell) == hypothesis.Hypothesis([], [], [])


def test_missing_runs_are_left_out_and_do_not_stop_the_rest() -> None:
    rows = noisy(5, -0.05)
    gone = {(0, 0.2), (3, 0.8)}
    stratum = only([row for row in rows if (row["seed"], row["gap"]) not in gone])
    assert (stratum.cells, stratum.seeds, stratum.verdict) == (6, 5, "supports")
    no_controls = [r for r in rows if r["arm"] == "kd"]
    assert hypothesis.test_hypothesis(no_controls).strata == []


def test_a_divergence_that_does_not_vary_has_no_correlation() -> None:
    rows = [row for s in range(3) for gap in GAPS for row in pair(s, gap, -gap, 0.2)]
    stratum = only(rows)
    assert (stratum.ncjsd, stratum.difference, stratum.verdict) == (None, None, "inconclusive")


def test_the_teachers_accuracy_may_explain_it() -> None:
    """NCJSD follows the teacher's accuracy but for noise; so does the gain: nothing is left."""
    generator = np.random.default_rng(2)
    rows = []
    for number, gap in enumerate(np.linspace(0, 1, 40)):
        x = math.sin(number)
        noise = generator.normal(0, 0.2, size=2)
        for seed in range(3):
            rows += pair(seed, float(gap), x + noise[0], -x + noise[1], 0.05, x)
    stratum = only(rows)
    assert some(stratum.ncjsd).value < -0.9
    assert abs(some(stratum.partial).value) < 0.35


def test_masked_and_unmasked_cells_keep_their_own_controls() -> None:
    mask = {"mask": "feature", "removes": "random", "layer": "input"}
    rows = [row for seed in range(2) for row in pair(seed, 0.5, 0.01, 0.2)]
    for seed in range(2):
        for ratio in (0.25, 0.5, 0.75):
            rows += pair(seed, 0.5, 0.01 + ratio, 0.2 - ratio / 10, ratio=ratio, **mask)
    found = hypothesis.test_hypothesis(rows)
    assert [stratum.cells for stratum in found.strata] == [4]
    assert {(p.cell, round(p.ncjsd, 3), round(p.gain)) for p in found.points} == {
        ("no mask", 0.2, 1),
        ("random 0.25 of input", 0.175, 26),
        ("random 0.5 of input", 0.15, 51),
        ("random 0.75 of input", 0.125, 76),
    }


def test_runs_shared_by_experiments_count_once_and_unclear_cells_not() -> None:
    rows = noisy(3, -0.05)
    shared = [{**row, "experiment": "another"} for row in rows]
    assert only(rows + shared) == only(rows)
    another_teacher = [
        {**row, "run": row["run"] + "b", "teacher_hash": "b", "baseline_hash": "b"}
        for row in rows
        if row["gap"] == 0.4
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
        (f"synthetic KD, p, temperature {hot}, lr {rate}", 6, 0)
        for hot in ("1", "4") for rate in ("0.1", "1e-3")
    ]  # fmt: skip
    unnamed = [{**row, "cell": {"gap": str(row["gap"])}} for row in rows]
    labels = [s.label for s in hypothesis.test_hypothesis(unnamed).strata]
    assert labels[0] == "synthetic KD, p, objective 10.1"
    assert len(set(labels)) == 4


def test_unclear_cells_are_counted_even_if_nothing_else_is_left() -> None:
    rows = noisy(3, -0.05)
    twice = [{**r, "run": r["run"] + "b", "teacher_hash": "b", "baseline_hash": "b"} for r in rows]
    some = only(rows + [row for row in twice if row["gap"] == 0.4])
    assert (some.cells, some.unclear) == (5, 1)
    found = hypothesis.test_hypothesis(rows + twice)
    assert [(s.cells, s.unclear, s.verdict) for s in found.strata] == [(0, 6, "too few")]
    assert found.points == []
    assert only(rows).unclear == 0


def test_teachers_that_trained_longer_are_other_cells() -> None:
    rows = []
    for epochs in (1, 5):
        for row in noisy(3, -0.05, teacher_epochs=epochs):
            rows.append({**row, "run": f"{row['run']} {epochs}"})
            rows[-1]["teacher_hash"] += str(epochs)
    assert (only(rows).cells, only(rows).unclear) == (12, 0)


def specific(seeds: int, target_too: bool) -> list[Row]:
    """Gain follows NCJSD roughly; it follows TCJSD wholly, or not at all."""
    generator = np.random.default_rng(4)
    levels = (0.0, 0.4, 0.2, 0.8, 0.6, 1.0)
    rows = []
    for seed in range(seeds):
        for gap, level in zip(GAPS, levels, strict=True):
            noise = generator.normal(0, 0.001, size=3)
            tcjsd = gap if target_too else math.sin(20 * gap)
            rows += pair(seed, gap, -gap + noise[0], level + noise[1], tcjsd + noise[2])
    return rows


def test_a_divergence_that_the_target_beats_is_not_specific() -> None:
    beaten, alone = only(specific(6, True)), only(specific(6, False))
    assert some(beaten.ncjsd).high < 0 < some(beaten.difference).low
    assert (beaten.verdict, alone.verdict) == ("not specific", "supports")


def test_fewer_than_five_seeds_show_correlations_and_decide_nothing() -> None:
    for seeds in (2, 4):
        stratum = only(noisy(seeds, -0.05))
        assert some(stratum.ncjsd).high < 0
        assert stratum.verdict == "inconclusive"
    assert only(noisy(5, -0.05)).verdict == "supports"


def test_families_show_what_pooling_hides() -> None:
    """Within each family the order is perfect; between them it is turned."""
    rows = []
    for seed in range(3):
        for gap in GAPS:
            rows += pair(seed, gap, 1 - gap, gap, teacher="independent")
        for place, gap in enumerate((0.0, 0.5)):
            joint = {"teacher": "joint", "layer": "input"}
            rows += pair(seed, gap, 9.0 * place + 3, 5.0 * place + 3, teacher="joint")
            for ratio in (0.25, 0.5, 0.75):
                level = 5.0 * place + 3 - ratio
                rows += pair(
                    seed, gap, 9.0 * place + 3 + ratio, level, ratio=ratio, mask="feature",
                    removes="random", **joint,
                )  # fmt: skip
    for row in rows:
        for name in ("run", "teacher_hash", "baseline_hash"):
            row[name] = f"{row[name]} {row['teacher']}"
    stratum = only(rows)
    assert some(stratum.ncjsd).value > 0.5
    assert {(f.label, f.cells, f.ncjsd.value if f.ncjsd else None) for f in stratum.families} == {
        ("independent teachers, no mask", 6, -1.0),
        ("joint teachers, gap 0, feature masks of input", 4, -1.0),
        ("joint teachers, gap 0.5, feature masks of input", 4, -1.0),
    }
    assert only(noisy(3, -0.05)).families == ()


def test_teachers_of_both_modalities_are_left_out() -> None:
    rows = noisy(3, -0.05)
    both = [
        {**row, "teacher_inputs": "both", "run": f"{row['run']} both", "gain": -row["seed"]}
        for row in rows
    ]
    assert hypothesis.test_hypothesis([*rows, *both]) == hypothesis.test_hypothesis(rows)


def test_strata_are_told_apart_and_data_sets_are_summarised_by_source() -> None:
    datasets = [
        ("synthetic", "simulated"),
        ("mnist", "real"),
        ("nyuv2", "real"),
        ("ravdess", "real"),
    ]
    rows = [
        row
        for dataset, source in datasets
        for protocol in ("long", "short")
        for row in noisy(3, -0.05, dataset=dataset, source=source, protocol=protocol)
    ]
    found = hypothesis.test_hypothesis(rows)
    assert len({stratum.label for stratum in found.strata}) == len(found.strata) == 8
    summary = {(s.source, s.quantity): s for s in found.summaries}
    assert set(summary) == {
        (source, quantity) for source in ("real", "simulated") for quantity in hypothesis.QUANTITIES
    }
    real = summary["real", "ncjsd"]
    assert (real.strata, real.datasets, real.verdict) == (6, 3, "supports")
    assert summary["real", "tcjsd"].verdict == "reference"
    alone = summary["simulated", "ncjsd"]
    assert (alone.strata, alone.datasets, alone.low, alone.verdict) == (2, 1, None, "too few")
    two = hypothesis.test_hypothesis([r for r in rows if r["dataset"] != "ravdess"]).summaries
    pair_of = next(s for s in two if (s.source, s.quantity) == ("real", "ncjsd"))
    assert (pair_of.datasets, pair_of.verdict) == (2, "too few")
    assert pair_of.low is not None


def methods(datasets: int, names: int, slope: float, apart: float = 0.0) -> list[Row]:
    """Methods that share controls, seeds and divergences, as in Table II; gains differ by noise."""
    rows = []
    for number in range(datasets):
        shared = np.random.default_rng(100 + number)
        cells = {
            (seed, gap): (slope * gap + shared.normal(0, 0.01), 0.2 + 0.1 * gap)
            for seed in range(5)
            for gap in GAPS
        }
        for name in range(names):
            own = np.random.default_rng(name)
            for (seed, gap), (gain, ncjsd) in cells.items():
                rows += pair(
                    seed, gap, gain + apart * own.normal(), ncjsd, math.sin(20 * gap),
                    0.7 + math.cos(9 * gap), dataset=f"data{number}", method=f"M{name}",
                )  # fmt: skip
    return rows


@pytest.mark.parametrize("quantity", ["ncjsd", "difference", "partial"])
def test_more_methods_on_the_same_runs_do_not_narrow_the_interval(quantity: str) -> None:
    one, seven = (
        next(
            s
            for s in hypothesis.test_hypothesis(methods(3, n, -0.01)).summaries
            if s.quantity == quantity
        )
        for n in (1, 7)
    )
    assert (one.strata, seven.strata, one.datasets, seven.datasets) == (3, 21, 3, 3)
    assert [one.value, some(one.low), one.high, one.p] == pytest.approx(
        [seven.value, seven.low, seven.high, seven.p]
    )


def test_a_difference_has_the_variance_of_its_resamples() -> None:
    rows = methods(3, 2, -0.01, 0.01)
    found = hypothesis.test_hypothesis(rows)
    difference = next(s for s in found.summaries if s.quantity == "difference")
    effects = [
        np.mean([s.difference.value for s in found.strata if s.difference and s.dataset == name])
        for name in ("data0", "data1", "data2")
    ]
    assert min(effects) <= difference.value <= max(effects)
    # 1.06 / (cells - 3) alone would make it wider than this.
    fisher = stats.t.ppf(0.975, 2) * math.sqrt(1.06 / 3 / 3)
    assert some(difference.high) - some(difference.low) < 2 * fisher


def test_methods_that_share_noise_hold_a_true_null_as_often_as_they_should() -> None:
    """Seven methods, 80 % of the noise of their gains in common, no effect: 5 % may be decided."""
    decided = 0
    for trial in range(25):
        generator = np.random.default_rng(trial)
        strata = []
        for dataset in range(3):
            shared = generator.normal(size=(5, 10))
            ncjsd = generator.normal(size=10)
            for _ in range(7):
                gains = 0.9 * shared + 0.45 * generator.normal(size=(5, 10))
                cells = {
                    (cell,): {
                        seed: {
                            "gain": gains[seed, cell], "ncjsd": ncjsd[cell],
                            "tcjsd": 0.0, "teacher_score": 0.0,
                        }
                        for seed in range(5)
                    }
                    for cell in range(10)
                }  # fmt: skip
                label = hypothesis.Stratum(
                    "", f"{dataset}", "", "real", "", 10, 0, 5, "val",
                    hypothesis.Correlation(0, 0, 0), None, None, None, "",
                )  # fmt: skip
                strata.append((label, cells))
        found = hypothesis.summarise("ncjsd", strata, "real")
        decided += found is not None and found.p is not None and found.p < 0.05
    assert decided <= 3


def test_strata_with_more_cells_weigh_more() -> None:
    many = [row for s in range(3) for gap in GAPS for row in pair(s, gap, gap, gap)]
    four = [
        row
        for s in range(3)
        for gap in GAPS[:4]
        for row in pair(s, gap, -gap, gap, dataset="nyuv2")
    ]
    [ncjsd] = hypothesis.test_hypothesis(many + four).summaries  # nothing else varies
    z = [math.atanh(1 - 6 / 210), -math.atanh(1 - 6 / 60)]
    expected = random_effects(z, [1.06 / 3, 1.06 / 1])
    assert ncjsd.value == pytest.approx(math.tanh(expected.mean))
    assert ncjsd.between == pytest.approx(expected.between)
    assert ncjsd.value > 0  # six cells against four


def test_a_perfect_order_stays_finite_and_two_seeds_stay_out_of_the_summary() -> None:
    rows = [row for s in range(3) for gap in GAPS for row in pair(s, gap, -gap, gap)]
    found = hypothesis.test_hypothesis(rows)
    assert found.strata[0].ncjsd == hypothesis.Correlation(-1.0, -1.0, -1.0)
    [summary] = [s for s in found.summaries if s.quantity == "ncjsd"]
    assert summary.value == pytest.approx(-(1 - 6 / (6 * 35)))
    assert (summary.low, summary.p, summary.verdict) == (None, None, "too few")
    assert hypothesis.test_hypothesis([r for r in rows if r["seed"] < 2]).summaries == []
