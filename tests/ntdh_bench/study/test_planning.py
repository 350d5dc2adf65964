from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.report.effects import Effect
from ntdh_bench.study import planning, worlds

RESULTS = Path(__file__).parents[3] / "results"


def by_the_book(error: float, n: int, level: float) -> float:
    """The mean of n values that a t test finds with 80 % power, of which each has this error."""
    critical, root = stats.t.ppf((1 + level) / 2, n - 1), error / math.sqrt(n)
    return float(
        optimize.brentq(
            lambda mean: stats.nct.sf(critical, n - 1, mean / root) - 0.8, 0.01, 20 * root
        )
    )


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_what_is_detected_is_what_a_noncentral_t_says(spread: float) -> None:
    rng = np.random.default_rng(0)
    effects = [Effect(float(x), 1, 1, 1, 10, 5, 9) for x in rng.normal(size=6000)]
    alone, holm = planning.detectable(rng, effects, 8, spread)
    error = math.hypot(1, spread)
    assert alone == pytest.approx(by_the_book(error, 8, 0.95), rel=0.04)
    assert holm == pytest.approx(by_the_book(error, 8, 1 - 0.05 / 7), rel=0.05)


def test_what_a_data_set_shows_by_itself() -> None:
    error = 1.3 / math.sqrt(sum((dose - 0.5) ** 2 for dose in worlds.DOSES))
    assert planning.single(1.3) == pytest.approx(by_the_book(error, 10, 0.95), rel=0.02)


def test_noise_is_that_of_the_gains_of_kd_in_the_records() -> None:
    rows = [row for row in read_rows(csv_path(RESULTS, "methods")).rows if row["dataset"] == "wiki"]
    score = {
        (row["objective_hash"] if row["arm"] == "kd" else "", row["seed"]): row[
            "last_test_accuracy"
        ]
        for row in rows
        if row["method"] == "KD" or row["arm"] == "without_kd"
    }
    seeds = {seed for _, seed in score}
    kinds = {kind for kind, _ in score if kind}
    gains = [[100 * (score[kind, s] - score["", s]) for s in seeds] for kind in kinds]
    expected = math.sqrt(np.mean(np.var(gains, axis=1, ddof=1)) / 2)
    assert worlds.noise_of(rows) == {"wiki": pytest.approx(expected)}


def test_the_committed_table_has_every_design() -> None:
    with (RESULTS / "study" / "power.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["design"] for line in lines} == {worlds.DOSED, worlds.RANDOM}
    assert {int(line["sets"]) for line in lines} == set(worlds.SETS)
    assert all(float(line["holm"]) > float(line["alone"]) > 0 for line in lines)
