from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from ntdh_bench.paper import printed as paper
from ntdh_bench.paper.claims import CLAIMS, METHODS, UNTESTED
from ntdh_bench.records.columns import Row
from ntdh_bench.report.claims import ledger
from ntdh_bench.report.effects import Effect, decide, pool, sides
from ntdh_bench.report.hypothesis import Hypothesis, Summary
from ntdh_bench.report.papers import POSITIVE, Claim, Paper, Part
from tests.ntdh_bench.report.ledgers import (
    NOISE,
    NOTHING,
    ORDER,
    PAPERS,
    find,
    gain_rows,
    masked_rows,
    row,
)
from tests.typed import some


def test_nothing_run_is_not_run() -> None:
    results = ledger([], PAPERS, NOTHING)
    assert {result.verdict for result in results} == {"not run"}
    assert {(r.n, r.effect, r.p, r.protocol, r.source) for r in results} == {
        (0, None, None, None, None)
    }
    assert len(results) == len(CLAIMS) + len(UNTESTED) + 3


def test_an_order_holds_by_its_weakest_part() -> None:
    rows = masked_rows(0.76, 0.752, 0.70)
    result = find(rows, ORDER)
    by = {name: [r["last_test_score"] for r in rows if r["removes"] == removes]
          for name, removes in paper.REMOVES.items()}  # fmt: skip
    expected = stats.ttest_rel(by["T"], by["R"], alternative="greater")
    low, high = stats.ttest_rel(by["T"], by["R"]).confidence_interval()
    assert result.p_holds == pytest.approx(expected.pvalue)
    assert result.p == pytest.approx(2 * expected.pvalue)
    assert result.effect == pytest.approx(0.81)  # 0.8 and twice the mean of the noise
    assert [result.low, result.high] == pytest.approx([100 * low, 100 * high])
    assert (result.verdict, result.n, result.unit) == ("holds", 6, "accuracy points")
    assert result.family == "secondary"
    assert result.note == "decided by T - R"
    assert (result.protocol, result.source, result.published) == ("mnist", "real", "agree")


def test_an_order_fails_if_one_part_is_clearly_turned() -> None:
    result = find(masked_rows(0.76, 0.70, 0.73), ORDER)
    assert (result.verdict, result.note) == ("fails", "decided by R - F")
    assert result.effect == pytest.approx(-3, abs=0.1)
    assert some(result.high) < 0


def test_noise_decides_nothing() -> None:
    rows = masked_rows(0.7001, 0.7, 0.6999)
    for r in rows:
        r["last_test_score"] += 0.02 * (r["removes"] == "random") * (-1) ** r["seed"]
    result = find(rows, ORDER)
    assert result.verdict == "inconclusive"
    assert result.p is not None


def test_a_difference_shown_to_be_small_is_no_effect() -> None:
    result = find(masked_rows(0.7001, 0.7, 0.6999), ORDER)
    assert (result.verdict, result.p_corrected) == ("no effect", 1.0)
    assert some(result.p_no_effect) < 0.05 / 2
    # One part that is not small is enough for the claim to be open.
    assert find(masked_rows(0.7101, 0.7, 0.6999), ORDER).verdict == "inconclusive"


def against(gaps: Sequence[float]) -> list[Row]:
    """Table II, one method: T far above R, and R above F by these gaps."""
    rows = masked_rows(0.76, 0.70, 0.70)
    for r in rows:
        if r["removes"] != "most_divergent":
            r["last_test_score"] = 0.70 + (r["removes"] == "random") * gaps[r["seed"]]
    return rows


def test_a_part_against_the_claim_must_be_so_after_bonferroni() -> None:
    """Two parts: against at 0.025 is not enough if it is not at 0.0125."""
    gaps = [-0.0003, -0.0013, -0.0023, -0.0038, 0.0002, -0.0023]
    p = stats.ttest_1samp(gaps, 0, alternative="less").pvalue
    assert 0.05 < 2 * 2 * p < 0.1
    result = find(against(gaps), ORDER)
    assert (result.p_fails, result.verdict) == (pytest.approx(2 * p), "inconclusive")
    assert result.p_corrected == pytest.approx(4 * p)


def test_fails_needs_the_correction_for_the_family_as_holds_does() -> None:
    """An interval wholly against a claim, corrected for its parts alone, is not enough."""
    gaps = [-0.0003, -0.0013, -0.0023, -0.0028, -0.0012, -0.0023]
    alone = find(against(gaps), ORDER)
    assert (alone.verdict, some(alone.p_corrected) < 0.05) == ("fails", True)
    others = [r for method in METHODS[:4] for r in masked_rows(0.7, 0.7, 0.7, method=method)]
    result = find(against(gaps) + others, ORDER)
    assert (result.p_fails, result.verdict) == (alone.p_fails, "inconclusive")


def test_under_a_global_null_a_ledger_says_holds_or_fails_in_five_per_cent() -> None:
    """Claims that are neither true nor false, thirty a ledger; by an uncorrected interval: 53 %."""
    generator = np.random.default_rng(0)

    def noise(rows: Sequence[Row]) -> dict[int, float]:
        return dict(enumerate(generator.normal(size=5)))

    null = [
        Claim(f"null.{n}", "", "", "mine", "", "accuracy points", POSITIVE, (Part("", noise),))
        for n in range(30)
    ]
    rows, of_null = [row("mine", 0)], {"null": Paper("", claims=tuple(null))}
    ledgers = [ledger(rows, of_null, NOTHING) for _ in range(200)]
    fails = sum(any(r.verdict == "fails" for r in found) for found in ledgers)
    holds = sum(any(r.verdict == "holds" for r in found) for found in ledgers)
    assert fails + holds <= 0.08 * len(ledgers)
    assert min(fails, holds) > 0  # both can be said


def test_fewer_than_five_seeds_show_their_effect_and_decide_nothing() -> None:
    for seeds in (2, 4):
        result = find(masked_rows(0.76, 0.72, 0.70, seeds), ORDER)
        assert (result.verdict, result.n, result.p, result.p_corrected) == (
            "inconclusive", seeds, None, None,
        )  # fmt: skip
        assert result.low is not None
        assert "fewer than 5 seeds" in result.note
        assert find(masked_rows(0.70, 0.73, 0.76, seeds), ORDER).verdict == "inconclusive"
    result = find(masked_rows(0.76, 0.72, 0.70, 1), ORDER)
    assert (result.n, result.low, result.high, result.verdict) == (1, None, None, "inconclusive")


def test_five_seeds_of_one_part_do_not_decide_for_the_other() -> None:
    rows = masked_rows(0.76, 0.72, 0.70)
    rows = [r for r in rows if r["removes"] != "least_divergent" or r["seed"] < 3]
    result = find(rows, ORDER)
    assert (result.verdict, result.p_holds) == ("inconclusive", 1.0)
    without = find([r for r in rows if r["removes"] != "least_divergent"], ORDER)
    assert (without.verdict, without.p_holds) == ("inconclusive", 1.0)
    assert "not run: R - F" in without.note
    turned = [r for r in masked_rows(0.70, 0.76, 0.5) if r["removes"] != "least_divergent"]
    assert find(turned, ORDER).verdict == "fails"  # one part is enough for that


def test_equal_differences_without_noise() -> None:
    level = {"most_divergent": 0.8, "random": 0.7, "least_divergent": 0.6}
    rows = [{**r, "last_test_score": level[r["removes"]]} for r in masked_rows(0, 0, 0)]
    assert (find(rows, ORDER).verdict, find(rows, ORDER).p) == ("holds", 0.0)
    same = [{**r, "last_test_score": 0.7} for r in rows]
    assert (find(same, ORDER).verdict, find(same, ORDER).p) == ("no effect", 1.0)


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(-0.02, "holds"), (0.0, "holds"), (0.005, "fails"), (0.02, "fails"), (0.0005, "holds")],
)
def test_no_improvement_is_less_than_a_margin_and_not_reliably_positive(
    gain: float, verdict: str
) -> None:
    result = find(gain_rows(gain), "table2.none.DKD")
    assert (result.verdict, result.claimed) == (verdict, "not > 0 (< 1)")


@pytest.mark.parametrize(
    ("change", "verdict"), [(0.0, "holds"), (0.004, "holds"), (0.0102, "inconclusive"),
                            (0.05, "fails"), (-0.05, "fails")],
)  # fmt: skip
def test_almost_unchanged_is_equivalence_within_a_margin(change: float, verdict: str) -> None:
    rows = [
        row("fig7a", seed, 0.7 + change * number / 5 + NOISE[(seed + number) % 6] / 3,
            method="WeightedKL", alpha=weight, beta=1.0)
        for number, weight in enumerate((0.0, 1.0, 2.0, 4.0, 8.0, 16.0))
        for seed in range(6)
    ]  # fmt: skip
    result = find(rows, "fig7.target.a")
    assert (result.verdict, result.claimed) == (verdict, "within ±1")
    assert result.effect == pytest.approx(100 * change, abs=0.05)


def improving(methods: Mapping[str, float]) -> list[Row]:
    return [
        r
        for method, gain in methods.items()
        for ratio in (0.25, 0.5)
        for r in [
            *masked_rows(0.7 + gain, 0.6, 0.5, ratio=ratio, method=method),
            *(row("table2", seed, 0.7, method=method) for seed in range(6)),
        ]
    ]


@pytest.mark.parametrize(
    ("worse", "all_hold", "most_hold"),
    [(0, "holds", "holds"), (1, "fails", "holds"), (2, "fails", "holds"), (3, "fails", "fails")],
)
def test_all_and_most_methods(worse: int, all_hold: str, most_hold: str) -> None:
    methods = ("FitNet", "CRD", "RKD", "PKT", "SP", "DKD")
    rows = improving({m: -0.03 if n < worse else 0.03 for n, m in enumerate(methods)})
    assert find(rows, "table2.T").verdict == all_hold
    assert find([{**r, "experiment": "table3"} for r in rows], "table3.T").verdict == most_hold


def test_protocols_and_sources_are_judged_apart() -> None:
    rows = masked_rows(0.76, 0.73, 0.70)
    rows += masked_rows(0.70, 0.73, 0.76, protocol="mnist_short")
    rows += masked_rows(0.70, 0.73, 0.76, source="simulated")
    found = [r for r in ledger(rows, PAPERS, NOTHING) if r.id == ORDER]
    assert [(r.protocol, r.source, r.verdict) for r in found] == [
        ("mnist", "real", "holds"),
        ("mnist", "simulated", "fails"),
        ("mnist_short", "real", "fails"),
    ]


def test_holm_is_within_an_exhibit_protocol_and_source() -> None:
    rows = improving(dict.fromkeys(("DKD", "SP"), 0.002))
    rows += [{**r, "protocol": "mnist_short"} for r in rows if r["method"] == "DKD"]
    rows += [{**r, "source": "simulated"} for r in rows if r["protocol"] == "mnist"]
    rows += [{**r, "experiment": "table3"} for r in rows]
    results = [r for r in ledger(rows, PAPERS, NOTHING) if r.p is not None]
    families = {(r.exhibit, r.protocol, r.source) for r in results}
    assert len(families) == 6
    for family in families:
        members = [r for r in results if (r.exhibit, r.protocol, r.source) == family]
        assert len(members) > 5
        smallest = min(members, key=lambda r: r.p or 0.0)
        assert smallest.p_corrected == pytest.approx(min(1, len(members) * some(smallest.p)))
        assert all((r.p_corrected or 0) >= (r.p or 0) for r in members)


# -- identities and gates ------------------------------------------------------------------------


def test_what_holds_by_construction_is_no_evidence_and_takes_no_part_in_the_correction() -> None:
    rows = [
        row("fig3", seed, arm="without_kd", gap=gap / 5, teacher_parameters=101,
            student_parameters=100)
        for gap in range(6)
        for seed in range(6)
    ]  # fmt: skip
    result = find(rows, "table1.capacity.synthetic")
    assert (result.verdict, result.p, result.p_corrected) == ("identity", None, None)
    assert "which no run changes" in result.note
    unlike = [{**r, "teacher_parameters": 150} for r in rows]
    assert find(unlike, "table1.capacity.synthetic").verdict == "fails"


def gated(**given: float) -> list[Row]:
    """Rows by which T > R > F, with controls that say what the masks did to the teacher."""
    before = {"last_val_score": 0.6, "last_test_teacher_score": given.get("teacher", 0.69)}
    ncjsd = {None: 0.3, "most_divergent": 0.2, "random": 0.3, "least_divergent": 0.4}
    if "turned" in given:
        ncjsd["most_divergent"] = 0.35
    controls = [
        row("table2", seed, 0.69, arm="without_kd", removes=removes, mask=removes and "feature",
            ratio=removes and 0.25, last_val_ncjsd=level + NOISE[seed], teacher_parameters=100,
            student_parameters=given.get("student", 100), late_gain=given.get("late"), **before)
        for removes, level in ncjsd.items()
        for seed in range(6)
    ]  # fmt: skip
    for control in controls:
        if control["removes"] == "random":
            control["last_test_teacher_score"] -= given.get("damage", 0.0)
    networks = {name: controls[0][name] for name in ("teacher_parameters", "student_parameters")}
    return masked_rows(0.76, 0.73, 0.70, **networks) + controls


@pytest.mark.parametrize(
    ("given", "failed"),
    [
        ({"student": 106}, "capacity (6.0 % apart)"),
        ({"teacher": 0.73}, "strength (+4.0 points)"),
        ({"late": 0.006}, "converged (+0.60 points late)"),
        ({"turned": 1}, "manipulation (0.050 nats against the intention)"),
        ({"damage": 0.04}, "teacher (-4.0 points)"),
    ],
)
def test_a_failed_gate_puts_what_is_decided_out_of_scope(
    given: Mapping[str, float], failed: str
) -> None:
    sound = find(gated(), ORDER)
    assert [(gate.name, gate.passed) for gate in sound.gates] == [
        ("capacity", True), ("strength", True), ("converged", None), ("manipulation", True),
        ("teacher", True),
    ]  # fmt: skip
    assert sound.verdict == "holds"
    result = find(gated(**given), ORDER)
    assert result.verdict == "out of scope"
    assert result.note.endswith(f"holds, but for: {failed}")
    assert (result.effect, result.p_corrected) == (sound.effect, sound.p_corrected)


def test_what_is_not_decided_stays_inconclusive_whatever_the_gates() -> None:
    rows = [r for r in gated(student=106) if r["seed"] < 4]
    assert find(rows, ORDER).verdict == "inconclusive"


def test_a_gate_looks_at_the_cells_that_are_compared() -> None:
    """A mask that ruins the teacher at another ratio says nothing of this one."""
    ruined = [
        {**r, "ratio": 0.75, "last_test_teacher_score": 0.1, "mask_hash": "b"}
        for r in gated()
        if r["arm"] == "without_kd" and r["mask"]
    ]
    assert find(gated() + ruined, ORDER).verdict == "holds"


# -- the hypothesis ------------------------------------------------------------------------------


def summary(value: float = -0.5, sets: int = 6, quantity: str = "ncjsd") -> Summary:
    effects = {f"set {n}": Effect(value + n / 1000, 0.01, 0.5, 0.5, 5, 10, 8) for n in range(sets)}
    pooled = pool(list(effects.values()))
    decision = pooled and decide([sides(pooled, 0.5, -1)])[0] if sets > 4 else None
    return Summary(quantity, "real", "random masks", 7, effects, pooled, None, decision)


def test_the_hypothesis_leads_the_ledger() -> None:
    found = ledger([], PAPERS, Hypothesis([], [summary(), summary(quantity="difference")], []))
    first, second, third = found[:3]
    assert (first.id, first.verdict, first.source, first.n) == ("ntdh.ncjsd", "holds", "real", 6)
    assert first.statement.endswith("(moved by random masks)")
    assert some(first.p_holds) < 0.001 < 0.999 < some(first.p_fails)
    assert "strata: 7; within both assumptions: fewer than two" in first.note
    assert (second.id, second.verdict) == ("ntdh.difference", "holds")
    assert (third.id, third.verdict) == ("ntdh.partial", "not run")


def test_a_hypothesis_turned_round_fails() -> None:
    result = ledger([], PAPERS, Hypothesis([], [summary(0.5)], []))[0]
    assert (result.verdict, some(result.p_holds) > 0.99) == ("fails", True)


@pytest.mark.parametrize("sets", [1, 4])
@pytest.mark.parametrize("value", [-0.5, 0.5])
def test_few_data_sets_show_their_effect_and_decide_nothing(sets: int, value: float) -> None:
    result = ledger([], PAPERS, Hypothesis([], [summary(value, sets)], []))[0]
    assert (result.verdict, result.n, result.p) == ("inconclusive", sets, None)
    assert result.effect == pytest.approx(value, abs=0.01)
    assert (result.low is None) == (sets == 1)
    assert "fewer than 5 real data sets" in result.note
