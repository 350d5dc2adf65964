"""Comparisons of cells, one number a seed: the material of the claims ledger.

A contrast is a weighted sum of cells, so that differences, trends and changes of trends are all
the same thing: ``minus(cell(removes="most_divergent"), cell(mask=None))``, or
``trend(lambda gap: cell(gap=gap), GAPS)``. It counts the seeds that have *all* its cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ntdh_bench.records.columns import Row
from ntdh_bench.report.cells import Where, axes, one_run, select, value_of

# What both sides of a comparison have in common, unless it is what is compared.
_CONTEXT = ("experiment", "dataset", "method")

Measure: TypeAlias = Callable[[Row], float | None]
BySeed: TypeAlias = dict[int, float]
Reduction: TypeAlias = Callable[[Sequence[float]], float]
Level = TypeVar("Level")


class Term(NamedTuple):
    """A weighted cell: a measure of the rows that match."""

    weight: float
    measure: Measure
    where: Where


Contrast: TypeAlias = tuple[Term, ...]


def points(column: str) -> Measure:
    """Return a measure: a column of scores in per cent, so that differences are points."""
    return lambda row: None if row[column] is None else 100 * float(row[column])


def column(name: str) -> Measure:
    """Return a measure: a column as it is."""

    def measure(row: Row) -> float | None:
        value = row[name]
        return None if value is None else float(value)

    return measure


SCORE = points("last_test_score")


def cell(measure: Measure = SCORE, **where: Any) -> Contrast:
    """Return the cell of the rows whose columns (or labels on axes) have these values."""
    return (Term(1.0, measure, where),)


def times(factor: float, contrast: Contrast) -> Contrast:
    """Return a contrast scaled."""
    return tuple(term._replace(weight=factor * term.weight) for term in contrast)


def plus(*contrasts: Contrast) -> Contrast:
    """Return a sum of contrasts."""
    return tuple(term for contrast in contrasts for term in contrast)


def minus(a: Contrast, b: Contrast) -> Contrast:
    """Return a - b."""
    return plus(a, times(-1.0, b))


def average(contrasts: Iterable[Contrast]) -> Contrast:
    """Return the mean of contrasts."""
    members = list(contrasts)
    return times(1 / len(members), plus(*members))


def trend(at: Callable[[Level], Contrast], levels: Sequence[Level]) -> Contrast:
    """Return the change from the first to the last level along the line fitted over all levels.

    Levels count as equally spaced, as on the axes of the paper's figures.
    """
    steps = len(levels) - 1
    centred = [index / steps - 0.5 for index in range(len(levels))]
    scale = sum(x * x for x in centred)
    return plus(*(times(x / scale, at(level)) for x, level in zip(centred, levels, strict=True)))


def evaluate(contrast: Contrast, rows: Iterable[Row], over: Reduction | None = None) -> BySeed:
    """Return a contrast's value for every seed that has all its cells.

    Where something that the contrast does not mention tells runs apart (the data set, the gap ...),
    like is compared with like, and the seed's value is the mean over those comparisons, or what
    ``over`` makes of them.

    Raises:
        MixedRuns: neither what the contrast mentions nor their cells tell two runs of a seed apart.
    """
    mentioned = sorted({name for term in contrast for name in term.where})
    candidates = list(rows)
    matching = [select(candidates, term.where) for term in contrast]
    context = _context(mentioned, [row for found in matching for row in found])
    terms = [_values(*pair, context) for pair in zip(contrast, matching, strict=True)]
    common = reduce(set.intersection, (set(values) for values in terms))
    by_seed: dict[int, list[float]] = defaultdict(list)
    for seed, *like in sorted(common, key=repr):
        by_seed[seed].append(sum(values[(seed, *like)] for values in terms))
    return {seed: (over or _mean)(values) for seed, values in sorted(by_seed.items())}


def _context(mentioned: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the columns and axes that a comparison holds equal: those that it does not mention."""
    columns = [name for name in _CONTEXT if name not in mentioned]
    return columns + [axis for axis in axes(rows) if not _is_mentioned(axis, mentioned, rows)]


def _is_mentioned(axis: str, mentioned: Sequence[str], rows: Sequence[Row]) -> bool:
    """Return whether what a contrast mentions says where on an axis a row lies.

    An axis whose labels are those of a column is mentioned with that column. Of any other, the
    mentioned values must leave no choice: as ``removes`` does of an axis ``mask: {T, R, F}``.
    """
    column = axis.rpartition(".")[2]
    labels = [(row["cell"].get(axis), row) for row in rows]
    if all(label is None or _says(row.get(column), label) for label, row in labels):
        return column in mentioned
    found: dict[tuple[Any, ...], Any] = {}
    keys = [tuple(value_of(row, name) for name in mentioned) for row in rows]
    return all(
        found.setdefault(key, label) == label for key, (label, _) in zip(keys, labels, strict=True)
    )


def _says(value: Any, label: str) -> bool:
    """Return whether a label is a column's value, as text."""
    if isinstance(value, float):
        try:
            return float(label) == value
        except ValueError:
            return False
    return str(value) == label


def _values(
    term: Term, rows: Iterable[Row], context: Sequence[str]
) -> dict[tuple[Any, ...], float]:
    """Return the weighted measure of the rows of a term by seed and context."""
    found: dict[tuple[Any, ...], float] = {}
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        value = term.measure(row)
        if value is not None:
            key = (row["seed"], *(value_of(row, name) for name in context))
            one_run(first.setdefault(key, row), row)
            found[key] = term.weight * value
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
