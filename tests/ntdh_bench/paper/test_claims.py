from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from ntdh_bench.experiments import Experiment, Run, load_shipped, shipped_experiments
from ntdh_bench.paper import printed as paper
from ntdh_bench.paper.claims import CLAIMS, UNTESTED
from ntdh_bench.paper.claims import METHODS as METHODS_OF_TABLES
from ntdh_bench.records.columns import COLUMNS, Row
from ntdh_bench.records.identity import arm, baseline_hash, place
from ntdh_bench.records.rows import _settings, _short
from ntdh_bench.report import claims
from ntdh_bench.report.claims import ledger
from ntdh_bench.report.pairing import scored
from tests.ntdh_bench.report.ledgers import NOISE, NOTHING, PAPERS, find, masked_rows, row

METHODS = {"PMFModule": "PMF", "TwoDPASSModule": "2DPASS"}


# -- the list ------------------------------------------------------------------------------------


def test_ids_are_unique_and_experiments_are_shipped() -> None:
    ids = [claim.id for claim in CLAIMS] + [claim.id for claim in UNTESTED]
    assert len(set(ids)) == len(ids) > 200
    named = {claim.experiment for claim in (*CLAIMS, *UNTESTED)}
    assert named <= shipped_experiments().keys()
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
    results = {result.id: result for result in ledger(rows, PAPERS, NOTHING)}
    decidable = [
        claim
        for claim in CLAIMS
        if claim.experiment not in missing
        and not (claim.exhibit == "table1" and claim.id.endswith(("ravdess", "kitti", "nyuv2")))
    ]
    assert len(decidable) > 120
    for claim in decidable:
        assert results[claim.id].effect is not None, claim.id
        untested = claim.experiment in few or claim.identity
        assert (results[claim.id].p_corrected is None) == bool(untested), claim.id
        assert "not run" not in results[claim.id].note, claim.id
    for claim in CLAIMS:
        if claim.experiment in missing:
            assert results[claim.id].verdict == "not run"


def row_of(experiment: Experiment, run: Run) -> Row:
    """A row with a run's settings and random metrics."""
    config = run.config
    identity = {**config, "seed": run.seed, "mask": config.get("mask")}
    values = random.Random(run.hash)
    given = row(experiment.name, run.seed, dataset=experiment.requires, run=run.hash)
    given |= place(experiment.name, run)._asdict() | {"protocol": "mnist"}
    given |= {"arm": arm(identity), "baseline_hash": baseline_hash(identity)}
    given |= {
        "teacher_parameters": 100,
        "student_parameters": 100,
        **_settings(identity),
    }
    model = _short(config["model"]["class_path"]) or ""
    if model in METHODS:  # modules that are methods of their own
        given |= {"arm": "kd", "method": METHODS[model]}
    given |= {name: values.random() for name in COLUMNS if name.startswith("last_")}
    given = scored(given)
    if config.get("command") == "saliency":
        given["arm"] = "saliency"
    given |= {f"middle_{removes}": values.random() for removes in paper.REMOVES.values()}
    return given


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
    assert (one_way.verdict, two_way.verdict) == ("fails", "identity")
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
    assert (specific.effect, specific.verdict) == (0.0, "no effect")
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


@pytest.mark.parametrize(("worse", "verdict"), [(0, "holds"), (1, "holds"), (6, "fails")])
def test_the_order_is_pooled_over_methods_and_ratios(worse: int, verdict: str) -> None:
    """One method that goes the other way does not turn the mean; all of them do."""
    levels = [(0.7, 0.73, 0.76) if n < worse else (0.76, 0.73, 0.7) for n in range(6)]
    rows = [
        r
        for method, (t, random, f) in zip(METHODS_OF_TABLES, levels, strict=True)
        for ratio in (0.25, 0.5, 0.75)
        for r in masked_rows(t, random, f, ratio=ratio, method=method)
    ]
    result = find(rows, "table2.order")
    assert (result.verdict, result.exhibit) == (verdict, "table2")
    assert result.effect == pytest.approx(3 - worse, abs=0.1)
    few = [r for r in rows if r["method"] != "CRD"]
    assert find(few, "table2.order").verdict == "not run"


def test_masks_are_checked_to_have_moved_the_divergence() -> None:
    """Every claim that a mask helps or harms names what it must have moved, and nothing else."""
    moved = {claim.id for claim in CLAIMS if claim.moved}
    assert {"fig9.order.a", "table2.T", "table2.order", "table3.RF.SP.0.5", "fig11.peak.b"} <= moved
    assert not {"fig9.ncjsd.True.a", "table2.ncjsd", "table2.none", "fig7.target.a"} & moved
    assert {claim.unit for claim in CLAIMS if claim.id in moved} == {"accuracy points", "nats"}
    assumed = {claim.id.partition(".")[0] for claim in CLAIMS if "strength" in claim.under}
    assert "table1" not in assumed  # it is about the assumptions
    assert {"table2", "table3", "fig8", "unimodal"} <= assumed


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
    [(0.1, 0.3, ("holds", "fails")), (0.3, 0.1, ("fails", "holds"))],
)
def test_the_ratio_of_both_kinds_of_target_divergence(
    single: float, two_way: float, verdicts: tuple[str, str]
) -> None:
    rows = [
        row("eq25", seed, classes=c, last_test_nckl=0.2 * (c - 1) + NOISE[seed],
            last_test_tckl=0.0, last_test_tckl_size=single, last_test_tckl_binary=two_way)
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


# -- the paper's own numbers and margins ---------------------------------------------------------


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


def test_margins_and_stand_ins_are_named_in_the_ledger() -> None:
    assert "by construction" in find([], "table1.strength.mnist").note
    assert "trained teacher to zero" in find([], "fig8.order.a.0.3").note
    assert find([], "fig9.order.a.0.3").note == ""
    assert "single samples can break it" in find([], "eq18.bound").note
    assert "no run could break it" in find([], "eq18.two_way").note
