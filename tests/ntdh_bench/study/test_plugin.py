from __future__ import annotations

import csv
import html
import io
import math

import numpy as np
import pytest

from ntdh_bench.report.statistics import mean_ci, t_quantile
from ntdh_bench.report.studies import studies
from ntdh_bench.study.plugin import add, make_study
from ntdh_bench.study.power import POWER
from tests.ntdh_bench.study.rows import (
    ALIGN,
    SCALE_TARGET,
    SETS,
    SHUFFLE,
    UNIFORM,
    interventions,
    mask_table,
    random_masks,
)
from tests.typed import some

NAMES = {"study.md", "study.csv", "study_curves.csv", "study_guide.csv"}


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_it_is_the_study_of_the_report() -> None:
    assert add in studies()


def test_nothing_run_yet_is_said() -> None:
    found = add([]).files
    assert set(found) == NAMES
    assert found["study.md"].count("| not run | not run (n 0) |") == 7
    assert {line["verdict"] for line in lines(found["study.csv"])} == {"not run"}
    assert lines(found["study_curves.csv"]) == lines(found["study_guide.csv"]) == []


def test_everything_run_is_in_the_files() -> None:
    rows = [
        *interventions({SHUFFLE: -2.0, ALIGN: 2.0, UNIFORM: 0.0}),
        *random_masks((-0.5, 0.0, 0.3)),
        *mask_table({"none": 0.0, "T": 1.0, "R": 0.5, "F": 0.0}),
        *interventions({SHUFFLE: -2.0}, ["toy"], source="simulated"),
    ]
    found = add(rows).files
    text = found["study.md"]
    for part in ("### P1. ", "aligned minus uniform:", "## Power", "## Interventions, secondary",
                 "## Rehearsal on simulated data", "## What to do with it"):  # fmt: skip
        assert part in text
    assert "| toy |" not in text.partition("## Power")[0]  # simulated data decide nothing
    table = lines(found["study.csv"])
    assert {line["source"] for line in table} == {"real", "simulated"}
    assert {line["level"] for line in table} == {
        "all that count", "within both assumptions", "data set", "setting",
    }  # fmt: skip


def test_means_can_be_recomputed_from_the_csv() -> None:
    table = lines(add(interventions({SHUFFLE: -2.0})).files["study.csv"])
    own = [line for line in table if (line["claim"], line["source"]) == ("P1", "real")]
    sets = [line for line in own if line["level"] == "data set" and line["counts"] == "True"]
    assert [line["dataset"] for line in sets] == list(SETS)
    mean = some(mean_ci(float(line["value"]) for line in sets))
    (total,) = [line for line in own if line["level"] == "all that count"]
    assert float(total["value"]) == pytest.approx(mean.mean, rel=1e-8)
    assert float(total["low"]) == pytest.approx(some(mean.low), rel=1e-6)
    assert (total["verdict"], total["n"]) == ("holds", "6")


def test_power_is_that_of_the_test() -> None:
    """Means that lie at the smallest effect are beyond the limit in 80 % of draws."""
    study = make_study(interventions({SHUFFLE: -2.0}))
    found = study.power[0]
    mean = some(study.claims[0].parts[0].summary)
    assert (found.claim, found.n) == ("P1", 6)
    random = np.random.default_rng(0)
    freedom, effect = mean.n - 1, some(found.effect) / mean.error
    chi = np.sqrt(random.chisquare(freedom, 40000) / freedom)
    t = (effect + random.normal(size=40000)) / chi
    limit = t_quantile(1 - 0.05 / 14, freedom)
    assert (t > limit).mean() == pytest.approx(POWER, abs=0.01)
    assert math.isfinite(some(found.effect))
    assert study.power[-1].effect is None


def test_secondary_slopes_are_those_of_every_intervention_from_no_dose_to_the_largest() -> None:
    rows = interventions({SHUFFLE: -2.0, SCALE_TARGET: 3.0})
    for row in rows:
        if row["intervention"] == SCALE_TARGET:
            row["last_test_teacher_score"] += 0.1  # damaged: shown, and does not count
    found = make_study(rows).secondary
    assert [part.name for part in found] == [SHUFFLE, SCALE_TARGET]
    assert some(found[0].summary).value == pytest.approx(-2.0, abs=0.2)
    assert found[1].summary is None
    assert some(found[1].sets[0].value) == pytest.approx(3.0, abs=0.3)
    text = add(rows).files["study.md"]
    assert f"| {SHUFFLE} | -2." in text or f"| {SHUFFLE} | -1.9" in text
    assert f"| {SCALE_TARGET} | – | 0 | 0 | 0 | – | – | – |" in text


def test_how_far_the_two_way_divergence_moved_is_shown_where_it_is_known_and_counts() -> None:
    rows = interventions({SCALE_TARGET: -3.0})
    for row in rows:
        if row["dataset"] == "wiki":  # does not count
            row["late_gain"] = 0.1
        moved = 1.0 if row["dataset"] == "wiki" else 0.05
        row["tcjsd_binary_before"] = 0.2 + moved * (row["dose"] or 0) / 16
    assert "| 0.200 to 0.200 | 0.050 to 0.050 |" in add(rows).files["study.md"]
    for row in rows:
        row["tcjsd_binary_before"] = None  # earlier records
    assert "| 0.200 to 0.200 | – |" in add(rows).files["study.md"]


def test_runs_that_cannot_be_told_apart_leave_their_protocol_out() -> None:
    both = interventions({SHUFFLE: -2.0}, ["wiki", "bdgp"])
    rows = [row for row in both if row["experiment"] == "interventions"]
    other = [{**row, "run": f"{row['run']} b"} for row in rows if row["protocol"] == "wiki"]
    found = add([*rows, *other])
    (line,) = found.left_out
    assert line.startswith("the study: interventions, protocol wiki: runs ")
    assert line.endswith(": left out")
    assert line in found.files["study.md"]
    front = html.unescape(str(found.front))
    assert line in front
    assert {of["dataset"] for of in lines(found.files["study.csv"])} == {"", "bdgp"}
    assert add(rows).left_out == ()
