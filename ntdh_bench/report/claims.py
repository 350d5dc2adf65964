"""The claims ledger: every claim of the papers, tested on records.

A claim is tested for each protocol and source that has its runs, real and simulated apart:

- t tests over seeds, paired, one-sided towards the claim; "almost unchanged" is two of them
  (equivalence within a margin). Fewer than five seeds decide nothing.
- A claim with several parts holds if all of them do (intersection-union), or as many as it says.
- Holm's correction within a family: the claims of one exhibit, protocol and source.
- *holds*: the corrected p is below 0.05. *fails*: the 95 % interval lies wholly against the claim,
  or does so, widened by Bonferroni, for more parts than the claim can spare. Else *inconclusive*.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ntdh_bench.records.columns import Row
from ntdh_bench.report.hypothesis import VERDICT_DATASETS, Hypothesis, Summary, test_hypothesis
from ntdh_bench.report.papers import RHO, Claim, Hypothesised, Paper, Region, Untested
from ntdh_bench.report.statistics import Estimate, holm, mean_ci, p_at_least, p_between

LEVEL = 0.95
MIN_SEEDS = 5
HOLDS, FAILS, INCONCLUSIVE, NOT_RUN = "holds", "fails", "inconclusive", "not run"
VERDICTS = (HOLDS, FAILS, INCONCLUSIVE, NOT_RUN)
AGREE, CONTRADICT = "agree", "contradict"


@dataclass(frozen=True)
class Result:
    """A claim and what the records say, for one protocol and source.

    Attributes:
        id: unique within the ledger, protocol and source aside.
        where: section, table or figure of the paper.
        statement: the claim, in a line.
        exhibit: table, figure or equation it belongs to (``table2``, ``fig8``, ``eq18``); with
            protocol and source also the family of the Holm correction.
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
        p: one-sided; None with fewer than five seeds (three data sets), or parts of a grid missing.
        p_corrected: after Holm.
        verdict: one of :data:`VERDICTS`.
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
    p: float | None = None
    p_corrected: float | None = None
    verdict: str = NOT_RUN
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
    results, untested = [], []
    for paper in papers.values():
        for stated in paper.hypothesised:
            found = [s for s in hypothesis.summaries if s.quantity == stated.quantity]
            results += [_hypothesis_result(stated, summary) for summary in found or (None,)]
        for claim in paper.claims:
            blank = _blank(claim, paper)
            judged = [_judge(claim, blank, *g) for g in sorted(groups[claim.experiment].items())]
            results += [result for result in judged if result.n] or [blank]
        untested += [_untested(claim) for claim in paper.untested]
    return _corrected(results) + untested


# -- one claim -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tested:
    """A part of a claim that was run.

    Attributes:
        name: of the part.
        estimate: over its seeds.
        p: of the part; 1 with one seed.
        against: whether its interval, widened for the number of parts, refutes the claim.
    """

    name: str
    estimate: Estimate
    p: float
    against: bool

    @property
    def decides(self) -> bool:
        """Return whether there are enough seeds."""
        return self.estimate.n >= MIN_SEEDS


def _judge(claim: Claim, blank: Result, group: tuple[str, str], rows: Sequence[Row]) -> Result:
    """Test a claim on the rows of its experiment, one protocol and source; n = 0: none fit."""
    level = 1 - (1 - LEVEL) / len(claim.parts)
    values = {part.name: list(part.values(rows).values()) for part in claim.parts}
    tested = [_test(name, found, claim.region, level) for name, found in values.items() if found]
    if not tested:
        return blank
    partial = claim.partial(rows)
    deciding = [part.p for part in tested if part.decides and not partial]
    enough = len(deciding) >= claim.count
    rest = [1.0] * (len(claim.parts) - len(deciding))  # for want of seeds they prove nothing
    # The part whose p is that of the claim; of those that were run, if some were not.
    shown = sorted(tested, key=lambda part: part.p)[min(claim.count, len(tested)) - 1]
    refuted = sum(part.decides and part.against and not partial for part in tested)
    return replace(
        blank,
        protocol=group[0],
        source=group[1],
        n=shown.estimate.n,
        effect=shown.estimate.mean,
        low=shown.estimate.low,
        high=shown.estimate.high,
        p=p_at_least([*deciding, *rest], claim.count) if enough else None,
        verdict=FAILS if refuted > len(claim.parts) - claim.count else INCONCLUSIVE,
        note="; ".join(filter(None, (claim.note, *_notes(claim, tested, shown), partial))),
    )


def _test(name: str, values: Sequence[float], region: Region, level: float) -> _Tested:
    estimate, wide = mean_ci(values, LEVEL), mean_ci(values, level)
    assert estimate is not None
    assert wide is not None
    if wide.low is None or wide.high is None:
        return _Tested(name, estimate, 1.0, False)
    p = p_between(values, region.low, region.high)
    return _Tested(name, estimate, p, wide.high < region.low or wide.low > region.ceiling)


def _notes(claim: Claim, tested: Sequence[_Tested], shown: _Tested) -> list[str]:
    notes = [f"decided by {shown.name}"] if len(claim.parts) > 1 else []
    run = {part.name for part in tested}
    if missing := [part.name for part in claim.parts if part.name not in run]:
        notes.append(f"not run: {', '.join(missing)}")
    if not all(part.decides for part in tested):
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
        note=claim.note,
    )


def _describe(claim: Claim) -> str:
    parts = len(claim.parts)
    bounded = math.isfinite(claim.region.low) and math.isfinite(claim.region.high)
    tests = "two one-sided t tests (equivalence)" if bounded else "one-sided t test"
    text = f"{claim.effect}: {claim.region.text} {claim.unit}; {tests} over seeds"
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


# -- the hypothesis, the untested, the correction ------------------------------------------------

# What the summaries of the hypothesis test measure, and on which scale.
_QUANTITIES = {
    "ncjsd": (
        "rho(NCJSD before distillation, gain) over the cells of each stratum",
        "Fisher's z, ",
    ),
    "difference": ("rho(NCJSD, gain) - rho(TCJSD, gain)", ""),
    "partial": (
        "rho(NCJSD, gain) given the accuracy of the (masked) teacher",
        "Fisher's z, ",
    ),
}


def _hypothesis_result(claim: Hypothesised, summary: Summary | None) -> Result:
    effect, scale = _QUANTITIES[claim.quantity]
    test = (
        f"{effect}: < 0; random-effects mean over data sets, the strata of each made one value "
        f"first ({scale}Hartung-Knapp)"
    )
    exhibit = claim.id.partition(".")[0]
    result = Result(
        claim.id, claim.where, claim.statement, exhibit, "", test, unit=RHO, claimed="< 0"
    )
    if summary is None:
        return result
    enough = summary.datasets >= VERDICT_DATASETS
    low, p = summary.low, summary.p if enough else None
    if p is not None:
        p = p / 2 if summary.value < 0 else 1 - p / 2
    few = "" if enough else f"; fewer than {VERDICT_DATASETS} data sets decide nothing"
    return replace(
        result,
        protocol="all",
        source=summary.source,
        n=summary.datasets,
        effect=summary.value,
        low=low,
        high=summary.high,
        p=p,
        verdict=FAILS if enough and low is not None and low > 0 else INCONCLUSIVE,
        note=f"n counts data sets; strata (data set x method x protocol): {summary.strata}{few}",
    )


def _untested(claim: Untested) -> Result:
    exhibit = claim.id.partition(".")[0]
    return Result(
        claim.id, claim.where, claim.statement, exhibit, claim.experiment, "not tested",
        note=claim.reason,
    )  # fmt: skip


def _corrected(results: Iterable[Result]) -> list[Result]:
    """Correct p within families, and let what it then proves hold."""
    corrected = list(results)
    families: dict[tuple[str | None, ...], list[int]] = defaultdict(list)
    for index, result in enumerate(corrected):
        if result.p is not None:
            families[result.exhibit, result.protocol, result.source].append(index)
    for members in families.values():
        ps = holm([p for index in members if (p := corrected[index].p) is not None])
        for index, p in zip(members, ps, strict=True):
            holds = p < 1 - LEVEL and corrected[index].verdict != FAILS
            verdict = HOLDS if holds else corrected[index].verdict
            corrected[index] = replace(corrected[index], p_corrected=p, verdict=verdict)
    return corrected
