"""The claims ledger: every claim of the papers, tested on records.

A claim is tested for each protocol and source that has its runs, real and simulated apart:

- t tests over seeds, paired and one-sided, towards the claim and against it alike; "almost
  unchanged" is two of them (equivalence within a margin). Fewer than five seeds decide nothing.
- A claim with several parts holds if all of them do (intersection-union), or as many as it says:
  "at least k of n" is tested by Benjamini and Heller's partial conjunction. It is false exactly if
  at least n - k + 1 parts are, so that it fails by the same test of n - k + 1 of the n parts, each
  against the claim: "all" fails by Bonferroni over its parts.
- A family is the claims of one exhibit, protocol and source. *Holds* and *fails* are decided alike,
  by :func:`~ntdh_bench.report.effects.decide`: both are corrected for the family (Holm), else the
  claim is *inconclusive*. A claimed difference in accuracy of which every part is shown to be less
  than half a point has *no effect*.
- Gates say what a test needs to mean anything, such as the paper's own assumptions. If one failed,
  what would be decided is *out of scope*; the numbers stand. A gate of which nothing is known stops
  nothing, and is shown.
- What no run could contradict is an *identity*, and no evidence.

All of this is secondary to the claims of the study, whose unit is the data set.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ntdh_bench.records.columns import Row
from ntdh_bench.report import effects, gates
from ntdh_bench.report.cells import select
from ntdh_bench.report.effects import MARGIN, MIN_SETS, NOT_RUN, Sides, decide
from ntdh_bench.report.gates import Gate
from ntdh_bench.report.hypothesis import Hypothesis, Summary, test_hypothesis
from ntdh_bench.report.papers import (
    NEGATIVE,
    POINTS,
    POSITIVE,
    SLOPE,
    Claim,
    Hypothesised,
    Paper,
    Part,
    Region,
    Untested,
)
from ntdh_bench.report.statistics import Estimate, mean_ci, p_at_least, p_between, p_greater

MIN_SEEDS = 5
HOLDS, FAILS, NO_EFFECT = effects.HOLDS, effects.FAILS, effects.NO_EFFECT
INCONCLUSIVE, OUT_OF_SCOPE = effects.INCONCLUSIVE, effects.OUT_OF_SCOPE
IDENTITY = "identity"
VERDICTS = (HOLDS, FAILS, NO_EFFECT, INCONCLUSIVE, OUT_OF_SCOPE, IDENTITY, NOT_RUN)
AGREE, CONTRADICT = "agree", "contradict"


@dataclass(frozen=True)
class Result:
    """A claim and what the records say, for one protocol and source.

    Attributes:
        id: unique within the ledger, protocol and source aside.
        where: section, table or figure of the paper.
        statement: the claim, in a line.
        exhibit: table, figure or equation it belongs to (``table2``, ``fig8``, ``eq18``); with
            protocol and source also those that p is corrected for.
        experiment: the sweep that produces its runs; empty for the hypothesis test.
        test: what is measured and how it is tested, margins included.
        protocol: None where nothing was run.
        source: ``real`` or ``simulated``; None where nothing was run.
        n: seeds (data sets in the hypothesis test).
        effect: in ``unit``; of the part that decides, in a claim with several.
        low: lower end of its 95 % interval; None with one seed.
        high: upper end.
        unit: ``accuracy points``, ``nats``, ``per cent`` or ``rank correlation``.
        claimed: where the claim puts the effect, such as ``> 0`` or ``within ±1``.
        p_holds: one-sided, uncorrected; None with fewer than five seeds (data sets), parts of a
            grid missing, or nothing to test.
        p_fails: the same, against the claim.
        p_no_effect: of an effect within half a point; 1 where no difference in accuracy is claimed.
        p: two-sided, uncorrected: twice the smaller of ``p_holds`` and ``p_fails``.
        p_corrected: after Holm.
        verdict: one of :data:`VERDICTS`.
        gates: what the test needs: those that apply to the claim.
        family: ``primary`` for the claims of the study, else ``secondary``.
        published: whether the paper's own printed numbers lie where it claims: ``agree``,
            ``contradict``, or None where it prints none.
        note: which part decides, what is missing, how the claim was read, why it was not tested.
    """

    id: str
    where: str
    statement: str
    exhibit: str
    experiment: str
    test: str
    protocol: str | None = None
    source: str | None = None
    n: int = 0
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    claimed: str = ""
    p_holds: float | None = None
    p_fails: float | None = None
    p_no_effect: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    verdict: str = NOT_RUN
    gates: tuple[Gate, ...] = ()
    family: Literal["primary", "secondary"] = "secondary"
    published: str | None = None
    note: str = ""


def ledger(
    rows: Sequence[Row], papers: Mapping[str, Paper], hypothesis: Hypothesis | None = None
) -> list[Result]:
    """Test every claim of the papers on ``rows``: first the hypothesis, then in a paper's order.

    Args:
        rows: of all experiments.
        papers: by name.
        hypothesis: the hypothesis test on the same rows; made here if not given.
    """
    groups: dict[str, dict[tuple[str, str], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        home = row["part_of"] if "part_of" in row else row["experiment"]
        groups[home][row["protocol"], row["source"]].append(row)
    hypothesis = hypothesis or test_hypothesis(rows)
    stated, results, untested = [], [], []
    for paper in papers.values():
        for claim in paper.hypothesised:
            found = [s for s in hypothesis.summaries if s.quantity == claim.quantity]
            stated += [_hypothesis_result(claim, summary) for summary in found or (None,)]
        for tested in paper.claims:
            blank = _blank(tested, paper)
            judged = [_judge(tested, blank, *g) for g in sorted(groups[tested.experiment].items())]
            results += [result for result in judged if result.n] or [blank]
        untested += [_untested(claim) for claim in paper.untested]
    return stated + _decided(results) + untested


# -- one claim -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tested:
    """A part of a claim that was run: over its seeds, and what can be said of it."""

    name: str
    estimate: Estimate
    sides: Sides

    @property
    def decides(self) -> bool:
        """Return whether there are enough seeds."""
        return self.estimate.n >= MIN_SEEDS


def _judge(claim: Claim, blank: Result, group: tuple[str, str], rows: Sequence[Row]) -> Result:
    """Test a claim on the rows of its experiment, one protocol and source; n = 0: none fit."""
    values = {part.name: list(part.values(rows).values()) for part in claim.parts}
    tested = [_test(name, found, claim) for name, found in values.items() if found]
    if not tested:
        return blank
    partial = claim.partial(rows)
    # The part whose p is that of the claim; of those that were run, if some were not.
    ranked = sorted(tested, key=lambda part: part.sides.holds)
    shown = ranked[min(claim.count, len(tested)) - 1]
    found = replace(
        blank,
        protocol=group[0],
        source=group[1],
        n=shown.estimate.n,
        effect=shown.estimate.mean,
        low=shown.estimate.low,
        high=shown.estimate.high,
        verdict=INCONCLUSIVE,
        gates=_gates(claim, rows),
        note="; ".join(filter(None, (blank.note, *_notes(claim, tested, shown), partial))),
    )
    if claim.identity:
        return replace(found, verdict=_identity(claim.region, values.values()))
    sides = None if partial else _sides(claim, [part.sides for part in tested if part.decides])
    if sides is None:
        return found
    return replace(found, p_holds=sides.holds, p_fails=sides.fails, p_no_effect=sides.within)


def _test(name: str, values: Sequence[float], claim: Claim) -> _Tested:
    estimate = mean_ci(values)
    assert estimate is not None
    if estimate.n == 1:
        return _Tested(name, estimate, Sides(1.0, 1.0, 1.0))
    holds = p_between(values, claim.region.low, claim.region.high)
    fails = _p_outside(values, claim.region)
    if claim.region.refuted_above is not None and fails < (1 - effects.LEVEL) / 2:
        holds = 1.0  # the region reaches into what refutes it: that comes first
    difference = claim.unit == POINTS and claim.region in (POSITIVE, NEGATIVE)
    within = p_between(values, -MARGIN, MARGIN) if difference else 1.0
    return _Tested(name, estimate, Sides(holds, fails, within))


def _p_outside(values: Sequence[float], region: Region) -> float:
    """Return the p of "the mean lies outside a region", by Bonferroni if that has two ends."""
    ends = []
    if math.isfinite(region.low):
        ends.append(p_greater([-value for value in values], -region.low))
    if math.isfinite(region.ceiling):
        ends.append(p_greater(values, region.ceiling))
    return p_at_least(ends, 1)


def _sides(claim: Claim, parts: Sequence[Sides]) -> Sides | None:
    """Return what can be said of a claim by those of its parts that have enough seeds.

    None if these are too few for it to hold, and too few for it to fail.
    """
    every, needed = len(claim.parts), claim.count
    refuting = every - needed + 1
    if len(parts) < min(needed, refuting):
        return None
    rest = [1.0] * (every - len(parts))  # for want of seeds they prove nothing
    return Sides(
        p_at_least([*(part.holds for part in parts), *rest], needed),
        p_at_least([*(part.fails for part in parts), *rest], refuting),
        max([*(part.within for part in parts), *rest]),
    )


def _identity(region: Region, values: Iterable[Sequence[float]]) -> str:
    """Return the verdict on what holds by construction: any number outside would be an error."""
    inside = [region.low <= value <= region.ceiling for found in values for value in found]
    return IDENTITY if all(inside) else FAILS


def _notes(claim: Claim, tested: Sequence[_Tested], shown: _Tested) -> list[str]:
    notes = [f"decided by {shown.name}"] if len(claim.parts) > 1 else []
    run = {part.name for part in tested}
    if missing := [part.name for part in claim.parts if part.name not in run]:
        notes.append(f"not run: {', '.join(missing)}")
    if not claim.identity and not all(part.decides for part in tested):
        notes.append(f"fewer than {MIN_SEEDS} seeds decide nothing")
    return notes


def _blank(claim: Claim, paper: Paper) -> Result:
    """Return the result of a claim whose runs are not there."""
    return Result(
        claim.id,
        claim.where,
        claim.statement,
        claim.exhibit,
        claim.experiment,
        _describe(claim),
        unit=claim.unit,
        claimed=claim.region.text,
        published=_published(claim, paper.printed(claim.exhibit)),
        note=claim.note or claim.identity,
    )


def _describe(claim: Claim) -> str:
    parts = len(claim.parts)
    bounded = math.isfinite(claim.region.low) and math.isfinite(claim.region.high)
    tests = "two one-sided t tests (equivalence)" if bounded else "one-sided t test"
    text = f"{claim.effect}: {claim.region.text} {claim.unit}"
    if claim.identity:
        return f"{text}; not tested"
    text = f"{text}; {tests} over seeds"
    if parts == 1:
        return text
    if claim.count == parts:
        return f"{text}; all {parts} parts (intersection-union)"
    return f"{text}; at least {claim.count} of {parts} parts (Benjamini and Heller)"


def _published(claim: Claim, rows: Sequence[Row]) -> str | None:
    """Say whether the paper's printed numbers lie where it claims; None if it prints too few."""
    values = [round(value, 9) for part in claim.parts for value in part.values(rows).values()]
    if len(values) < len(claim.parts):
        return None
    inside = sum(claim.region.low < value <= claim.region.ceiling for value in values)
    return AGREE if inside >= claim.count else CONTRADICT


# -- gates ---------------------------------------------------------------------------------------


def _gates(claim: Claim, rows: Sequence[Row]) -> tuple[Gate, ...]:
    """Return the gates of a claim, in the settings of data and teacher that it compares."""
    settings = {row["pair_hash"] for row in _compared(claim.parts, rows)}
    own = [row for row in rows if row["pair_hash"] in settings]
    check = {
        "capacity": gates.capacity, "strength": gates.strength, "converged": gates.converged,
    }  # fmt: skip
    found = [check[name](own) for name in claim.under]
    if claim.moved:
        changes = [list(part.values(rows).values()) for part in claim.moved]
        found.append(gates.weakest(map(gates.manipulation, changes)))
        found.append(gates.teacher(_compared(claim.moved, rows), rows))
    return tuple(found)


def _compared(parts: Sequence[Part], rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the cells that parts compare; all rows for parts that look at all."""
    wheres = [term.where for part in parts for term in part.contrast]
    if not wheres:
        return list(rows)
    return list({id(row): row for where in wheres for row in select(rows, where)}.values())


# -- the hypothesis, the untested, the verdicts ------------------------------------------------

# What the summaries of the hypothesis test measure.
_QUANTITIES = {
    "ncjsd": "slope of the gain in NCJSD before distillation",
    "difference": "slope of the gain in NCJSD less that in TCJSD, each given the other and the "
    "teacher's accuracy",
    "partial": "slope of the gain in NCJSD, given TCJSD and the teacher's accuracy",
}


def _hypothesis_result(claim: Hypothesised, summary: Summary | None) -> Result:
    test = (
        f"{_QUANTITIES[claim.quantity]}, over the cells of each stratum: < 0; mean over data "
        "sets, each counting the same, its strata made one value first (Student's t)"
    )
    exhibit = claim.id.partition(".")[0]
    result = Result(
        claim.id, claim.where, claim.statement, exhibit, "", test, unit=SLOPE, claimed="< 0"
    )
    if summary is None:
        return result
    pooled, decision, within = summary.pooled, summary.decision, summary.within
    found = replace(
        result,
        statement=f"{claim.statement} (moved by {summary.moved})",
        protocol="all",
        source=summary.source,
        n=len(summary.sets),
        effect=pooled.value if pooled else next(iter(summary.sets.values())).value,
        low=pooled.low if pooled else None,
        high=pooled.high if pooled else None,
        verdict=summary.verdict,
        note=f"n counts data sets; strata: {summary.strata}; within both assumptions: "
        + (
            f"{within.value:.2f} over {within.n} data sets"
            if within
            else "fewer than two data sets"
        ),
    )
    if pooled is None or decision is None:
        few = f"fewer than {MIN_SETS} real data sets decide nothing"
        return replace(found, note=f"{found.note}; {few}")
    return replace(
        found,
        p_holds=pooled.p_less,
        p_fails=pooled.p_greater,
        p_no_effect=pooled.p_within(MARGIN),
        p=decision.p,
        p_corrected=decision.p_holm,
    )


def _untested(claim: Untested) -> Result:
    exhibit = claim.id.partition(".")[0]
    return Result(
        claim.id, claim.where, claim.statement, exhibit, claim.experiment, "not tested",
        note=claim.reason,
    )  # fmt: skip


def _decided(results: Sequence[Result]) -> list[Result]:
    """Return results with the verdicts of their families, and what their gates make of these."""
    decided = list(results)
    families: dict[tuple[str | None, ...], dict[int, Sides]] = defaultdict(dict)
    for index, result in enumerate(results):
        holds, fails, within = result.p_holds, result.p_fails, result.p_no_effect
        if holds is not None and fails is not None and within is not None:
            family = families[result.exhibit, result.protocol, result.source]
            family[index] = Sides(holds, fails, within)
    for members in families.values():
        for index, decision in zip(members, decide(list(members.values())), strict=True):
            decided[index] = _scoped(
                replace(
                    results[index],
                    p=decision.p,
                    p_corrected=decision.p_holm,
                    verdict=decision.verdict,
                )
            )
    return decided


def _scoped(result: Result) -> Result:
    """Return a result whose verdict is out of scope, if it decides and a gate has failed."""
    failed = gates.failed(result.gates)
    if not failed or result.verdict == INCONCLUSIVE:
        return result
    told = ", ".join(f"{gate.name} ({gate.shown})" for gate in failed)
    note = f"{result.verdict}, but for: {told}"
    note = "; ".join(filter(None, (result.note, note)))
    return replace(result, verdict=OUT_OF_SCOPE, note=note)
