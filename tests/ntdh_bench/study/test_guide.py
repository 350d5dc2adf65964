from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntdh_bench.records.columns import Row
from ntdh_bench.records.rows import csv_path, read_rows
from ntdh_bench.report.pairing import scored
from ntdh_bench.study.guide import make_guide, threshold
from tests.ntdh_bench.study.rows import SETS, pair, with_parts
from tests.typed import some


def methods(
    gains: dict[str, Callable[[float], float]],
    leads: dict[str, float],
    noise: float = 0.002,
    **given: Any,
) -> list[Row]:
    """Runs of methods: protocol to the lead of its teacher, and gains by lead, all in points."""
    random = np.random.default_rng(0)
    found: list[Row] = []
    for protocol, lead in leads.items():
        for seed in range(6):
            for name, gain in gains.items():
                found += pair(
                    {"method": name}, 0.01 * gain(lead) + random.normal(0, noise), 0.4, 0.1,
                    0.7 + 0.01 * (seed % 3) + 0.01 * lead,
                    **{"experiment": "methods", "dataset": protocol.removesuffix("_reverse"),
                       "protocol": protocol, "seed": seed, "method": name, **given},
                )  # fmt: skip
    return with_parts(found)


LEADS = {name: 4.0 * place - 10 for place, name in enumerate(SETS)}
BOTH = LEADS | {f"{name}_reverse": -lead for name, lead in LEADS.items()}


def test_lines_hold_gains_over_both_controls_and_the_lead_of_the_teacher() -> None:
    (first, *others) = make_guide(methods({"KD": lambda lead: 2.0}, LEADS)).lines
    assert (first.dataset, first.protocol, first.method) == ("avletters", "avletters", "KD")
    assert (first.gain.n, len(others)) == (6, 5)
    assert first.gain.mean == pytest.approx(2.0, abs=0.2)
    assert first.gain_equal == first.gain  # both weigh the cross entropy by 1
    assert some(first.lead).mean == pytest.approx(LEADS["avletters"])
    assert first.helped is True


@pytest.mark.parametrize(("gain", "noise", "helped"), [(-2.0, 0.002, False), (0.2, 0.02, None)])
def test_it_helped_or_harmed_only_where_intervals_say_so(
    gain: float, noise: float, helped: bool | None
) -> None:
    found = make_guide(methods({"KD": lambda lead: gain}, LEADS, noise))
    assert {line.helped for line in found.lines} == {helped}
    (of,) = found.methods
    assert (of.helped, of.harmed, of.lines) == (0, 6 * (helped is False), 6)


def test_runs_that_experiments_share_count_once_and_other_teachers_apart() -> None:
    rows = methods({"KD": lambda lead: 1.0}, LEADS)
    again = [{**row, "experiment": "directions", "part_of": "directions"} for row in rows]
    half = [row for row in rows if row["seed"] < 3]
    found = make_guide(again + half)
    assert found.lines == make_guide(rows).lines
    assert {(line.gain.n, line.experiment) for line in found.lines} == {(6, "methods")}
    joint = [
        {**row, "run": f"{row['run']} j", "experiment": "table_pairs", "part_of": "table_pairs",
         "pair_hash": f"{row['pair_hash']} j"}
        for row in rows
    ]  # fmt: skip
    assert len(make_guide(rows + joint).lines) == 2 * len(found.lines)


def test_methods_are_means_over_data_sets_not_over_directions() -> None:
    leads = {**dict.fromkeys(SETS, 0.0), "wiki_reverse": 1.0}
    rows = methods({"A": lambda lead: 6.0 * lead, "B": lambda lead: -1.0}, leads)
    best, worst = make_guide(rows).methods
    assert (best.method, worst.method) == ("A", "B")
    assert (best.gain.n, best.lines) == (6, 7)
    assert best.gain.mean == pytest.approx(3.0 / 6, abs=0.1)


def test_a_rule_is_found_where_the_lead_decides() -> None:
    found = make_guide(methods({"KD": lambda lead: 0.3 * (lead - 1)}, BOTH))
    (rule,) = found.rules
    assert -2 < some(rule.threshold) < 3
    assert (rule.lines, rule.sets) == (12, 6)
    assert rule.right > 0.8
    (advice,) = found.advice
    assert advice.startswith("KD: distil if the teacher leads the student by more than ")


def test_no_rule_where_the_lead_does_not_tell_or_tells_the_opposite() -> None:
    random = np.random.default_rng(1)
    nothing = make_guide(methods({"KD": lambda lead: random.normal(0, 2)}, BOTH))
    assert [rule.threshold for rule in nothing.rules] == [None]
    assert "No rule for when to distil is supported: of 1 methods" in nothing.advice[0]
    opposite = make_guide(methods({"KD": lambda lead: -0.3 * lead}, BOTH))
    assert [(rule.threshold, rule.rho < 0) for rule in opposite.rules] == [(None, True)]
    few = make_guide(methods({"KD": lambda lead: 0.3 * lead}, dict(list(LEADS.items())[:4])))
    assert few.rules == few.advice == ()


def test_the_threshold_lies_between_losses_and_gains() -> None:
    lead, gain = np.array([-3.0, 1.0, 5.0, 9.0]), np.array([-1.0, -2.0, 1.0, 2.0])
    assert threshold(lead, gain) == 3.0
    assert threshold(lead, gain + 5) < -3.0
    assert threshold(lead, gain - 5) > 9.0


def test_masked_simulated_and_weighed_otherwise_are_not_in_it() -> None:
    kd = {"KD": lambda lead: 1.0}
    assert make_guide(methods(kd, LEADS, source="simulated")).lines == ()
    masked = methods(kd, LEADS, mask="feature", removes="random", ratio=0.5)
    assert make_guide(masked).lines == ()
    assert make_guide(methods(kd, LEADS, experiment="table2", task_weight=0.5)).lines == ()
    assert make_guide([]).lines == ()


def test_the_committed_runs_make_a_guide() -> None:
    rows = read_rows(csv_path(Path("results"), "methods")).rows
    rows = with_parts([scored(row) for row in rows if row["protocol"] in ("wiki", "bdgp")])
    found = make_guide(rows)
    (line,) = [of for of in found.lines if (of.method, of.protocol) == ("KD", "wiki")]
    own = [row for row in rows if row["protocol"] == "wiki"]
    scores = {(row["cell"]["method"], row["seed"]): row["last_test_score"] for row in own}
    gains = [100 * (scores["KD", s] - scores["without_kd", s]) for s in range(10)]
    assert line.gain.mean == some(line.gain_equal).mean == pytest.approx(np.mean(gains))
    lead = np.mean([
        100 * (row["last_test_teacher_score"] - row["last_test_score"])
        for row in own if row["arm"] == "without_kd"
    ])  # fmt: skip
    assert some(line.lead).mean == pytest.approx(lead)
    assert len(found.methods) > 15
