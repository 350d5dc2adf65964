from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ntdh_bench.records.columns import Row
from ntdh_bench.report.effects import Effect, pool
from ntdh_bench.report.statistics import mean_ci
from ntdh_bench.study import verdicts
from ntdh_bench.study.claims import CLAIMS, primary_claims
from ntdh_bench.study.results import Part, Primary, SetEffect
from tests.ntdh_bench.study.rows import (
    ALIGN,
    MOVES,
    SCALE_TARGET,
    SETS,
    SHUFFLE,
    SHUFFLE_TARGET,
    UNIFORM,
    interventions,
    mask_table,
    random_masks,
)
from tests.typed import some

TEACHER = "last_test_teacher_score"


def claim(name: str, rows: list[Row], **given: Any) -> Primary:
    return next(found for found in primary_claims(rows, **given) if found.id == name)


def part(name: str, rows: list[Row]) -> Part:
    return claim(name, rows).parts[0]


def verdict(name: str, rows: list[Row]) -> str:
    return claim(name, rows).overall.verdict


# -- interventions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "expected"), [(-2.0, "holds"), (2.0, "fails"), (0.0, "no effect")]
)
def test_the_sign_of_a_planted_slope_is_found(points: float, expected: str) -> None:
    found = claim("P1", interventions({SHUFFLE: points}))
    assert (found.overall.verdict, found.overall.n) == (expected, len(SETS))
    assert found.within == found.overall
    mean = some(found.parts[0].summary)
    assert mean.low < points < mean.high
    assert mean.value == pytest.approx(points, abs=0.15)


def test_a_slope_is_that_of_least_squares_by_seed_and_the_mean_is_over_data_sets() -> None:
    rows = interventions({SHUFFLE: -2.0}, seeds=6)
    found = part("P1", rows)
    values, variances = [], []
    for dataset in SETS:
        kd = [row for row in rows if row["dataset"] == dataset and row["arm"] == "kd"]
        slopes = []
        for seed in range(6):
            own = [row for row in kd if row["seed"] == seed]
            gains = [100 * (row["last_test_score"] - 0.7 - 0.01 * (seed % 3)) for row in own]
            slopes.append(np.polyfit([row["dose"] or 0.0 for row in own], gains, 1)[0])
        values.append(np.mean(slopes))
        variances.append(np.var(slopes, ddof=1) / 6)
    assert [found.value for found in found.sets] == pytest.approx(values)
    effects = [some(found.effect) for found in found.sets]
    assert [effect.variance for effect in effects] == pytest.approx(variances)
    assert [(effect.seeds, effect.cells) for effect in effects] == [(6, 5)] * len(SETS)
    mean = some(mean_ci(values))
    assert some(found.summary).value == pytest.approx(mean.mean)
    assert some(found.summary).low == pytest.approx(mean.low)


def test_noise_as_large_as_the_effect_is_inconclusive() -> None:
    rows = interventions({SHUFFLE: -0.4}, seeds=5)
    random = np.random.default_rng(3)
    for row in rows:
        if row["arm"] == "kd":
            row["gain_over_equal_task"] += random.normal(0, 0.03)
    assert verdict("P1", rows) == "inconclusive"


def test_both_directions_of_a_data_set_are_one() -> None:
    def protocols(name: str) -> list[str]:
        return [name, f"{name}_reverse"]

    rows = interventions({SHUFFLE: -2.0}, protocols=protocols)
    for row in rows:
        if row["protocol"].endswith("_reverse") and row["arm"] == "kd":
            row["gain_over_equal_task"] -= 0.01 * (row["dose"] or 0.0)  # a slope of -3
    found = part("P1", rows)
    assert [each.dataset for each in found.sets] == list(SETS)
    for each in found.sets:
        one, other = (some(setting.effect) for setting in each.settings)
        assert each.value == pytest.approx((one.value + other.value) / 2)
        assert each.value == pytest.approx(-2.5, abs=0.3)
        mean = (one.variance + other.variance) / 2
        assert mean / 2 < some(each.effect).variance <= mean * 1.001  # not as if independent


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"late_gain": 0.006}, "converged"),
        ({"late_gain": None}, "converged"),
        ({"moves": {SHUFFLE: (0.003, 0.0)}}, "manipulation"),
        ({"moves": {SHUFFLE: (-0.1, 0.0)}}, "manipulation"),
    ],
)
def test_settings_that_fail_a_gate_do_not_count(changes: dict[str, Any], gate: str) -> None:
    good = interventions({SHUFFLE: -2.0}, SETS[:5])
    bad = interventions({SHUFFLE: 5.0}, SETS[5:], **changes)
    found = part("P1", good + bad)
    assert [each.counts for each in found.sets] == [True] * 5 + [False]
    assert [g.name for g in found.sets[5].gates if not g.passed] == [gate]
    assert found.sets[5].value == pytest.approx(5.0, abs=0.3)  # its number stays visible
    assert some(found.summary).n == 5
    assert verdict("P1", good + bad) == "holds"


def test_one_direction_that_fails_a_gate_leaves_the_other() -> None:
    rows = interventions({SHUFFLE: -2.0})
    reverse = interventions(
        {SHUFFLE: 5.0}, protocols=lambda name: [f"{name}_reverse"], late_gain=0.1
    )
    found = part("P1", rows + reverse)
    assert [len(each.settings) for each in found.sets] == [2] * len(SETS)
    assert [each.value for each in found.sets] == [each.value for each in part("P1", rows).sets]
    assert [each.gates for each in found.sets] == [each.gates for each in part("P1", rows).sets]


def test_target_doses_that_damage_the_teacher_are_left_out() -> None:
    rows = interventions({SHUFFLE: -2.0, SHUFFLE_TARGET: 0.0})
    for row in rows:
        if (row["intervention"], row["dose"]) == (SHUFFLE_TARGET, 1.0):
            row[TEACHER] -= 0.05
            if row["arm"] == "kd":
                row["gain_over_equal_task"] = -0.9
    found = part("P2", rows)
    assert all(each.counts and each.value and -2 < each.value < 0 for each in found.sets)
    for row in rows:
        if row["intervention"] == SHUFFLE_TARGET:
            row[TEACHER] -= 0.05
    assert not any(each.counts for each in part("P2", rows).sets)
    broken = claim("P2", rows).overall
    assert broken.verdict == "out of scope"
    assert "teacher 6" in broken.reason


def test_nontarget_interventions_may_change_the_accuracy_but_not_what_is_known_of_the_target() -> (
    None
):
    """The largest other probability may change without the teacher knowing more of the target."""
    rows = interventions({ALIGN: 2.0, UNIFORM: 0.0})
    for row in rows:
        if row["dose"]:
            row[TEACHER] += 0.1 * row["dose"]
    found = part("P3", rows)
    assert {each.counts for each in found.sets} == {True}
    shown = {gate.name: gate.shown for gate in found.sets[0].gates}["teacher"]
    assert shown.endswith("nats, accuracy +10.0 points")
    for row in rows:
        if row["dose"] == 0.5 and row["arm"] == "kd" and row["dataset"] == "wiki":
            row["tcjsd_before"] += 0.001
    found = part("P3", rows)
    assert [each.dataset for each in found.sets if not each.counts] == ["wiki"]
    assert [gate.name for gate in found.sets[-1].gates if not gate.passed] == ["teacher"]


def test_assumptions_delimit_a_second_verdict() -> None:
    far = interventions({SHUFFLE: -2.0}, SETS[:2], student_parameters=2000)
    found = claim("P1", far + interventions({SHUFFLE: -2.0}, SETS[2:]))
    assert (found.overall.verdict, found.overall.n) == ("holds", 6)
    assert (found.within.verdict, found.within.n) == ("inconclusive", 4)
    assert found.within.reason == "4 data sets count, a verdict needs 5 (not passed: capacity 2)"
    assert some(found.parts[0].within).n == 4


def test_four_data_sets_or_four_seeds_decide_nothing() -> None:
    four = claim("P1", interventions({SHUFFLE: -2.0}, SETS[:4]))
    assert (four.overall.verdict, four.overall.n) == ("inconclusive", 4)
    assert four.overall.p is None
    assert some(four.parts[0].summary).high < 0
    seeds = claim("P1", interventions({SHUFFLE: -2.0}, seeds=4))
    assert seeds.overall.verdict == "out of scope"
    assert "seeds 6" in seeds.overall.reason


def test_partial_runs_are_no_obstacle() -> None:
    rows = interventions({SHUFFLE: -2.0, ALIGN: 1.0})
    first = next(row for row in rows if row["dose"] == 0.5 and row["arm"] == "kd")
    rows.remove(first)  # of one seed
    begun = [r for r in rows if r["dataset"] != "wiki" or r["dose"] != 1.0 or r["seed"] < 2]
    found = part("P1", begun)
    assert [(e.seeds, some(e.effect).cells) for e in found.sets] == [
        (9, 5), *[(10, 5)] * 4, (10, 4),
    ]  # fmt: skip
    # Of a unit of dose, even if the largest was not run yet.
    assert some(found.sets[-1].value) == pytest.approx(-2.0, abs=0.25)
    broken = [{**row, "last_test_score": None, "gain_over_equal_task": None} for row in rows]
    assert verdict("P1", broken) == "not run"
    no_start = [row for row in rows if row["intervention"]]
    assert part("P1", no_start).sets == ()


def test_one_seed_is_run_and_decides_nothing() -> None:
    found = claim("P1", interventions({SHUFFLE: -2.0}, seeds=1))
    assert found.overall.verdict == "inconclusive"
    assert found.overall.reason.startswith("no data sets count, a verdict needs 5 (not passed: ")
    assert "seeds 6" in found.overall.reason


def test_nothing_run_yet() -> None:
    found = primary_claims([])
    assert [each.id for each in found] == [f"P{number}" for number in range(1, 8)]
    assert {each.overall.verdict for each in found} == {"not run"}
    assert {each.within.verdict for each in found} == {"not run"}


def test_simulated_data_are_apart_and_so_are_other_weights() -> None:
    simulated = interventions({SHUFFLE: -2.0}, source="simulated")
    assert verdict("P1", simulated) == "not run"
    assert claim("P1", simulated, source="simulated").overall.verdict == "holds"
    assert verdict("P1", interventions({SHUFFLE: -2.0}, task_weight=0.5)) == "not run"


def test_equal_divergences_are_compared_not_equal_doses() -> None:
    """-2 points over 0.2 nats of NCJSD is less steep than -2 points over 0.1 of TCJSD."""
    gains = {SHUFFLE: -2.0, SHUFFLE_TARGET: -2.0}
    found = claim("P2", interventions(gains))
    assert found.overall.verdict == "fails"
    assert some(found.parts[0].summary).value == pytest.approx(-1.0 - -2.0, abs=0.15)
    assert verdict("P2", interventions({**gains, SHUFFLE_TARGET: 0.0})) == "holds"
    measured = dict(found.parts[0].sets[0].settings[0].measured)
    assert measured["points per nat of NCJSD"] == pytest.approx(-10.0, abs=2)
    assert measured["points per nat of TCJSD"] == pytest.approx(-20.0, abs=4)
    assert measured["TCJSD moved"] == measured["shared"] == pytest.approx(0.1, abs=0.01)


def test_a_divergence_that_hardly_moves_is_not_extrapolated() -> None:
    moves = {**MOVES, SHUFFLE_TARGET: (0.0, 0.012)}
    found = part("P2", interventions({SHUFFLE: -2.0, SHUFFLE_TARGET: 0.0}, moves=moves))
    effects = [some(each.effect) for each in found.sets]
    assert all(each.counts for each in found.sets)
    assert all(abs(effect.value) < 0.4 and effect.variance < 0.02 for effect in effects)


def test_target_interventions_that_do_not_move_the_divergence_are_left_out() -> None:
    gains = {SHUFFLE: -2.0, SHUFFLE_TARGET: 0.0, SCALE_TARGET: -4.0}
    both = part("P2", interventions(gains))
    assert some(both.summary).value == pytest.approx((-1.0 + (-2.0 - -4.0)) / 2, abs=0.2)
    still = part("P2", interventions(gains, moves={**MOVES, SHUFFLE_TARGET: (0.0, 0.001)}))
    assert some(still.summary).value == pytest.approx(-2.0 - -4.0, abs=0.2)
    leaks = part("P2", interventions(gains, moves={**MOVES, SHUFFLE_TARGET: (0.01, 0.1)}))
    assert some(leaks.summary).value == pytest.approx(-2.0 - -4.0, abs=0.2)
    none = claim("P2", interventions({SHUFFLE: -2.0, SHUFFLE_TARGET: 0.0}, moves={
        **MOVES, SHUFFLE_TARGET: (0.0, 0.001)}))  # fmt: skip
    assert none.overall.verdict == "out of scope"
    assert "manipulation 6" in none.overall.reason


@pytest.mark.parametrize(
    ("align", "uniform", "expected"),
    [(2.0, 0.5, "holds"), (2.0, 3.0, "fails"), (-2.0, -4.0, "fails"), (0.0, 0.0, "no effect")],
)
def test_alignment_must_help_and_by_more_than_the_uniform_one(
    align: float, uniform: float, expected: str
) -> None:
    found = claim("P3", interventions({ALIGN: align, UNIFORM: uniform}))
    assert found.overall.verdict == expected
    assert [some(of.summary).value for of in found.parts] == pytest.approx(
        [align, align - uniform], abs=0.2
    )


def test_a_part_without_a_mean_lets_no_claim_hold() -> None:
    effect = Effect(1.0, 0.01, 0.99, 0.01, 10, 5, 9)
    alike = tuple(SetEffect(name, effect, 0.01, True, True, ()) for name in SETS)
    clear = pool([replace(effect, value=1 + 0.01 * i) for i in range(len(SETS))])
    holds, nothing = Part("a", alike, clear, clear), Part("b", alike, None, None)
    both, one = verdicts.Tested(1, (holds, holds)), verdicts.Tested(1, (holds, nothing))
    for within in (False, True):
        found = verdicts.verdicts([both, one], within)
        assert [decision.verdict for decision in found] == ["holds", "inconclusive"]
    none = verdicts.Tested(1, (nothing,))
    assert verdicts.verdicts([none])[0].verdict == "inconclusive"


def test_a_claim_of_two_parts_of_which_one_was_not_run() -> None:
    found = claim("P3", interventions({ALIGN: 2.0}))
    assert found.overall.verdict == "not run"
    assert some(found.parts[0].summary).low > 0


# -- masks ---------------------------------------------------------------------------------------


def test_random_masks_tell_which_divergence_predicts() -> None:
    rows = random_masks((-0.6, 0.0, 0.8))
    assert (verdict("P4", rows), verdict("P5", rows)) == ("holds", "holds")
    assert some(part("P4", rows).summary).value == pytest.approx(-0.6, abs=0.15)
    other = random_masks((0.0, -0.6, 0.8))
    assert verdict("P5", other) == "fails"
    assert verdict("P4", other) != "holds"


def test_what_the_seeds_of_a_random_mask_share_is_not_laid_to_the_divergence() -> None:
    assert verdict("P4", random_masks((0.0, 0.0, 0.0), shared=-1.0)) == "no effect"


def test_random_masks_that_damage_the_teacher_are_left_out() -> None:
    rows = random_masks((-0.6, 0.0, 0.0))
    for row in rows:
        if row["cell"]["mask"] in ("r01", "r02"):
            row[TEACHER] -= 0.2
    assert {some(each.effect).cells for each in part("P4", rows).sets} == {15}
    for row in rows:
        if row["mask"] and row["cell"]["mask"] > "r05":
            row[TEACHER] -= 0.2
    found = part("P4", rows)
    assert {some(each.effect).cells for each in found.sets} == {17}
    assert not any(each.counts for each in found.sets)


def test_random_masks_must_move_the_divergence_beyond_noise() -> None:
    rows = random_masks((-0.6, 0.0, 0.0))
    random = np.random.default_rng(0)
    for row in rows:
        if row["arm"] == "kd":
            row["ncjsd_before"] = 0.4 + random.normal(0, 0.03)
    gates = [gate for each in part("P4", rows).sets for gate in each.gates]
    assert {gate.passed for gate in gates if gate.name == "manipulation"} == {False}


def test_an_order_of_masks_needs_both_of_its_parts() -> None:
    ordered = {"none": 0.0, "T": 1.5, "R": 0.7, "F": 0.0}
    rows = mask_table(ordered)
    assert (verdict("P6", rows), verdict("P7", rows)) == ("holds", "holds")
    found = claim("P6", rows)
    values = [some(of.summary).value for of in found.parts]
    assert values == pytest.approx([0.8, 0.7], abs=0.1)
    assert {some(each.effect).cells for each in found.parts[0].sets} == {6}
    assert verdict("P6", mask_table({**ordered, "R": 2.5})) == "fails"
    assert verdict("P7", mask_table({**ordered, "T": -1.0, "R": -2.0})) == "fails"


def test_ratios_that_damage_the_teacher_are_left_out() -> None:
    points = {"none": 0.0, "T": 1.5, "R": 0.7, "F": 0.0}
    rows = mask_table(points, teacher=lambda ratio: 0.7 if ratio < 0.5 else 0.5)
    assert {some(each.effect).cells for each in part("P7", rows).sets} == {2}
    assert verdict("P7", rows) == "holds"
    broken = claim("P7", mask_table(points, teacher=lambda ratio: 0.5))
    assert broken.overall.verdict == "out of scope"
    assert some(broken.parts[0].sets[0].value) == pytest.approx(1.5, abs=0.2)


def test_masks_are_compared_within_all_else_that_tells_runs_apart() -> None:
    rows = mask_table({"none": 0.0, "T": 1.5, "R": 0.7, "F": 0.0})
    kept = [{**row, "cell": {**row["cell"], "fill": "zero"}} for row in rows]
    other = [
        {**row, "run": f"{row['run']} b", "cell": {**row["cell"], "fill": "mean"}} for row in rows
    ]
    found = part("P7", kept + other)
    assert {some(each.effect).cells for each in found.sets} == {12}
    assert some(found.summary).value == some(part("P7", rows).summary).value


def test_masks_that_raise_the_divergence_they_should_lower_do_not_count() -> None:
    points = {"none": 0.0, "T": 1.5, "R": 0.7, "F": 0.0}
    found = claim("P6", mask_table(points, ncjsd={"T": 0.04, "R": 0.0, "F": -0.04}))
    assert found.overall.verdict == "out of scope"


def test_every_claim_says_what_it_is() -> None:
    assert len({found.id for found in CLAIMS}) == len(CLAIMS) == 7
    assert all(found.statement and found.effect and found.unit for found in CLAIMS)
