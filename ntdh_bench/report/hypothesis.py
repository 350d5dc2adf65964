"""The hypothesis test: does a smaller non-target divergence go with a larger gain from KD?

A stratum is a data set, source, protocol and objective (the student, the distiller with all of its
arguments, and how they are trained), and one thing that moves the divergence in it: teachers of one
student, masks of one teacher, or an intervention on one teacher's output. Cells that are moved in
different ways answer different questions, and are never mixed.

Each cell has the divergence between the teacher and the student *before* distillation, since
distilling itself lowers it, and the gain over the same student without KD. What is measured is the
slope of the gain over cells, in points for one standard deviation of the divergence within the
stratum: divergences of different data sets are not comparable, and are never compared.

Strata are shown, not judged: they share controls, seeds and divergences. All those of a data set
are made one effect first, and the verdict is on the mean over data sets, apart for
each thing that moves the divergence. It needs five real data sets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report import gates
from ntdh_bench.report.cells import in_words, told_apart
from ntdh_bench.report.effects import (
    INCONCLUSIVE,
    MARGIN,
    MIN_SETS,
    Decision,
    Effect,
    Pooled,
    average,
    cell_slopes,
    decide,
    pool,
    sides,
)
from ntdh_bench.report.gates import Gate, untouched
from ntdh_bench.report.pairing import Controls, split
from ntdh_bench.report.statistics import Array

MIN_SEEDS = 3  # of a stratum that counts in a summary: a smoke test says too little
QUANTITIES = ("ncjsd", "tcjsd", "difference", "partial")
REFERENCE = "tcjsd"  # the hypothesis says nothing of it alone

TEACHERS, RANDOM_MASKS = "teachers", "random masks"
# What sets a stratum apart, aside from what moves the divergence, and what tells cells apart.
_STRATUM = ("dataset", "method", "source", "protocol", "objective_hash")
_CELL = ("pair_hash", "mask_hash")
_CHANGE = ("mask", "removes", "ratio", "draw", "intervention", "dose")
_WHERE = ("layer", "fill", "saliency")
_MEASURED = ("gain", "ncjsd", "tcjsd", "teacher_score")
_EQUAL_TASK = "gain_over_equal_task"  # shown beside it: within a mask's cells their slopes are one
_VARIES = 1e-6  # nats, or a share: what differs less is equal but for rounding

Key: TypeAlias = tuple[object, ...]
# The key of a stratum: that of its objective, and of what moves the divergence.
Pair: TypeAlias = tuple[Key, Key]
Group = TypeVar("Group", bound=Key)
Cells: TypeAlias = Mapping[Key, Mapping[int, Mapping[str, float]]]  # cell -> seed -> measured


@dataclass(frozen=True)
class Stratum:
    """Cells of one data set, protocol and objective, moved in one way, and their slopes.

    Attributes:
        label: data set, method and protocol, what moves the divergence, and what else sets the
            stratum apart.
        moved: what moves the divergence: ``teachers``, ``random masks``, ``feature masks``,
            ``sample masks``, or the class of an intervention.
        cells: their number.
        unclear: cells left out, as two runs of one seed in them cannot be told apart.
        seeds: number of distinct seeds.
        split: ``val``, or ``test`` where there is no validation split: of the divergences.
        ncjsd: slope of the gain in NCJSD. The hypothesis says negative.
        tcjsd: in TCJSD.
        difference: slope in NCJSD less that in TCJSD, each given the other and the teacher's
            accuracy; negative if NCJSD decides.
        partial: in NCJSD, given TCJSD and the accuracy of the teacher as distilled, which alone is
            measured too roughly to be held constant.
        gates: what is known of its assumptions and convergence.

    A slope is None with too few cells or seeds, or where one side does not vary by itself.
    """

    label: str
    dataset: str
    method: str
    source: str
    protocol: str
    moved: str
    cells: int
    unclear: int
    seeds: int
    split: str
    ncjsd: Effect | None
    tcjsd: Effect | None
    difference: Effect | None
    partial: Effect | None
    gates: tuple[Gate, ...]

    @property
    def counts(self) -> bool:
        """Whether it counts in a summary: enough seeds, of students not known to learn on."""
        return self.seeds >= MIN_SEEDS and self._gate("converged") is not False

    @property
    def within(self) -> bool:
        """Whether it is known to lie within both assumptions of the hypothesis."""
        return bool(self._gate("capacity") and self._gate("strength"))

    def _gate(self, name: str) -> bool | None:
        return next((gate.passed for gate in self.gates if gate.name == name), None)


@dataclass(frozen=True)
class Summary:
    """One slope over the data sets of a source, the divergence moved in one way.

    Attributes:
        quantity: one of :data:`QUANTITIES`.
        source: ``real`` or ``simulated``.
        moved: what moves the divergence.
        strata: how many there are in all data sets.
        sets: the effect in each data set, by name: its strata made one value.
        pooled: their mean; None with one data set.
        within: that over the data sets within both assumptions; None with fewer than two.
        decision: on the claim "below 0", corrected for all such claims; None with fewer than five
            data sets, on simulated data, and for ``tcjsd``.
    """

    quantity: str
    source: str
    moved: str
    strata: int
    sets: Mapping[str, Effect]
    pooled: Pooled | None
    within: Pooled | None
    decision: Decision | None = None

    @property
    def verdict(self) -> str:
        """The verdict; nothing is said of ``tcjsd``."""
        if self.decision is None:
            return "reference" if self.quantity == REFERENCE else INCONCLUSIVE
        return self.decision.verdict


@dataclass(frozen=True)
class Point:
    """A cell of a stratum: means over seeds.

    Attributes:
        stratum: label of its stratum.
        cell: what it is, such as ``gap 0.5, most_divergent 0.25 of input``.
        ncjsd: before distillation, in nats.
        tcjsd: before distillation, in nats.
        gain: over w/o KD, in points of accuracy, or of mIoU.
        gain_over_equal_task: over the control of the run's own task weight, if it is there.
        teacher_accuracy: of the teacher as distilled, per cent, or its mIoU.
        seeds: their number.
    """

    stratum: str
    dataset: str
    method: str
    source: str
    protocol: str
    moved: str
    cell: str
    ncjsd: float
    tcjsd: float
    gain: float
    gain_over_equal_task: float | None
    teacher_accuracy: float
    seeds: int


@dataclass(frozen=True)
class Hypothesis:
    """The whole test: strata, summaries over data sets, and the cells as points."""

    strata: list[Stratum]
    summaries: list[Summary]
    points: list[Point]


def test_hypothesis(rows: Sequence[Row]) -> Hypothesis:
    """Test on all strata of ``rows``; runs that several experiments share count once.

    An objective that was tried in one cell alone is none.
    """
    unique = list({row["run"]: row for row in rows}.values())
    controls = Controls(unique)
    alone = by_key((row for row in unique if row["arm"] == "without_kd"), _setting)
    members = _members([row for row in unique if row["arm"] == "kd" and _is_tested(row)])
    found = {key: _cells(own, controls) for key, own in members.items()}
    # One cell has nothing to go with.
    kept = {
        key: members[key] for key, (cells, unclear) in found.items() if unclear or len(cells) > 1
    }
    labels = _labels(kept)
    strata, points = [], []
    for key, own in kept.items():
        cells, unclear = found[key]
        without = [row for setting in by_key(own, _setting) for row in alone.get(setting, ())]
        stratum = _stratum(own, without, cells, unclear, labels[key], str(key[1][0]))
        strata.append(stratum)
        points += _points(stratum, cells, own)
    return Hypothesis(strata, _summaries(strata), points)


def _is_tested(row: Row) -> bool:
    """Return whether a row is of one modality that teaches another, with the objective of KD.

    Weight adjustment (Fig. 6-7) changes the objective, not the divergence; (1, 1) is KD. A teacher
    that sees the student's modality as well differs less from it because of that.
    """
    return bool(row["method"] != "WeightedKL" and row["teacher_inputs"] != "both")


# -- strata --------------------------------------------------------------------------------------


def _members(rows: Iterable[Row]) -> dict[Pair, list[Row]]:
    """Return the rows of every stratum.

    Teachers are compared where they teach one student: one good by chance without KD gains less,
    and diverges less as well. The teacher as it is stands beside those that are changed; but random
    masks are draws of one kind, of which it is none.
    """
    found: dict[Pair, list[Row]] = {}
    for objective, own in by_key(rows, lambda row: _values(row, _STRATUM)).items():
        plain = [row for row in own if untouched(row)]
        for student, alike in _by_student(plain).items():
            found[objective, (TEACHERS, student)] = alike
        touched = by_key((row for row in own if not untouched(row)), _moved)
        for (name, pair, *where), changed in touched.items():
            alike = [row for row in plain if row["pair_hash"] == pair and name != RANDOM_MASKS]
            found[objective, (name, pair, *where)] = alike + changed
    return found


def _by_student(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Return rows by the student that is taught: without KD it is the same, seed by seed."""
    last = {row["pair_hash"]: row for row in sorted(rows, key=lambda row: int(row["seed"]))}
    students = {pair: (row["seed"], row["baseline_hash"]) for pair, row in last.items()}
    return by_key(rows, lambda row: students[row["pair_hash"]])


def _moved(row: Row) -> Key:
    """Return what moves the divergence of a row whose teacher is changed, and where it does so."""
    name = row["intervention"]
    if not name:
        drawn = row["removes"] == "random" and row["draw"]  # 0: the one beside T and F
        name = RANDOM_MASKS if drawn else f"{row['mask']} masks"
    where = (row[column] for column in _WHERE)
    return (name, row["pair_hash"], *where)


def _stratum(
    rows: Sequence[Row], without: Sequence[Row], cells: Cells, unclear: int, label: str, moved: str
) -> Stratum:
    first = rows[0]
    return Stratum(
        label=label,
        dataset=first["dataset"],
        method=first["method"],
        source=first["source"],
        protocol=first["protocol"],
        moved=moved,
        cells=len(cells),
        unclear=unclear,
        seeds=len(_seeds(cells)),
        split=split(first),
        **_slopes(cells),
        gates=(gates.capacity(rows), gates.strength(without), gates.converged(without)),
    )


def _labels(strata: Mapping[Pair, Sequence[Row]]) -> dict[Pair, str]:
    """Name strata by data set, method and protocol, and by what tells each from its like."""
    of_objective: dict[Key, list[Row]] = defaultdict(list)
    for (objective, _), rows in strata.items():
        of_objective[objective] += rows
    heads = {key: f"{key[0]} {key[1]}, {key[3]}" for key in of_objective}
    named = _told(of_objective, heads, lambda key: f"objective {key[-1]}")
    heads_of = {key: f"{named[key[0]]}, {key[1][0]}" for key in strata}
    changed = {k: [r for r in rows if not untouched(r)] or rows for k, rows in strata.items()}
    return _told(changed, heads_of, lambda key: f"{key[1][1]}")


def _told(
    groups: Mapping[Group, Sequence[Row]],
    heads: Mapping[Group, str],
    otherwise: Callable[[Group], str],
) -> dict[Group, str]:
    """Name groups of rows by their heads, and those of one head by what tells them apart.

    ``otherwise`` names what no setting tells apart.
    """
    labels = {}
    for head in dict.fromkeys(heads.values()):
        alike = [key for key in groups if heads[key] == head]
        told = told_apart([groups[key] for key in alike], leave_out=_CHANGE)
        for key, words in zip(alike, told, strict=True):
            labels[key] = ", ".join([head, *in_words(words)])
    counts = Counter(labels.values())
    return {
        key: f"{label}, {otherwise(key)}" if counts[label] > 1 else label
        for key, label in labels.items()
    }


# -- cells ---------------------------------------------------------------------------------------


def _cells(rows: Iterable[Row], controls: Controls) -> tuple[Cells, int]:
    """Return what each cell measured by seed, where the run and its own control are there.

    Cells that hold two runs of one seed are left out; the second value is their number.
    """
    cells: dict[Key, dict[int, dict[str, float]]] = defaultdict(dict)
    unclear: set[Key] = set()
    for row in rows:
        key = _values(row, _CELL)
        values = {name: controls.before(row, name) for name in _MEASURED[1:]}
        values["gain"] = controls.gain(row)
        values[_EQUAL_TASK] = controls.gain(row, over="equal_task")
        there = {name: value for name, value in values.items() if value is not None}
        if there.keys() >= set(_MEASURED):
            if row["seed"] in cells[key]:
                unclear.add(key)
            cells[key][row["seed"]] = there
    clear = {key: values for key, values in cells.items() if values and key not in unclear}
    return clear, len(unclear)


def _values(row: Row, columns: Iterable[str]) -> Key:
    return tuple(row[name] for name in columns)


def _setting(row: Row) -> Key:
    return _values(row, ("dataset", "source", "protocol", "pair_hash"))


def _seeds(cells: Cells) -> list[int]:
    return sorted({seed for values in cells.values() for seed in values})


def _table(cells: Cells, name: str) -> Array:
    """Return ``(cells, seeds)`` of a measured value, NaN where there is no run."""
    return np.array(
        [
            [values[s][name] if s in values else np.nan for s in _seeds(cells)]
            for values in cells.values()
        ]
    )


def _points(stratum: Stratum, cells: Cells, rows: Sequence[Row]) -> list[Point]:
    firsts = {_values(row, _CELL): row for row in reversed(rows)}
    means = {name: np.nanmean(_table(cells, name), axis=1) for name in _MEASURED if cells}
    told = told_apart([[firsts[key]] for key in cells], leave_out=(*_CHANGE, *_WHERE))
    return [
        Point(
            stratum.label, stratum.dataset, stratum.method, stratum.source, stratum.protocol,
            stratum.moved, ", ".join([*in_words(told[i]), _change_label(firsts[key])]),
            float(means["ncjsd"][i]), float(means["tcjsd"][i]),
            100 * float(means["gain"][i]), _over_equal_task(values.values()),
            100 * float(means["teacher_score"][i]), len(values),
        )
        for i, (key, values) in enumerate(cells.items())
    ]  # fmt: skip


def _over_equal_task(by_seed: Collection[Mapping[str, float]]) -> float | None:
    gains = [values[_EQUAL_TASK] for values in by_seed if _EQUAL_TASK in values]
    return 100 * float(np.mean(gains)) if len(gains) == len(by_seed) else None


def _change_label(row: Row) -> str:
    if row["intervention"]:
        return f"{row['intervention']} {row['dose']:g}"
    layer = f" of {row['layer']}" if row["layer"] else ""
    if not row["mask"]:
        return f"no mask{layer}"
    ratio = "" if row["ratio"] is None else f" {row['ratio']:g}"
    return ", ".join([f"{row['removes'] or row['mask']}{ratio}{layer}", *_mask_details(row)])


def _mask_details(row: Row) -> list[str]:
    """Return what of a mask is not as in the paper, in words."""
    found = [f"fill {row['fill']}"] if row["fill"] not in (None, "zero") else []
    found += ["saliency as printed"] if row["saliency"] == "literal" else []
    return [*found, *([f"draw {row['draw']}"] if row["draw"] else [])]


# -- slopes --------------------------------------------------------------------------------------


def _slopes(cells: Cells) -> dict[str, Effect | None]:
    """Return every quantity of :data:`QUANTITIES`."""
    if not cells:
        return dict.fromkeys(QUANTITIES)
    gain = 100 * _table(cells, "gain")
    n, t, accuracy = (_table(cells, name) for name in _MEASURED[1:])
    return {
        "ncjsd": _slope(gain, [n], [1]),
        "tcjsd": _slope(gain, [t], [1]),
        "difference": _slope(gain, [n, t, accuracy], [1, -1, 0]),
        "partial": _slope(gain, [n, t, accuracy], [1, 0, 0]),
    }


def _slope(gain: Array, predictors: list[Array], contrast: list[int]) -> Effect | None:
    if not all(_varies(predictor) for predictor in predictors):
        return None
    found = cell_slopes(gain, np.stack(predictors), [contrast])
    return found[0] if found else None


def _varies(predictor: Array) -> bool:
    """Return whether a predictor differs over cells: what is left alone by design does not."""
    return bool(np.nanmax(np.abs(predictor - np.nanmean(predictor, axis=0))) > _VARIES)


# -- summaries over data sets --------------------------------------------------------------------


def _summaries(strata: Sequence[Stratum]) -> list[Summary]:
    counted = [stratum for stratum in strata if stratum.counts]
    kinds = by_key(counted, lambda stratum: (stratum.source, stratum.moved))
    every = [
        summary
        for (source, moved), own in sorted(kinds.items())
        for quantity in QUANTITIES
        if (summary := _summary(quantity, source, moved, own))
    ]
    # Data sets that are all alike have no mean to judge.
    judged = [(s, pooled) for s in every if _is_judged(s) and (pooled := s.pooled)]
    claims = [sides(pooled, MARGIN, -1) for _, pooled in judged]
    decisions = dict(zip((id(summary) for summary, _ in judged), decide(claims), strict=True))
    return [replace(summary, decision=decisions.get(id(summary))) for summary in every]


def _is_judged(summary: Summary) -> bool:
    enough = len(summary.sets) >= MIN_SETS and summary.source == "real"
    return enough and summary.quantity != REFERENCE


def _summary(quantity: str, source: str, moved: str, strata: Sequence[Stratum]) -> Summary | None:
    """Summarise a quantity over the data sets of some strata; None if no stratum has it."""
    having = [stratum for stratum in strata if getattr(stratum, quantity)]
    if not having:
        return None
    sets = _by_set(quantity, having)
    within = _by_set(quantity, [stratum for stratum in having if stratum.within])
    return Summary(
        quantity, source, moved, len(having), sets,
        pool(list(sets.values())), pool(list(within.values())),
    )  # fmt: skip


def _by_set(quantity: str, strata: Sequence[Stratum]) -> dict[str, Effect]:
    """Return the effect in each data set: all its strata made one."""
    own = by_key(strata, lambda stratum: stratum.dataset)
    return {name: average([getattr(s, quantity) for s in own[name]]) for name in sorted(own)}
