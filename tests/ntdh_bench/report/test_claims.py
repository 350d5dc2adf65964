from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from scipy import stats

from ntdh_bench.paper import printed as paper
from ntdh_bench.paper.claims import CLAIMS, UNTESTED
from ntdh_bench.records.columns import Row
from ntdh_bench.report import claims
from ntdh_bench.report.claims import ledger
from ntdh_bench.report.hypothesis import Hypothesis, Summary
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
    assert {result.verdict for result in results} == {claims.NOT_RUN}
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
    assert result.p == pytest.approx(expected.pvalue)
    assert result.effect == pytest.approx(0.81)  # 0.8 and twice the mean of the noise
    assert [result.low, result.high] == pytest.approx([100 * low, 100 * high])
    assert (result.verdict, result.n, result.unit) == ("holds", 6, "accuracy points")
    assert result.note == "decided by T - R"
    assert (result.protocol, result.source, result.published) == ("mnist", "real", "agree")


def test_an_order_fails_if_one_part_is_clearly_turned() -> None:
    result = find(masked_rows(0.76, 0.70, 0.73), ORDER)
    assert (result.verdict, result.note) == ("fails", "decided by R - F")
    assert result.effect == pytest.approx(-3, abs=0.1)
    assert some(result.high) < 0


def test_noise_decides_nothing() -> None:
    result = find(masked_rows(0.7001, 0.7, 0.6999), ORDER)
    assert result.verdict == "inconclusive"
    assert result.p is not None


def test_a_part_against_the_claim_must_be_so_after_bonferroni() -> None:
    """Two parts: an interval at 95 % below 0 is not enough if that at 97.5 % is not."""
    rows = masked_rows(0.76, 0.70, 0.70)
    gaps = [-0.0003, -0.0013, -0.0023, -0.0038, 0.0002, -0.0023]
    for r in rows:
        if r["removes"] != "most_divergent":
            r["last_test_score"] = 0.70 + (r["removes"] == "random") * gaps[r["seed"]]
    interval = [
        stats.ttest_1samp(gaps, 0).confidence_interval(level).high for level in (0.95, 0.975)
    ]
    assert interval[0] < 0 < interval[1]
    assert find(rows, ORDER).verdict == "inconclusive"


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
    assert (result.verdict, result.p) == ("inconclusive", None)
    without = find([r for r in rows if r["removes"] != "least_divergent"], ORDER)
    assert (without.verdict, without.p) == ("inconclusive", None)
    assert "not run: R - F" in without.note


def test_equal_differences_without_noise() -> None:
    level = {"most_divergent": 0.8, "random": 0.7, "least_divergent": 0.6}
    rows = [{**r, "last_test_score": level[r["removes"]]} for r in masked_rows(0, 0, 0)]
    assert (find(rows, ORDER).verdict, find(rows, ORDER).p) == ("holds", 0.0)
    same = [{**r, "last_test_score": 0.7} for r in rows]
    assert (find(same, ORDER).verdict, find(same, ORDER).p) == ("inconclusive", 1.0)


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


# -- the hypothesis ------------------------------------------------------------------------------


def summary(
    quantity: str = "ncjsd", low: float | None = -0.8, high: float | None = -0.2
) -> Summary:
    return Summary(
        quantity, "real", 4, 2, -0.5, low, high, None if low is None else 0.01, 0.1, ""
    )  # fmt: skip


def test_the_hypothesis_leads_the_ledger() -> None:
    found = ledger([], PAPERS, Hypothesis([], [summary(), summary("difference")], []))
    first, second, third = found[:3]
    assert (first.id, first.verdict, first.source, first.n) == ("ntdh.ncjsd", "holds", "real", 4)
    assert (first.p, first.p_corrected) == (0.005, 0.01)
    assert (second.id, second.verdict) == ("ntdh.difference", "holds")
    assert (third.id, third.verdict) == ("ntdh.partial", "not run")


def test_a_hypothesis_turned_round_fails_and_one_stratum_decides_nothing() -> None:
    turned = replace(summary(), value=0.5, low=0.2, high=0.8)
    result = ledger([], PAPERS, Hypothesis([], [turned], []))[0]
    assert (result.verdict, result.p) == ("fails", pytest.approx(0.995))
    single = replace(summary(), datasets=1, low=None, high=None, p=None)
    assert ledger([], PAPERS, Hypothesis([], [single], []))[0].verdict == "inconclusive"


def test_two_data_sets_show_an_interval_and_decide_nothing() -> None:
    for value, low, high in ((-0.5, -0.8, -0.2), (0.5, 0.2, 0.8)):
        two = replace(summary(), datasets=2, value=value, low=low, high=high)
        result = ledger([], PAPERS, Hypothesis([], [two], []))[0]
        assert (result.verdict, result.n, result.low, result.p) == ("inconclusive", 2, low, None)
        assert "fewer than 3 data sets" in result.note
        assert "protocol): 2;" in result.note
