"""Made-up studies: with everything, with part of it, and before any run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ntdh_bench.report.effects import Effect, pool
from ntdh_bench.report.gates import Gate
from ntdh_bench.report.statistics import Estimate
from ntdh_bench.study.results import (
    ASSUMPTIONS,
    COUNTING,
    Decision,
    DoseCurve,
    DosePoint,
    Guide,
    GuideLine,
    GuideMethod,
    GuideRule,
    Part,
    Power,
    Primary,
    Rival,
    Sensitivity,
    SetEffect,
    SettingEffect,
    Sign,
    Specification,
    Study,
)

SETS = ("av_mnist", "bdgp", "lis_emg_imu", "mnist", "ravdess", "sp_sw_har", "utd_mhad", "wiki")
_STATEMENTS = {
    "P1": ("The gain falls as the non-target divergence alone is raised", -1, ("",)),
    "P2": ("It does not fall as much as the target divergence is raised by as much", -1, ("",)),
    "P3": ("The gain rises as the non-target divergence alone is lowered, and by more than where "
           "only non-target information is taken away", 1, ("aligned", "aligned minus uniform")),
    "P4": ("Over random masks, NCJSD predicts the gain given TCJSD and the teacher's accuracy",
           -1, ("",)),
    "P5": ("It does so better than TCJSD", -1, ("",)),
    "P6": ("Masks order as T > R > F over methods and ratios", 1, ("T minus R", "R minus F")),
    "P7": ("The mask T is better than none over methods and ratios", 1, ("T minus none",)),
}  # fmt: skip
VERDICTS = {
    "P1": Decision("holds", 6, 0.002, 0.014),
    "P2": Decision("inconclusive", 6, 0.31, 1.0),
    "P3": Decision("fails", 6, 0.004, 0.024),
    "P4": Decision("no effect", 6, 0.001, 0.007),
    "P5": Decision("inconclusive", 2, reason="2 data sets count, a verdict needs 5"),
    "P6": Decision("out of scope", 0, reason="no data sets count (not passed: teacher 8)"),
    "P7": Decision("not run", 0, reason="not run"),
}


def full_study() -> Study:
    """Return one with every verdict and everything that a page shows; text to be escaped."""
    rng = np.random.default_rng(0)
    claims = tuple(_claim(id_, rng) for id_ in _STATEMENTS)
    curves = [_curve(name, s, rng) for name in ("ShuffleNontarget", "ShiftTarget", "Mine<&>")
              for s in SETS[:5]]  # fmt: skip
    return Study(
        claims,
        tuple(replace(claim, statement=f"Rehearsed: {claim.statement}") for claim in claims[:2]),
        (*curves, replace(curves[0], dataset="synthetic", source="simulated")),
        _guide(rng),
        (_sensitivity(),),
        (Rival("Modality focusing", "share of <general> features", 1, claims[0].parts[0].sets,
               claims[0].parts[0].summary, "as in MFH"),
         Rival("Alignment", "CKA", 1, (), None)),
        (Power("P1", "points per unit of dose", 6, 0.9), Power("P7", "points", 0, None)),
        (replace(claims[0].parts[0], name="shuffled <&>"), Part("not run", (), None, None)),
    )  # fmt: skip


def empty_study() -> Study:
    """Return one before any run."""
    claims = tuple(
        Primary(id_, text, "slope of the gain", "points", _sign(sign),
                tuple(Part(name, (), None, None) for name in parts), VERDICTS["P7"],
                VERDICTS["P7"])
        for id_, (text, sign, parts) in _STATEMENTS.items()
    )  # fmt: skip
    return Study(claims, claims, (), Guide((), (), ()), (), (), ())


def partial_study() -> Study:
    """Return one with two data sets of one claim, one of them without an effect yet."""
    empty, full = empty_study(), full_study()
    sets = full.claims[0].parts[0].sets[:2]
    nothing = replace(sets[1], effect=None, p=None, counts=False, within=False, settings=())
    part = Part("", (sets[0], nothing), None, None)
    reason = "1 data set counts, a verdict needs 5"
    decision = Decision("inconclusive", 1, reason=reason)
    claim = replace(full.claims[0], parts=(part,), overall=decision, within=decision)
    curves = (replace(full.curves[0], points=full.curves[0].points[1:3]),)
    return replace(empty, claims=(claim, *empty.claims[1:]), curves=curves)


def _sign(value: int) -> Sign:
    return -1 if value < 0 else 1


def _claim(id_: str, rng: np.random.Generator) -> Primary:
    statement, sign, names = _STATEMENTS[id_]
    run = VERDICTS[id_].verdict != "not run"
    parts = tuple(_part(name, sign, VERDICTS[id_].n, rng, run) for name in names)
    within = Decision("inconclusive", 1, reason="1 data set counts, a verdict needs 5")
    return Primary(
        id_, statement, f"slope of {id_}", "points per unit of dose", _sign(sign), parts,
        VERDICTS[id_], within if run else VERDICTS[id_], "read <as> planned",
    )  # fmt: skip


def _part(name: str, sign: int, n: int, rng: np.random.Generator, run: bool) -> Part:
    sets = tuple(_set(s, sign, i < n, i < 2, rng) for i, s in enumerate(SETS if run else ()))
    counted = [found.effect for found in sets if found.counts and found.effect]
    within = [found.effect for found in sets if found.within and found.effect]
    return Part(name, sets, pool(counted), pool(within))


def _set(
    dataset: str, sign: int, counts: bool, within: bool, rng: np.random.Generator
) -> SetEffect:
    settings = tuple(
        SettingEffect(dataset, protocol, _effect(sign, rng), _gates(counts, within),
                      (("NCJSD moved", 0.2), ("TCJSD moved", -0.001)))
        for protocol in (dataset, f"{dataset}_reverse")
    )  # fmt: skip
    return SetEffect(dataset, _effect(sign, rng), 0.03, counts, counts and within, settings)


def _effect(sign: int, rng: np.random.Generator) -> Effect:
    return Effect(sign * float(rng.gamma(4, 0.3)), float(rng.gamma(2, 0.1)), 0.03, 0.97, 10, 5, 9)


def _gates(counts: bool, within: bool) -> tuple[Gate, ...]:
    passed = dict.fromkeys(COUNTING, True) | dict.fromkeys(ASSUMPTIONS, within)
    if not counts:
        passed |= {"teacher": False}
    shown = {"teacher": "<4.1> points", "strength": "", "capacity": "2.0 % apart"}
    unknown = {"strength"} if not counts else set()
    return tuple(
        Gate(name, None if name in unknown else ok, shown.get(name, "0.1 points"))
        for name, ok in passed.items()
    )


def _estimate(mean: float, half: float = 0.6, n: int = 10) -> Estimate:
    return Estimate(mean, mean - half, mean + half, n)


def _curve(name: str, dataset: str, rng: np.random.Generator) -> DoseCurve:
    doses = (0.0, 1.0, 2.0, 4.0, 8.0) if name == "ShiftTarget" else (0.0, 0.25, 0.5, 0.75, 1.0)
    slope, nontarget = float(rng.normal(-1.5, 1)), name != "ShiftTarget"
    points = tuple(
        DosePoint(
            dose,
            _estimate(2 + slope * dose + float(rng.normal(0, 0.2))),
            _estimate(0.4 + 0.2 * dose * nontarget, 0.01),
            _estimate(0.1 + 0.02 * dose * (not nontarget), 0.01),
            None if math.isclose(dose, 0.5) else _estimate(80.0),
        )
        for dose in doses
    )
    return DoseCurve(dataset, "real", name, (dataset, f"{dataset}_reverse"), points)


def _guide(rng: np.random.Generator) -> Guide:
    methods = ("KD", "DKD", "FitNet <&>", "SP")
    lines = []
    for dataset in SETS:
        for protocol in (dataset, f"{dataset}_reverse"):
            for method in methods:
                gain = _estimate(float(rng.normal(0.5, 2)), 1.0)
                low, high = gain.low or 0.0, gain.high or 0.0
                helped = True if low > 0 else False if high < 0 else None
                equal = None if method == "SP" else gain
                lead = _estimate(float(rng.normal(0, 8)), 1.0)
                lines.append(
                    GuideLine(dataset, "real", "methods", protocol, "one modality", method, gain,
                              equal, lead, helped)
                )  # fmt: skip
    means = [_method([line for line in lines if line.method == name]) for name in methods]
    rule = GuideRule("KD", 0.8, 0.01, 2.5, 0.75, 0.6, 16, 8)
    return Guide(tuple(lines), tuple(means), (rule,))


def _method(lines: list[GuideLine]) -> GuideMethod:
    told = [line.helped for line in lines]
    return GuideMethod(
        lines[0].method,
        _estimate(1.0, n=len(SETS)),
        None,
        told.count(True),
        told.count(False),
        len(lines),
    )


def _sensitivity() -> Sensitivity:
    return Sensitivity(
        "slope of the gain under ShuffleNontarget", -1.4,
        (Specification("T 1 & λ 0.5", 6, -0.9, True), Specification("T 4", 6, 0.2, False),
         Specification("authors", 1, 0.2, None)),
    )  # fmt: skip
