"""The hypothesis test: does a smaller non-target divergence go with a larger gain from KD?

A stratum is a data set, method, source and protocol. Its cells differ in what moves the divergence
(gap, teacher, mask); each has the divergence between the (masked) teacher and the student *before*
distillation, since distilling itself lowers it, and the gain over the same student without KD. Both
are averaged over seeds, and rank correlations run over the cells. Intervals come from resampling
whole seeds, the same resamples for every statistic of a stratum: they hold training noise, not the
choice of cells. The summary over strata treats them as independent, which strata that share a data
set are not quite.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ntdh_bench.records import Row
from ntdh_bench.report.pairing import Controls, split
from ntdh_bench.report.statistics import (
    Array,
    partial_spearman,
    random_effects,
    resampled_means,
    seed_counts,
    spearman,
)

MIN_CELLS = 4  # the variance of a rank correlation, 1.06 / (cells - 3), needs as many
MIN_SEEDS = 2
SUMMARY_SEEDS = 3  # a stratum of two seeds, such as a smoke test's, says too little for a summary
QUANTITIES = ("ncjsd", "tcjsd", "difference", "partial")

SUPPORTS, CONTRADICTS, INCONCLUSIVE, TOO_FEW = (
    "supports", "contradicts", "inconclusive", "too few",
)  # fmt: skip
REFERENCE = "reference"

# What sets a stratum apart: the task, the student and the objective.
_STRATUM = (
    "dataset", "method", "source", "protocol", "classes", "student_noise", "student_parameters",
    "epochs", "task_weight", "distill_weight", "alpha", "beta",
)  # fmt: skip
# What moves the divergence within a stratum.
_MASK = ("mask", "removes", "ratio", "layer")
_CELL = (
    "gap", "teacher_noise", "unimodal", "teacher", "teacher_parameters", "retrain", *_MASK,
)  # fmt: skip
_MEASURED = ("gain", "ncjsd", "tcjsd", "teacher_accuracy")

Key: TypeAlias = tuple[object, ...]
Cells: TypeAlias = Mapping[Key, Mapping[int, Mapping[str, float]]]  # cell -> seed -> measured


@dataclass(frozen=True)
class Correlation:
    """A rank correlation in [-1, 1], or a difference of two, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Stratum:
    """A data set, method, source and protocol, and the correlations over its cells.

    Attributes:
        label: data set, method and protocol, and what else sets the stratum apart.
        cells: number of cells, each averaged over seeds.
        seeds: number of distinct seeds.
        split: ``val``, or ``test`` where there is no validation split: of the divergences.
        ncjsd: rho(NCJSD before distillation, gain). The hypothesis says negative.
        tcjsd: rho(TCJSD before distillation, gain).
        difference: rho(NCJSD) - rho(TCJSD), on the same resamples; negative if NCJSD decides.
        partial: rho(NCJSD, gain) given the (masked) teacher's accuracy.
        verdict: on ``ncjsd``: ``supports``, ``contradicts``, ``inconclusive`` or ``too few``.

    A correlation is None with too few cells or seeds, or where one side does not vary.
    """

    label: str
    dataset: str
    method: str
    source: str
    protocol: str
    cells: int
    seeds: int
    split: str
    ncjsd: Correlation | None
    tcjsd: Correlation | None
    difference: Correlation | None
    partial: Correlation | None
    verdict: str


@dataclass(frozen=True)
class Summary:
    """A random-effects summary of one correlation over the strata of a source.

    Attributes:
        quantity: one of :data:`QUANTITIES`.
        source: ``real`` or ``simulated``.
        strata: their number.
        datasets: how many data sets they come from; strata of one data set share its runs.
        value: mean over strata, in [-1, 1] (a difference: in [-2, 2]).
        low: lower end of its 95 % interval; None with one stratum.
        high: upper end.
        p: two-sided; None with one stratum.
        between: standard deviation of the true values between strata (correlations: Fisher's z).
        verdict: as for a stratum; ``reference`` for ``tcjsd``, which the hypothesis leaves open.
    """

    quantity: str
    source: str
    strata: int
    datasets: int
    value: float
    low: float | None
    high: float | None
    p: float | None
    between: float
    verdict: str


@dataclass(frozen=True)
class Point:
    """A cell of a stratum for the descriptive scatter: means over seeds.

    Attributes:
        stratum: label of its stratum.
        cell: what it is, such as ``gap 0.5, most_divergent 0.25 of input``.
        ncjsd: before distillation, in nats.
        tcjsd: before distillation, in nats.
        gain: in accuracy points.
        teacher_accuracy: of the (masked) teacher, per cent.
        seeds: their number.
    """

    stratum: str
    dataset: str
    method: str
    source: str
    protocol: str
    cell: str
    ncjsd: float
    tcjsd: float
    gain: float
    teacher_accuracy: float
    seeds: int


@dataclass(frozen=True)
class Hypothesis:
    """The whole test: strata, summaries over them, and the cells as points."""

    strata: list[Stratum]
    summaries: list[Summary]
    points: list[Point]


def test_hypothesis(rows: Sequence[Row]) -> Hypothesis:
    """Test on all strata of ``rows``; runs that several experiments share count once."""
    unique = list({row["run"]: row for row in rows}.values())
    controls = Controls(unique)
    by_stratum: dict[Key, list[Row]] = defaultdict(list)
    for row in unique:
        if row["arm"] == "kd" and _keeps_objective(row):
            by_stratum[tuple(row[column] for column in _STRATUM)].append(row)
    strata, points = [], []
    for members in by_stratum.values():
        if cells := _cells(members, controls):
            strata.append(_stratum(members, cells, _label(members[0], by_stratum)))
            points += _points(strata[-1], cells)
    return Hypothesis(strata, _summaries(strata), points)


def _keeps_objective(row: Row) -> bool:
    """Weight adjustment (Fig. 6-7) changes the objective, not the divergence: it is left out."""
    return bool(row["method"] != "WeightedKL" or row["alpha"] == row["beta"] == 1)


def _label(row: Row, strata: Iterable[Key]) -> str:
    """Name a stratum by data set, method and protocol, and by what tells it from its like."""
    alike = [key for key in strata if key[:4] == tuple(row[name] for name in _STRATUM[:4])]
    told = [_coordinate(name, row[name]) for name in _varying(_STRATUM, alike)]
    return ", ".join([f"{row['dataset']} {row['method']}, {row['protocol']}", *told])


def _varying(columns: Sequence[str], keys: Iterable[Key]) -> list[str]:
    """Return the columns in which keys differ."""
    values = zip(*keys, strict=True)
    return [name for name, found in zip(columns, values, strict=True) if len(set(found)) > 1]


# -- cells ---------------------------------------------------------------------------------------


def _cells(rows: Iterable[Row], controls: Controls) -> Cells:
    """Return what each cell measured by seed, where the run and its own control are there.

    Cells that hold two runs of one seed are left out: their columns cannot tell them apart.
    """
    cells: dict[Key, dict[int, dict[str, float]]] = defaultdict(dict)
    unclear: set[Key] = set()
    for row in rows:
        key = tuple(row[column] for column in _CELL)
        if row["seed"] in cells[key]:
            unclear.add(key)
        values = {name: controls.before(row, name) for name in _MEASURED[1:]}
        values["gain"] = controls.gain(row)
        there = {name: value for name, value in values.items() if value is not None}
        if len(there) == len(_MEASURED):
            cells[key][row["seed"]] = there
    return {key: values for key, values in cells.items() if values and key not in unclear}


def _seeds(cells: Cells) -> list[int]:
    return sorted({seed for values in cells.values() for seed in values})


def _table(cells: Cells, name: str) -> Array:
    """Return ``(cells, seeds)`` of a measured value, NaN where there is no run."""
    seeds = _seeds(cells)
    return np.array(
        [[values[s][name] if s in values else np.nan for s in seeds] for values in cells.values()]
    )


def _points(stratum: Stratum, cells: Cells) -> list[Point]:
    means = {name: np.nanmean(_table(cells, name), axis=1) for name in _MEASURED}
    return [
        Point(
            stratum.label, stratum.dataset, stratum.method, stratum.source, stratum.protocol,
            _cell_label(key, cells), float(means["ncjsd"][i]), float(means["tcjsd"][i]),
            100 * float(means["gain"][i]), 100 * float(means["teacher_accuracy"][i]), len(values),
        )
        for i, (key, values) in enumerate(cells.items())
    ]  # fmt: skip


def _cell_label(key: Key, cells: Cells) -> str:
    """Name a cell by what varies within the stratum, and by its mask."""
    cell = dict(zip(_CELL, key, strict=True))
    parts = [
        _coordinate(name, cell[name])
        for name in _varying(_CELL, cells)
        if name not in _MASK and cell[name] not in (None, False)
    ]
    mask = f"{cell['removes']} {cell['ratio']:g}" if cell["mask"] else "no mask"
    parts.append(f"{mask} of {cell['layer']}" if cell["layer"] else mask)
    return ", ".join(parts)


def _coordinate(name: str, value: object) -> str:
    """Return a column and its value in words: ``gap 0.5``, ``unimodal``, ``teacher joint``."""
    words = name.replace("_", " ")
    if value is True:
        return words
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


# -- correlations --------------------------------------------------------------------------------


def _stratum(rows: Sequence[Row], cells: Cells, label: str) -> Stratum:
    first, seeds = rows[0], _seeds(cells)
    found: dict[str, Correlation | None] = dict.fromkeys(QUANTITIES)
    enough = len(cells) >= MIN_CELLS and len(seeds) >= MIN_SEEDS
    if enough:
        found = _correlations(cells)
    rho = found["ncjsd"]
    untested = INCONCLUSIVE if enough else TOO_FEW
    return Stratum(
        label=label,
        dataset=first["dataset"],
        method=first["method"],
        source=first["source"],
        protocol=first["protocol"],
        cells=len(cells),
        seeds=len(seeds),
        split=split(first),
        ncjsd=rho,
        tcjsd=found["tcjsd"],
        difference=found["difference"],
        partial=found["partial"],
        verdict=_verdict(rho.low, rho.high) if rho else untested,
    )


def _correlations(cells: Cells) -> dict[str, Correlation | None]:
    """Return every quantity with its percentile interval over resamples of whole seeds.

    Resamples in which a cell has no run, or in which the quantity is not defined, are left out.
    """
    counts = seed_counts(len(_seeds(cells)))
    means = {name: resampled_means(_table(cells, name), counts) for name in _MEASURED}
    whole = ~np.isnan(means["gain"]).any(axis=1)
    gain, ncjsd, tcjsd, accuracy = (
        means[name][whole] for name in ("gain", "ncjsd", "tcjsd", "teacher_accuracy")
    )
    n, t = spearman(ncjsd, gain), spearman(tcjsd, gain)
    partial = partial_spearman(ncjsd, gain, accuracy)
    samples = {"ncjsd": n, "tcjsd": t, "difference": n - t, "partial": partial}
    return {name: _interval(values) for name, values in samples.items()}


def _interval(values: Array) -> Correlation | None:
    """Return the sample's own value (the first) with the percentiles of the resamples."""
    resampled = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not resampled.size:
        return None
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Correlation(float(values[0]), float(low), float(high))


def _verdict(low: float | None, high: float | None) -> str:
    if high is not None and high < 0:
        return SUPPORTS
    return CONTRADICTS if low is not None and low > 0 else INCONCLUSIVE


# -- summary over strata -------------------------------------------------------------------------


def _summaries(strata: Sequence[Stratum]) -> list[Summary]:
    sources = sorted({stratum.source for stratum in strata})
    found = (summarise(quantity, strata, source) for source in sources for quantity in QUANTITIES)
    return [summary for summary in found if summary is not None]


def summarise(quantity: str, strata: Iterable[Stratum], source: str) -> Summary | None:
    """Summarise a quantity over the strata of a source; None if none of them has it.

    Correlations are averaged as Fisher's z, differences as they are. A stratum's variance is that
    of a rank correlation over its cells, 1.06 / (cells - 3) (Fieller et al. 1957). Strata of fewer
    than three seeds are left out.
    """
    there = [s for s in strata if s.source == source and s.seeds >= SUMMARY_SEEDS]
    there = [stratum for stratum in there if getattr(stratum, quantity) is not None]
    if not there:
        return None
    values = [getattr(stratum, quantity).value for stratum in there]
    if quantity != "difference":
        values = [_fisher_z(rho, s.cells) for rho, s in zip(values, there, strict=True)]
    mean = random_effects(values, [1.06 / (stratum.cells - 3) for stratum in there])
    value, low, high = mean.mean, mean.low, mean.high
    if quantity != "difference":
        value, low, high = math.tanh(value), _tanh(low), _tanh(high)
    verdict = REFERENCE if quantity == "tcjsd" else TOO_FEW if low is None else _verdict(low, high)
    datasets = len({stratum.dataset for stratum in there})
    return Summary(
        quantity, source, mean.n, datasets, value, low, high, mean.p, mean.between, verdict
    )


def _tanh(z: float | None) -> float | None:
    return None if z is None else math.tanh(z)


def _fisher_z(rho: float, cells: int) -> float:
    """Return Fisher's z; a perfect order counts as halfway to the next value below it."""
    largest = 1 - 6 / (cells * (cells**2 - 1))
    return float(np.arctanh(np.clip(rho, -largest, largest)))
