from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from ntdh_bench import records
from ntdh_bench.experiments import Experiment, Run, load_shipped, shipped_experiments
from ntdh_bench.paper import printed as paper
from ntdh_bench.paper.claims import CLAIMS, UNTESTED
from ntdh_bench.paper.plugin import NTDH
from ntdh_bench.records import COLUMNS, Row, blank_row
from ntdh_bench.report import claims
from ntdh_bench.report.claims import Result, ledger
from ntdh_bench.report.hypothesis import Hypothesis, Summary
from ntdh_bench.report.pairing import scored
from tests.ntdh_bench.report.rows import placed
from tests.typed import some

NOTHING = Hypothesis([], [], [])
PAPERS = {"ntdh": NTDH}
NOISE = (0.001, -0.002, 0.0005, 0.0015, -0.001, 0.0003)


def row(experiment: str, seed: int, accuracy: float = 0.5, **given: Any) -> Row:
    known = {
        **scored(blank_row()),
        "measure": "accuracy",
        "experiment": experiment,
        "protocol": "mnist",
        "source": "real",
        "dataset": "mnist",
        "arm": "kd",
        "unimodal": False,
        "seed": seed,
        "last_test_score": accuracy,
        **given,
    }
    return placed(known)


def masked_rows(
    t: float, r: float, f: float, seeds: int = 6, ratio: float = 0.25, method: str = "DKD",
    **given: Any,
) -> list[Row]:  # fmt: skip
    """Table II, one method: accuracies of T, R and F with noise that differs between them."""
    levels = zip(paper.REMOVES.values(), (t, r, f), (1, -1, 2), strict=True)
    return [
        row("table2", seed, level + sign * NOISE[seed], method=method, removes=removes,
            ratio=ratio, mask="feature", **given)
        for removes, level, sign in levels
        for seed in range(seeds)
    ]  # fmt: skip


def gain_rows(gain: float, seeds: int = 6, method: str = "DKD") -> list[Row]:
    rows = [row("table2", s, 0.69 + gain + NOISE[s], method=method) for s in range(seeds)]
    return rows + [row("table2", s, 0.69, arm="without_kd") for s in range(seeds)]


def find(rows: Sequence[Row], id: str, **where: str) -> Result:
    found = [
        result
        for result in ledger(rows, PAPERS, NOTHING)
        if result.id == id and all(getattr(result, k) == v for k, v in where.items())
    ]
    assert len(found) == 1, found
    return found[0]


ORDER = "table2.order.DKD.0.25"
METHODS = {"PMFModule": "PMF", "TwoDPASSModule": "2DPASS"}


# -- the list ------------------------------------------------------------------------------------


def test_ids_are_unique_and_experiments_are_shipped() -> None:
    ids = [claim.id for claim in CLAIMS] + [claim.id for claim in UNTESTED]
    assert len(set(ids)) == len(ids) > 200
    shipped = {path.stem for path in shipped_experiments()}
    assert {claim.experiment for claim in (*CLAIMS, *UNTESTED)} <= shipped
    assert all(claim.where and claim.statement and claim.effect for claim in CLAIMS)


def test_every_exhibit_of_the_paper_has_claims() -> None:
    exhibits = {claim.exhibit for claim in CLAIMS} | {c.id.partition(".")[0] for c in UNTESTED}
    assert exhibits >= {*paper.tables(), *paper.figures(), "unimodal", "eq18", "eq25"}


def test_the_shipped_experiments_decide_every_claim_whose_data_are_here() -> None:
    """Rows with the settings of the real grids: a claim that misnames a column would find none."""
    rows, missing, few = [], set(), set()
    for experiment in load_shipped():
        if experiment.missing:
            missing.add(experiment.name)
        protocol = next(iter(experiment.protocols))
        if len(experiment.protocols[protocol].seeds) < claims.MIN_SEEDS:
            few.add(experiment.name)
        rows += [row_of(experiment, run) for run in experiment.runs if run.protocol == protocol]
    results = {result.id: result for result in ledger(rows, PAPERS)}
    decidable = [
        claim
        for claim in CLAIMS
        if claim.experiment not in missing
        and not (claim.exhibit == "table1" and claim.id.endswith(("ravdess", "kitti", "nyuv2")))
    ]
    assert len(decidable) > 120
    for claim in decidable:
        assert results[claim.id].effect is not None, claim.id
        assert (results[claim.id].p_corrected is None) == (claim.experiment in few), claim.id
        assert "not run" not in results[claim.id].note, claim.id
    for claim in CLAIMS:
        if claim.experiment in missing:
            assert results[claim.id].verdict == claims.NOT_RUN


def row_of(experiment: Experiment, run: Run) -> Row:
    """A row with a run's settings and random metrics."""
    config = run.config
    identity = {**config, "seed": run.seed, "mask": config.get("mask")}
    values = random.Random(run.hash)
    given = row(experiment.name, run.seed, dataset=experiment.requires, run=run.hash)
    given |= records.place(experiment.name, run)._asdict() | {"protocol": "mnist"}
    given |= {"arm": records.arm(identity), "baseline_hash": records.baseline_hash(identity)}
    given |= {
        "teacher_parameters": 100,
        "student_parameters": 100,
        **records.rows._settings(identity),
    }
    model = records.rows._short(config["model"]["class_path"]) or ""
    if model in METHODS:  # modules that are methods of their own
        given |= {"arm": "kd", "method": METHODS[model]}
    given |= {name: values.random() for name in COLUMNS if name.startswith("last_")}
    given = scored(given)
    if config.get("command") == "saliency":
        given["arm"] = "saliency"
    given |= {f"middle_{removes}": values.random() for removes in paper.REMOVES.values()}
    return given


# -- verdicts ------------------------------------------------------------------------------------


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


# -- single claims -------------------------------------------------------------------------------


def synthetic(experiment: str, values: Callable[[int, float], Mapping[str, Any]]) -> list[Row]:
    return [
        {**row(experiment, seed, dataset="synthetic", method="KD", gap=gap), **values(seed, gap)}
        for seed in range(6)
        for gap in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]


@pytest.mark.parametrize(
    ("ncjsd", "tcjsd", "absolute", "relative"),
    [
        (0.1, 0.0, "holds", "holds"),
        (0.1, 0.08, "fails", "fails"),
        (-0.1, -0.2, "fails", "fails"),
        (0.1, 0.05, "inconclusive", "fails"),
        (0.2, 0.05, "holds", "fails"),  # both double: more in nats, but at the same rate
    ],
)
def test_a_far_faster_growth_is_twice_as_fast_and_a_growth(
    ncjsd: float, tcjsd: float, absolute: str, relative: str
) -> None:
    rows = synthetic("fig3", lambda seed, gap: {
        "last_test_ncjsd": 0.2 + ncjsd * gap + NOISE[(seed + int(5 * gap)) % 6],
        "last_test_tcjsd": 0.05 + tcjsd * gap,
    })  # fmt: skip
    if tcjsd == -0.2:
        rows = [{**r, "last_test_tcjsd": r["last_test_tcjsd"] + 0.2} for r in rows]
    assert find(rows, "fig3.rates.absolute").verdict == absolute
    assert find(rows, "fig3.rates.relative").verdict == relative


def test_one_violated_bound_of_a_seed_counts() -> None:
    rows = synthetic("eq18", lambda seed, gap: {
        "last_test_kl": 0.3 + NOISE[seed], "last_test_tckl": -0.2 if gap == 0.4 else 0.1,
        "last_test_tckl_binary": 0.1, "last_test_nckl": 0.4,
    })  # fmt: skip
    one_way, two_way = find(rows, "eq18.bound"), find(rows, "eq18.two_way")
    assert (one_way.verdict, two_way.verdict) == ("fails", "holds")
    assert one_way.effect == pytest.approx(-0.1, abs=0.001)


def test_the_unimodal_teacher_serves_all_gaps() -> None:
    rows = synthetic("unimodal", lambda seed, gap: {
        "last_test_score": 0.7 - 0.1 * gap + NOISE[seed], "last_test_kl": 0.1 + gap,
    })  # fmt: skip
    rows += [row("unimodal", s, 0.72, method="KD", gap=0.0, unimodal=True, dataset="synthetic",
                 last_test_kl=0.05 + NOISE[s]) for s in range(6)]  # fmt: skip
    accuracy, kl = find(rows, "unimodal.accuracy"), find(rows, "unimodal.kl")
    assert (accuracy.verdict, accuracy.note) == ("holds", "decided by gap 0")
    assert (kl.verdict, kl.note) == ("holds", "decided by gap 0.2")


@pytest.mark.parametrize(("slope", "verdict"), [(0.5, "fails"), (-0.5, "holds")])
def test_teacher_accuracy_against_student_accuracy(slope: float, verdict: str) -> None:
    rows = [
        row("teacher_accuracy", seed, 0.5 + slope * x, last_test_teacher_score=0.5 + x,
            teacher_epochs=round(10 * x))
        for seed in range(6)
        for x in (0.1 + NOISE[seed], 0.2, 0.3, 0.4)
    ]  # fmt: skip
    result = find(rows, "teacher_accuracy.correlation")
    assert (result.verdict, result.effect) == (verdict, 1.0 if slope > 0 else -1.0)
    partly = [r for r in rows if r["seed"] or r["last_test_teacher_score"] < 0.8]
    assert find(partly, "teacher_accuracy.correlation").n == 5


def teachers(settings: Sequence[tuple[float, float, float]], protocol: str = "mnist") -> list[Row]:
    """Students of teachers with these NCJSD, TCJSD and gains; each teacher is a gap of its own."""
    rows = []
    for seed in range(6):
        for number, (ncjsd, tcjsd, gain) in enumerate(settings):
            shared = {
                "baseline_hash": f"{seed} {number}",
                "last_val_score": 0.6,
                "gap": number / 10,
                "protocol": protocol,
            }
            before = {"last_val_ncjsd": ncjsd, "last_val_tcjsd": tcjsd}
            rows += [
                row("two_teachers", seed, 0.6 + gain + NOISE[seed] * gain, **shared),
                row("two_teachers", seed, 0.6, arm="without_kd", **before, **shared),
            ]
    return rows


@pytest.mark.parametrize(("closer", "verdict"), [(0.03, "holds"), (-0.03, "fails")])
def test_the_closer_of_two_teachers(closer: float, verdict: str) -> None:
    result = find(teachers([(0.1, 0.2, closer), (0.3, 0.2, 0.0)]), "two_teachers.closer")
    assert (result.verdict, result.effect) == (verdict, pytest.approx(100 * closer, abs=0.01))


def test_the_choice_by_the_target_divergence_is_shown_beside() -> None:
    alike = teachers([(0.1, 0.2, 0.03), (0.3, 0.4, 0.0)])
    found = [find(alike, f"two_teachers.{name}") for name in ("closer", "closer_target")]
    assert [r.verdict for r in found] == ["holds", "holds"]
    specific = find(alike, "two_teachers.specific")
    assert (specific.effect, specific.verdict) == (0.0, "inconclusive")
    turned = teachers([(0.1, 0.4, 0.03), (0.3, 0.2, 0.0)])
    assert find(turned, "two_teachers.closer_target").verdict == "fails"
    result = find(turned, "two_teachers.specific")
    assert (result.verdict, result.effect) == ("holds", pytest.approx(6, abs=0.02))
    tied = teachers([(0.1, 0.2, 0.03), (0.3, 0.2, 0.0)])
    assert find(tied, "two_teachers.closer_target").effect == 0  # equally near: no choice


def test_seeds_without_all_teachers_do_not_count_and_a_partial_grid_decides_nothing() -> None:
    three = [(0.1, 0.2, 0.03), (0.2, 0.3, 0.02), (0.3, 0.4, 0.0)]
    # Every seed lacks a teacher, another one each, though all have equally many.
    lacking = [r for r in teachers(three) if round(10 * r["gap"]) != r["seed"] % 3]
    assert find(lacking, "two_teachers.closer").n == 0
    result = find(teachers(three, "synthetic_converged"), "two_teachers.closer")
    assert (result.verdict, result.p, result.n) == ("inconclusive", None, 6)
    assert "partial: 3 of 8 teachers" in result.note
    eight = [(n / 10, n / 10, -n / 100) for n in range(8)]
    whole = find(teachers(eight, "synthetic_converged"), "two_teachers.closer")
    assert (whole.verdict, "partial" in whole.note) == ("holds", False)


@pytest.mark.parametrize(("true", "verdict"), [(0.8, "holds"), (0.5, "fails")])
def test_the_true_mask_highlights_the_middle(true: float, verdict: str) -> None:
    rows = [
        row("fig10", seed, arm="saliency", layer="hidden1",
            middle_most_divergent=true + NOISE[seed], middle_least_divergent=0.6)
        for seed in range(6)
    ]  # fmt: skip
    result = find(rows, "fig10.maps.hidden1")
    assert (result.verdict, result.unit) == (verdict, "share")
    assert result.effect == pytest.approx(true - 0.6, abs=0.001)
    assert find(rows, "fig10.maps.input").verdict == "not run"
    assert "stands in for the digit" in result.note


@pytest.mark.parametrize(
    ("single", "two_way", "verdicts"),
    [(0.1, 0.3, ("holds", "fails")), (-0.3, 0.1, ("fails", "holds"))],
)
def test_the_ratio_of_both_kinds_of_target_divergence(
    single: float, two_way: float, verdicts: tuple[str, str]
) -> None:
    rows = [
        row("eq25", seed, classes=c, last_test_nckl=0.2 * (c - 1) + NOISE[seed],
            last_test_tckl=single, last_test_tckl_binary=two_way)
        for c in (3, 4, 6, 8, 10)
        for seed in range(6)
    ]  # fmt: skip
    results = [find(rows, f"eq25.ratio{kind}.eq25") for kind in ("", ".two_way")]
    assert tuple(result.verdict for result in results) == verdicts
    assert all("depends on which TCKL" in result.note for result in results)


def test_the_mask_acts_on_the_divergence_before_distillation() -> None:
    rows = [
        row("table2", seed, arm="without_kd", removes=removes, ratio=ratio, last_val_score=0.5,
            last_val_ncjsd=0.3 - (ratio or 0) / 10 + NOISE[seed] * (removes is None))
        for seed in range(6)
        for removes, ratio in ((None, None), *(("most_divergent", r) for r in (0.25, 0.5, 0.75)))
    ]  # fmt: skip
    result = find(rows, "table2.ncjsd")
    assert (result.verdict, result.unit) == ("holds", "nats")
    assert result.effect == pytest.approx(-0.05, abs=0.001)


# -- the paper's own numbers, and the hypothesis ---------------------------------------------------


@pytest.mark.parametrize(
    ("id", "published"),
    [
        ("table2.none", "agree"),  # 68.5 against 69.1
        ("table2.T", "contradict"),  # FitNet at 0.5: 61.6 against 68.5
        ("table2.order.DKD.0.25", "agree"),
        ("table2.order.RKD.0.25", "contradict"),  # 70.1, 70.9, 68.3
        ("table3.T", "agree"),
        ("table4.T.PMF.0.5", "agree"),
        ("table4.smaller", "contradict"),  # 2.0 for both
        ("table1.strength.ravdess", "agree"),
        ("fig3.student", None),  # a figure prints no numbers
        ("table2.ncjsd", None),
    ],
)
def test_whether_the_papers_own_numbers_agree(id: str, published: str | None) -> None:
    assert find([], id).published == published


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


def test_margins_and_stand_ins_are_named_in_the_ledger() -> None:
    assert "by construction" in find([], "table1.strength.mnist").note
    assert "trained teacher to zero" in find([], "fig8.order.a.0.3").note
    assert find([], "fig9.order.a.0.3").note == ""
    assert "single samples can break it" in find([], "eq18.bound").note
    assert "by construction" in find([], "eq18.two_way").note
