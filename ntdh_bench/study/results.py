"""What the study found: plain, frozen values, which its files and the page show.

The unit of every verdict is the data set. A data set has one or more *settings*, its protocols and
directions (which modality teaches); gates are of a setting, and the effect in a data set is the
mean over those of its settings that count. Scores and gains are in points (of accuracy or mIoU),
divergences in nats, intervals of 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ntdh_bench.report.effects import Effect, Pooled
from ntdh_bench.report.gates import Gate, weakest
from ntdh_bench.report.statistics import Estimate

#: Names of the gates that a setting must pass to count, and of those of the two assumptions.
COUNTING = ("manipulation", "teacher", "converged")
ASSUMPTIONS = ("capacity", "strength")
#: Fewer seeds do not count.
MIN_SEEDS = 5

Sign: TypeAlias = Literal[-1, 1]


# -- effects -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SettingEffect:
    """The effect in one setting: a protocol of a data set.

    Attributes:
        dataset: its name.
        protocol: its name; the direction is part of it (``wiki``, ``wiki_reverse``).
        effect: in the claim's unit; None where too little was run.
        gates: all five; one that is unknown is not passed.
        measured: what else it was computed from, name to value, such as how far divergences moved.
    """

    dataset: str
    protocol: str
    effect: Effect | None
    gates: tuple[Gate, ...]
    measured: tuple[tuple[str, float], ...] = ()

    @property
    def counts(self) -> bool:
        """Whether it has an effect over enough seeds, and passes the gates that decide that."""
        enough = self.effect is not None and self.effect.seeds >= MIN_SEEDS
        return enough and all(gate.passed for gate in self.gates if gate.name in COUNTING)

    @property
    def within(self) -> bool:
        """Whether it lies within both assumptions of the hypothesis."""
        return all(gate.passed for gate in self.gates if gate.name in ASSUMPTIONS)


@dataclass(frozen=True)
class SetEffect:
    """The effect in one data set: the mean over its settings that count, else over all of them.

    Attributes:
        dataset: its name.
        effect: in the claim's unit; None where too little was run.
        p: one-sided, of what the claim says; None without an effect.
        counts: whether any of its settings counts.
        within: whether it counts, and all of its settings that do lie within both assumptions.
        settings: all of them, also those that do not count.
    """

    dataset: str
    effect: Effect | None
    p: float | None
    counts: bool
    within: bool
    settings: tuple[SettingEffect, ...]

    @property
    def value(self) -> float | None:
        """The effect, in the claim's unit."""
        return self.effect.value if self.effect else None

    @property
    def low(self) -> float | None:
        """Lower end of its interval over seeds (and cells, where these are units)."""
        return self.effect.interval()[0] if self.effect else None

    @property
    def high(self) -> float | None:
        """Upper end of that interval."""
        return self.effect.interval()[1] if self.effect else None

    @property
    def seeds(self) -> int:
        """The fewest seeds of a setting in it; 0 without an effect."""
        return self.effect.seeds if self.effect else 0

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Each gate of the setting that comes off worst: not passed, else unknown, else passed.

        Of the settings that the effect is the mean of: those that count, if any does.
        """
        names = (*COUNTING, *ASSUMPTIONS)
        meant = [setting for setting in self.settings if setting.counts] or self.settings
        found = [[g for s in meant for g in s.gates if g.name == name] for name in names]
        return tuple(weakest(same) for same in found if same)


@dataclass(frozen=True)
class Part:
    """One comparison of a claim; all parts of a claim must hold (intersection-union).

    Attributes:
        name: what is compared, in words; empty for the only part of a claim.
        sets: the effect in every data set that was run, in order of name.
        summary: mean over the data sets that count; None if fewer than two do.
        within: over those of them that lie within both assumptions, likewise.
    """

    name: str
    sets: tuple[SetEffect, ...]
    summary: Pooled | None
    within: Pooled | None


@dataclass(frozen=True)
class Decision:
    """A verdict over some of the data sets of a claim.

    Attributes:
        verdict: ``holds``, ``fails`` or ``no effect``, which stand after correction over the seven
            claims; ``inconclusive``; ``out of scope``: data sets were run, and none passes the
            gates; ``not run``.
        n: data sets that count; of a claim of several parts, the fewest of a part.
        p: two-sided, uncorrected; None where nothing is tested.
        p_holm: two-sided, corrected over the seven claims (Holm).
        reason: why nothing was decided, in words; else empty.
    """

    verdict: str
    n: int
    p: float | None = None
    p_holm: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Primary:
    """A primary claim, decided over data sets.

    Attributes:
        id: ``P1`` to ``P7``.
        statement: in one line.
        effect: what is measured, in words.
        unit: of the effect.
        sign: where the claim puts the effect of every part: -1 below 0, 1 above.
        parts: its comparisons.
        overall: the verdict, over all data sets that count.
        within: the same over those that lie within both assumptions of the hypothesis.
        note: how it was read.
    """

    id: str
    statement: str
    effect: str
    unit: str
    sign: Sign
    parts: tuple[Part, ...]
    overall: Decision
    within: Decision
    note: str = ""


# -- beside the claims ---------------------------------------------------------------------------


@dataclass(frozen=True)
class DosePoint:
    """One dose of an intervention in a data set: means over seeds of the means over settings.

    Attributes:
        dose: share, nats of ``ShiftTarget`` or factor of ``ScaleTarget``; 0: the teacher as it is.
        gain: over the student without KD, in points.
        ncjsd: before distillation, on validation data, in nats.
        tcjsd: likewise.
        teacher: accuracy of the teacher as distilled, likewise, per cent.
    """

    dose: float
    gain: Estimate | None
    ncjsd: Estimate | None
    tcjsd: Estimate | None
    teacher: Estimate | None


@dataclass(frozen=True)
class DoseCurve:
    """How a data set answers to an intervention.

    Attributes:
        intervention: class name, such as ``ShuffleNontarget``.
        protocols: settings that are averaged.
        points: by dose, ascending.
    """

    dataset: str
    source: str
    intervention: str
    protocols: tuple[str, ...]
    points: tuple[DosePoint, ...]


@dataclass(frozen=True)
class GuideLine:
    """What a method gained on a data set in one direction, from an untouched teacher.

    Attributes:
        experiment: whose runs these are.
        protocol: of them; the direction is part of it.
        teacher: what it sees: ``one modality`` or ``both``.
        method: its label there (``KD standardised``, ``KD from both``).
        gain: over the student without KD (cross entropy of weight 1), in points.
        gain_equal: over the control of equal task weight; None if that was not run, or cannot be.
        lead: accuracy of the teacher minus that of the student without KD, in points.
        helped: True if the intervals over both controls lie above 0, False if one lies below it,
            else None.
    """

    dataset: str
    source: str
    experiment: str
    protocol: str
    teacher: str
    method: str
    gain: Estimate
    gain_equal: Estimate | None
    lead: Estimate | None
    helped: bool | None


@dataclass(frozen=True)
class GuideMethod:
    """What a method gained over data sets, each the mean over its directions and protocols.

    Attributes:
        gain: mean over data sets of the gain over the student without KD, in points.
        gain_equal: likewise over the control of equal task weight; None if no set has one.
        helped: number of lines of the guide where it helped.
        harmed: where it harmed.
        lines: all of them.
    """

    method: str
    gain: Estimate
    gain_equal: Estimate | None
    helped: int
    harmed: int
    lines: int


@dataclass(frozen=True)
class GuideRule:
    """The simplest rule for when to distil: the teacher leads the student by so many points.

    Attributes:
        method: that it is about.
        rho: rank correlation of lead and gain over settings.
        p_holm: of it, two-sided, corrected over the methods (Holm).
        threshold: of the lead, in points, above which the method gains; None unless ``p_holm`` is
            below 0.05, and ``rho`` above 0.
        right: share of settings whose sign of the gain a threshold told, their data set left out.
        base: share that have the more frequent sign.
        lines: number of settings.
        sets: number of their data sets.
    """

    method: str
    rho: float
    p_holm: float
    threshold: float | None
    right: float
    base: float
    lines: int
    sets: int

    @property
    def text(self) -> str | None:
        """The rule in a sentence; None if there is none."""
        if self.threshold is None:
            return None
        return (
            f"{self.method}: distil if the teacher leads the student by more than "
            f"{self.threshold:.1f} points. So told, {self.right:.0%} of the signs of the gain are "
            f"right on data sets left out, {self.base:.0%} by the more frequent sign "
            f"({self.lines} settings of {self.sets} data sets)."
        )


@dataclass(frozen=True)
class Guide:
    """What to do with it, on real data: gains by data set, direction and method; rules.

    Attributes:
        lines: one a data set, protocol and method.
        methods: over data sets, the largest gain first.
        rules: one a method on enough data sets.
    """

    lines: tuple[GuideLine, ...]
    methods: tuple[GuideMethod, ...]
    rules: tuple[GuideRule, ...]

    @property
    def advice(self) -> tuple[str, ...]:
        """The rules that the data support in a sentence each, or that they support none."""
        found = tuple(rule.text for rule in self.rules if rule.text)
        if found or not self.rules:
            return found
        least = min(rule.p_holm for rule in self.rules)
        return (
            f"No rule for when to distil is supported: of {len(self.rules)} methods, for none do "
            f"the teacher's lead and the gain rank alike beyond chance, over "
            f"{max(rule.lines for rule in self.rules)} settings at most (smallest Holm p "
            f"{least:.2g}); so few can miss one.",
        )


@dataclass(frozen=True)
class Specification:
    """One way to specify the experiment, and whether its effect has the sign of the primary one.

    Attributes:
        name: what differs from the primary specification, in words.
        sets: data sets in it.
        value: mean effect over them, in the primary effect's unit.
        agrees: None if there is no primary effect on these data sets.
    """

    name: str
    sets: int
    value: float
    agrees: bool | None


@dataclass(frozen=True)
class Sensitivity:
    """How far the sign of an effect depends on how it is specified.

    Attributes:
        effect: in words.
        primary: the effect under the primary specification, on the same data sets.
        specifications: all others.
    """

    effect: str
    primary: float | None
    specifications: tuple[Specification, ...]

    @property
    def agreement(self) -> str:
        """How many of the specifications agree in sign, in words."""
        told = [s.agrees for s in self.specifications if s.agrees is not None]
        if not told:
            return "none can be told"
        return f"{sum(told)} of {len(told)} specifications agree in sign (by chance half would)"


@dataclass(frozen=True)
class Rival:
    """A rival theory on the same cells as P4: how well its predictor tells the gain.

    Attributes:
        name: of the theory.
        predictor: what it predicts the gain from, in words.
        sign: of the slope that it expects: -1 or 1.
        sets: standardised slope in each data set.
        summary: over those that count; None if fewer than two do.
        note: how it was read.
    """

    name: str
    predictor: str
    sign: Sign
    sets: tuple[SetEffect, ...]
    summary: Pooled | None
    note: str = ""


@dataclass(frozen=True)
class Power:
    """What a claim's test can see, given how its effects vary within and between data sets.

    Attributes:
        claim: its id, with the name of a part.
        unit: of the effect.
        n: data sets that count.
        effect: the smallest effect found with 80 % power at 5 % / 7; None if that is not known.
    """

    claim: str
    unit: str
    n: int
    effect: float | None


@dataclass(frozen=True)
class Study:
    """Everything that the study says.

    Attributes:
        claims: P1 to P7 on real data.
        rehearsal: the same on simulated data, which decide nothing.
        curves: dose-response curves, real data first.
        guide: what a practitioner should do with it.
        sensitivity: of the sign of effects to specification.
        rivals: other theories on the same cells.
        power: of each claim's parts.
        secondary: the slope of the gain, from no dose to the largest, of each intervention; they
            decide nothing.
        left_out: runs that cannot be told apart, a line each.
    """

    claims: tuple[Primary, ...]
    rehearsal: tuple[Primary, ...]
    curves: tuple[DoseCurve, ...]
    guide: Guide
    sensitivity: tuple[Sensitivity, ...]
    rivals: tuple[Rival, ...]
    power: tuple[Power, ...]
    secondary: tuple[Part, ...] = ()
    left_out: tuple[str, ...] = ()
