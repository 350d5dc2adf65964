"""The hypothesis test: does a smaller non-target divergence go with a larger gain from KD?

A stratum is a data set, source, protocol and objective: the student, the distiller with all of its
arguments, and how they are trained. Its cells differ in what moves the divergence (the data, such
as their gap, the teacher, the mask); each has the divergence between the (masked) teacher and the
student *before* distillation, since distilling itself lowers it, and the gain over the same student
without KD. Both are averaged over seeds, and rank correlations run over the cells. Intervals come
from resampling whole seeds, the same resamples for every statistic of a stratum: they hold training
noise, not the choice of cells. Strata of one data set share its controls, seeds and divergences, so
the summary first makes one value of them, and only data sets count as independent.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report.cells import in_words, told_apart
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
VERDICT_SEEDS = 5  # as in the claims ledger
VERDICT_DATASETS = 3
QUANTITIES = ("ncjsd", "tcjsd", "difference", "partial")

SUPPORTS, NOT_SPECIFIC, CONTRADICTS, INCONCLUSIVE, TOO_FEW = (
    "supports", "not specific", "contradicts", "inconclusive", "too few",
)  # fmt: skip
REFERENCE = "reference"

# What sets a stratum apart, and what moves the divergence within one.
_STRATUM = ("dataset", "method", "source", "protocol", "objective_hash")
_CELL = ("pair_hash", "mask_hash")
_MASK = ("mask", "removes", "ratio", "layer", "fill", "draw", "saliency")
_MEASURED = ("gain", "ncjsd", "tcjsd", "teacher_score")

Key: TypeAlias = tuple[object, ...]
Cells: TypeAlias = Mapping[Key, Mapping[int, Mapping[str, float]]]  # cell -> seed -> measured
Firsts: TypeAlias = Mapping[Key, Row]  # cell -> one of its rows, whose settings are those of all


@dataclass(frozen=True)
class Correlation:
    """A rank correlation in [-1, 1], or a difference of two, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Family:
    """Cells of a stratum that vary one thing: the masks of one teacher and gap, or the teachers.

    Pooled, families may hide each other's trends. Attributes as those of a stratum.
    """

    label: str
    cells: int
    seeds: int
    ncjsd: Correlation | None
    tcjsd: Correlation | None


@dataclass(frozen=True)
class Stratum:
    """A data set, source, protocol and objective, and the correlations over its cells.

    Attributes:
        label: data set, method and protocol, and what else sets the stratum apart.
        cells: number of cells, each averaged over seeds.
        unclear: cells left out, as two runs of one seed in them cannot be told apart.
        seeds: number of distinct seeds.
        split: ``val``, or ``test`` where there is no validation split: of the divergences.
        ncjsd: rho(NCJSD before distillation, gain). The hypothesis says negative.
        tcjsd: rho(TCJSD before distillation, gain).
        difference: rho(NCJSD) - rho(TCJSD), on the same resamples; negative if NCJSD decides.
        partial: rho(NCJSD, gain) given the (masked) teacher's accuracy.
        verdict: ``supports``: ``ncjsd`` lies wholly below 0, and TCJSD does not predict better;
            ``not specific``: it does, ``difference`` lying wholly above 0; ``contradicts``:
            ``ncjsd`` lies wholly above 0; ``inconclusive``: none of these, or fewer than five
            seeds; ``too few``: cells or seeds for any correlation.
        families: its cells by what they vary, where that is more than one thing; descriptive.

    A correlation is None with too few cells or seeds, or where one side does not vary.
    """

    label: str
    dataset: str
    method: str
    source: str
    protocol: str
    cells: int
    unclear: int
    seeds: int
    split: str
    ncjsd: Correlation | None
    tcjsd: Correlation | None
    difference: Correlation | None
    partial: Correlation | None
    verdict: str
    families: tuple[Family, ...] = ()


@dataclass(frozen=True)
class Summary:
    """A random-effects summary of one correlation over the data sets of a source.

    Attributes:
        quantity: one of :data:`QUANTITIES`.
        source: ``real`` or ``simulated``.
        datasets: their number, which counts; the strata of each were made one value first.
        strata: how many strata they have in all.
        value: mean over data sets, in [-1, 1] (a difference: in [-2, 2]).
        low: lower end of its 95 % interval; None with one data set.
        high: upper end.
        p: two-sided; None with one data set.
        between: standard deviation of the true values between data sets (correlations: Fisher's
            z).
        verdict: as for a stratum, ``too few`` with fewer than three data sets; ``reference`` for
            ``tcjsd``, which the hypothesis leaves open.
    """

    quantity: str
    source: str
    datasets: int
    strata: int
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
        gain: in points of accuracy, or of mIoU.
        teacher_accuracy: of the (masked) teacher, per cent, or its mIoU.
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
    """Test on all strata of ``rows``; runs that several experiments share count once.

    An objective that was tried in one cell alone is none.
    """
    unique = list({row["run"]: row for row in rows}.values())
    controls = Controls(unique)
    own = [row for row in unique if row["arm"] == "kd" and _is_tested(row)]
    by_stratum = by_key(own, lambda row: tuple(row[column] for column in _STRATUM))
    found = {key: _cells(members, controls) for key, members in by_stratum.items()}
    # One cell has nothing to go with.
    kept = {
        key: by_stratum[key] for key, (cells, unclear) in found.items() if unclear or len(cells) > 1
    }
    labels = _labels(kept)
    strata, points = [], []
    for key, members in kept.items():
        cells, unclear = found[key]
        firsts = {_cell_of(row): row for row in reversed(members)}
        stratum = _stratum(members[0], cells, unclear, labels[key], firsts)
        strata.append((stratum, cells))
        points += _points(stratum, cells, firsts)
    return Hypothesis([stratum for stratum, _ in strata], _summaries(strata), points)


def _is_tested(row: Row) -> bool:
    """Return whether a row is of one modality that teaches another, with the objective of KD.

    Weight adjustment (Fig. 6-7) changes the objective, not the divergence; (1, 1) is KD. A teacher
    that sees the student's modality as well differs less from it because of that.
    """
    return bool(row["method"] != "WeightedKL" and row["teacher_inputs"] != "both")


def _labels(strata: Mapping[Key, Sequence[Row]]) -> dict[Key, str]:
    """Name strata by data set, method and protocol, and by what tells each from its like."""
    alike: dict[Key, list[Key]] = defaultdict(list)
    for key in strata:
        alike[key[:-1]].append(key)
    labels = {}
    for (dataset, method, _, protocol), keys in alike.items():
        for key, told in zip(keys, told_apart([strata[key] for key in keys]), strict=True):
            labels[key] = ", ".join([f"{dataset} {method}, {protocol}", *in_words(told)])
    counts = Counter(labels.values())
    return {
        key: f"{label}, objective {key[-1]}" if counts[label] > 1 else label
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
        key = _cell_of(row)
        values = {name: controls.before(row, name) for name in _MEASURED[1:]}
        values["gain"] = controls.gain(row)
        there = {name: value for name, value in values.items() if value is not None}
        if len(there) == len(_MEASURED):
            if row["seed"] in cells[key]:
                unclear.add(key)
            cells[key][row["seed"]] = there
    clear = {key: values for key, values in cells.items() if values and key not in unclear}
    return clear, len(unclear)


def _cell_of(row: Row) -> Key:
    return tuple(row[name] for name in _CELL)


def _seeds(cells: Cells) -> list[int]:
    return sorted({seed for values in cells.values() for seed in values})


def _table(cells: Cells, name: str, seeds: Sequence[int]) -> Array:
    """Return ``(cells, seeds)`` of a measured value, NaN where there is no run."""
    return np.array(
        [[values[s][name] if s in values else np.nan for s in seeds] for values in cells.values()]
    )


def _points(stratum: Stratum, cells: Cells, firsts: Firsts) -> list[Point]:
    seeds = _seeds(cells)
    means = {name: np.nanmean(_table(cells, name, seeds), axis=1) for name in _MEASURED if cells}
    told = told_apart([[firsts[key]] for key in cells], leave_out=_MASK)
    return [
        Point(
            stratum.label, stratum.dataset, stratum.method, stratum.source, stratum.protocol,
            ", ".join([*in_words(told[i]), _mask_label(firsts[key])]),
            float(means["ncjsd"][i]), float(means["tcjsd"][i]),
            100 * float(means["gain"][i]), 100 * float(means["teacher_score"][i]), len(values),
        )
        for i, (key, values) in enumerate(cells.items())
    ]  # fmt: skip


def _mask_label(row: Row) -> str:
    if not row["mask"]:
        return f"no mask of {row['layer']}" if row["layer"] else "no mask"
    ratio = "" if row["ratio"] is None else f" {row['ratio']:g}"
    layer = f" of {row['layer']}" if row["layer"] else ""
    return ", ".join([f"{row['removes'] or row['mask']}{ratio}{layer}", *_mask_details(row)])


def _mask_details(row: Row) -> list[str]:
    """Return what of a mask is not as in the paper, in words."""
    found = [f"fill {row['fill']}"] if row["fill"] not in (None, "zero") else []
    found += ["saliency as printed"] if row["saliency"] == "literal" else []
    return [*found, *([f"draw {row['draw']}"] if row["draw"] else [])]


# -- correlations --------------------------------------------------------------------------------


def _stratum(first: Row, cells: Cells, unclear: int, label: str, firsts: Firsts) -> Stratum:
    found = _correlations(cells)
    return Stratum(
        label=label,
        dataset=first["dataset"],
        method=first["method"],
        source=first["source"],
        protocol=first["protocol"],
        cells=len(cells),
        unclear=unclear,
        seeds=len(_seeds(cells)),
        split=split(first),
        **found,
        verdict=_stratum_verdict(cells, found),
        families=_families(cells, firsts),
    )


def _enough(cells: Cells) -> bool:
    return len(cells) >= MIN_CELLS and len(_seeds(cells)) >= MIN_SEEDS


def _stratum_verdict(cells: Cells, found: Mapping[str, Correlation | None]) -> str:
    if not _enough(cells):
        return TOO_FEW
    rho, difference = found["ncjsd"], found["difference"]
    if rho is None or len(_seeds(cells)) < VERDICT_SEEDS:
        return INCONCLUSIVE
    return _specific(_verdict(rho.low, rho.high), difference.low if difference else None)


def _correlations(cells: Cells) -> dict[str, Correlation | None]:
    """Return every quantity with its percentile interval over resamples of whole seeds."""
    if not _enough(cells):
        return dict.fromkeys(QUANTITIES)
    samples = _resampled(cells, _seeds(cells))
    return {name: _interval(values) for name, values in samples.items()}


def _resampled(cells: Cells, seeds: Sequence[int]) -> dict[str, Array]:
    """Return every quantity ``(R,)`` in the sample itself and in resamples of whole ``seeds``.

    It is NaN in resamples in which a cell has no run, or in which it is not defined.
    """
    counts = seed_counts(len(seeds))
    gain, ncjsd, tcjsd, accuracy = (
        resampled_means(_table(cells, name, seeds), counts) for name in _MEASURED
    )
    whole = ~np.isnan(gain).any(axis=1)
    n, t, partial = (np.full(len(counts), np.nan) for _ in range(3))
    n[whole], t[whole] = spearman(ncjsd[whole], gain[whole]), spearman(tcjsd[whole], gain[whole])
    partial[whole] = partial_spearman(ncjsd[whole], gain[whole], accuracy[whole])
    return {"ncjsd": n, "tcjsd": t, "difference": n - t, "partial": partial}


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


def _specific(verdict: str, difference: float | None) -> str:
    """Qualify a verdict by the lower end of rho(NCJSD) - rho(TCJSD)."""
    better = difference is not None and difference > 0
    return NOT_SPECIFIC if verdict == SUPPORTS and better else verdict


# -- families of cells ---------------------------------------------------------------------------


def _families(cells: Cells, firsts: Firsts) -> tuple[Family, ...]:
    """Return the cells by family; none where there is but one.

    A family is the masks of one kind between one pair of data and teacher, with that pair unmasked;
    the other unmasked cells of a kind of teacher are one, over data and teachers.
    """
    masked = {_masked_family(row): row for key in cells if (row := firsts[key])["mask"]}
    labels = dict(zip(masked, _masked_labels(list(masked.values())), strict=True))
    families: dict[str, dict[Key, Mapping[int, Mapping[str, float]]]] = defaultdict(dict)
    for key in cells:
        row = firsts[key]
        own = [
            label
            for family, label in labels.items()
            if family == _masked_family(row) or (not row["mask"] and family[0] == row["pair_hash"])
        ]
        for label in own or [f"{_teachers(row)}, no mask"]:
            families[label][key] = cells[key]
    if len(families) < 2:
        return ()
    return tuple(_family(label, families[label]) for label in sorted(families))


def _masked_family(row: Row) -> Key:
    return tuple(row[name] for name in ("pair_hash", "mask", "layer", "fill", "saliency"))


def _family(label: str, cells: Cells) -> Family:
    found = _correlations(cells)
    return Family(label, len(cells), len(_seeds(cells)), found["ncjsd"], found["tcjsd"])


def _masked_labels(rows: Sequence[Row]) -> list[str]:
    """Name families of masks, one row each, by teacher, mask and what else tells them apart."""
    told = told_apart([[row] for row in rows], leave_out=(*_MASK, "unimodal", "teacher"))
    labels = []
    for row, words in zip(rows, told, strict=True):
        place = f" of {row['layer']}" if row["layer"] else ""
        details = _mask_details({**row, "draw": None})
        labels.append(
            ", ".join([_teachers(row), *in_words(words), f"{row['mask']} masks{place}", *details])
        )
    return labels


def _teachers(row: Row) -> str:
    kind = f"{row['teacher']} teachers" if row["teacher"] else "teachers"
    return f"unimodal, {kind}" if row["unimodal"] else kind


# -- summary over data sets ----------------------------------------------------------------------


def _summaries(strata: Sequence[tuple[Stratum, Cells]]) -> list[Summary]:
    found = []
    for source in sorted({stratum.source for stratum, _ in strata}):
        by_quantity = {name: summarise(name, strata, source) for name in QUANTITIES}
        rho, difference = by_quantity["ncjsd"], by_quantity["difference"]
        if rho and difference:
            verdict = _specific(rho.verdict, difference.low)
            by_quantity["ncjsd"] = replace(rho, verdict=verdict)
        found += [summary for summary in by_quantity.values() if summary is not None]
    return found


def summarise(
    quantity: str, strata: Iterable[tuple[Stratum, Cells]], source: str
) -> Summary | None:
    """Summarise a quantity over the data sets of a source; None if no stratum has it.

    Correlations are averaged as Fisher's z, differences as they are. Strata of fewer than three
    seeds are left out.
    """
    by_dataset: dict[str, list[Cells]] = defaultdict(list)
    for stratum, cells in strata:
        there = stratum.source == source and getattr(stratum, quantity) is not None
        if there and stratum.seeds >= SUMMARY_SEEDS:
            by_dataset[stratum.dataset].append(cells)
    if not by_dataset:
        return None
    effects = [_dataset_effect(quantity, members) for members in by_dataset.values()]
    means, variances = zip(*effects, strict=True)
    mean = random_effects(means, variances)
    value, low, high = mean.mean, mean.low, mean.high
    if quantity != "difference":
        value, low, high = math.tanh(value), _tanh(low), _tanh(high)
    verdict = _verdict(low, high) if len(effects) >= VERDICT_DATASETS else TOO_FEW
    verdict = REFERENCE if quantity == "tcjsd" else verdict
    number = sum(map(len, by_dataset.values()))
    return Summary(
        quantity, source, mean.n, number, value, low, high, mean.p, mean.between, verdict
    )


def _dataset_effect(quantity: str, strata: Sequence[Cells]) -> tuple[float, float]:
    """Return the mean over a data set's strata (of a correlation: Fisher's z), and its variance.

    The variance is that of the mean itself, every stratum on the same resamples of the data set's
    seeds, so that it does not shrink with the number of methods. A correlation adds the mean over
    strata of a rank correlation's variance over cells, 1.06 / (cells - 3) (Fieller et al. 1957).
    """
    seeds = sorted({seed for cells in strata for seed in _seeds(cells)})
    resampled = [_resampled(cells, seeds)[quantity] for cells in strata]
    # Two values closer than a step of the finest rank correlation cannot be told apart.
    variance = float(min(_step(len(cells)) for cells in strata) ** 2)
    if quantity != "difference":
        resampled = [_fisher_z(r, len(c)) for r, c in zip(resampled, strata, strict=True)]
        variance = float(np.mean([1.06 / (len(cells) - 3) for cells in strata]))
    samples = np.stack(resampled)
    there = ~np.isnan(samples).all(axis=0)
    means = np.nanmean(samples[:, there], axis=0)
    noise = float(means[1:].var()) * len(seeds) / (len(seeds) - 1)  # resamples of n vary by n - 1
    return float(means[0]), variance + noise


def _step(cells: int) -> float:
    """Return the smallest change of a rank correlation over ``cells`` cells."""
    return 6 / (cells * (cells**2 - 1))


def _tanh(z: float | None) -> float | None:
    return None if z is None else math.tanh(z)


def _fisher_z(rho: Array, cells: int) -> Array:
    """Return Fisher's z; a perfect order counts as halfway to the next value below it."""
    largest = 1 - _step(cells)
    z: Array = np.arctanh(np.clip(rho, -largest, largest))
    return z
