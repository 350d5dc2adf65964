"""An experiment over several data sets at a glance: a line a cell, a column a protocol, ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from ntdh_bench.experiments import TRIAL
from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report.cells import value_of, varying
from ntdh_bench.report.figures import draw_ranks
from ntdh_bench.report.gains import remarks, shown_gains
from ntdh_bench.report.layouts import estimate, quantity, score_name, shown
from ntdh_bench.report.ranks import (
    FEWEST_METHODS,
    FEWEST_SETS,
    LEVEL,
    Ranking,
    p_signed_ranks,
    rank,
)
from ntdh_bench.report.statistics import Estimate, holm, mean_ci
from ntdh_bench.report.tables import RATIO, Cell, Column, Line, Table, Unit, mark_best

_SCORE = "last_test_score"
_P = Unit("", digits=3)


class Overview(NamedTuple):
    """What is shown of all protocols of an experiment together.

    Attributes:
        tables: their numbers.
        drawings: SVG elements.
        notes: what was compared and what not, and what that can tell; a paragraph each.
    """

    tables: list[Table]
    drawings: list[str]
    notes: tuple[str, ...]


class _Grid(NamedTuple):
    """Rows of an experiment whose cells lie along one axis.

    Attributes:
        axis: its name.
        rows: method, which is the label on it, to protocol to rows.
        sets: data set to protocols.
    """

    axis: str
    rows: dict[str, dict[str, list[Row]]]
    sets: dict[str, list[str]]


def overview(rows: Sequence[Row], name: str) -> Overview | None:
    """Return the overview of an experiment on several data sets, whose cells lie along one axis.

    Args:
        rows: of one source, of all protocols; those of trials do not count.
        name: of the drawing, unique on a page.

    Returns:
        None for another experiment.

    Raises:
        MixedRuns: a seed has several runs in one cell.
    """
    tested = [row for row in rows if row["protocol"] != TRIAL]
    grid, gains = _grid(tested), shown_gains(tested)
    if grid is None:
        return None
    score = mark_best(_by_protocol(grid, _SCORE, quantity(_SCORE).name))
    by_gain = [_by_protocol(grid, column, name) for column, name in gains.items()]
    tables = [score, *(table for table in by_gain if table.lines)]
    methods, sets, left_out = _block(grid)
    said = tuple(filter(None, (left_out, remarks(tested))))
    if len(sets) < 2 or len(methods) < 2:
        return Overview(tables, [], said)
    ranking = rank({name: _scores(grid, methods, name) for name in sets})
    notes = (_compared(ranking), *said, *_tested(ranking))
    tables.append(_over_sets(grid, ranking, gains))
    return Overview(tables, [draw_ranks(ranking, name)], notes)


def _grid(rows: Sequence[Row]) -> _Grid | None:
    axes = [axis for axis in varying(rows) if axis != "experiment"]
    sets = by_key(rows, lambda row: str(row["dataset"]))
    if len(axes) != 1 or len(sets) < 2:
        return None
    labelled = [row for row in rows if value_of(row, axes[0]) is not None]
    by_label = by_key(labelled, lambda row: shown(value_of(row, axes[0])))
    found = {label: by_key(own, _protocol) for label, own in by_label.items()}
    return _Grid(axes[0], found, {name: list(by_key(own, _protocol)) for name, own in sets.items()})


def _protocol(row: Row) -> str:
    return str(row["protocol"])


# -- which are compared --------------------------------------------------------------------------


def _block(grid: _Grid) -> tuple[list[str], list[str], str]:
    """Return methods and data sets, such that every one of these has all of those.

    Methods on no more than half of the data sets are left out, then data sets that lack a method;
    the last value says so.
    """
    has = {m: [name for name in grid.sets if _seeds(grid, [m], name)] for m in grid.rows}
    total = len(grid.sets)
    methods = [method for method, there in has.items() if len(there) > total / 2]
    lacking = {
        name: [method for method in methods if name not in has[method]]
        or (["a seed that all have"] if not _seeds(grid, methods, name) else [])
        for name in grid.sets
    }
    rare = [f"{m} (on {len(has[m])} of {total} data sets)" for m in has if m not in methods]
    lame = [f"{name} (lacks {', '.join(what)})" for name, what in lacking.items() if what]
    left_out = f"Left out of the ranks: {'; '.join([*rare, *lame])}." if rare or lame else ""
    return methods, [name for name, what in lacking.items() if not what], left_out


def _seeds(grid: _Grid, methods: Iterable[str], name: str) -> set[tuple[str, int]]:
    """Return protocol and seed of what methods all have; nothing if a protocol has no such seed."""
    found: set[tuple[str, int]] = set()
    for protocol in grid.sets[name]:
        there = [_scored(grid.rows[method].get(protocol, ())) for method in methods]
        common = set.intersection(*there) if there else set()
        if not common:
            return set()
        found |= {(protocol, seed) for seed in common}
    return found


def _scored(rows: Iterable[Row]) -> set[int]:
    return {row["seed"] for row in rows if row[_SCORE] is not None}


def _scores(grid: _Grid, methods: Sequence[str], name: str) -> dict[str, float]:
    """Return the score of each method on a data set: over its protocols, over seeds of all."""
    common = _seeds(grid, methods, name)

    def mean(method: str, protocol: str) -> float:
        rows = grid.rows[method][protocol]
        return fmean(row[_SCORE] for row in rows if (protocol, row["seed"]) in common)

    return {method: fmean(mean(method, p) for p in grid.sets[name]) for method in methods}


# -- tables --------------------------------------------------------------------------------------


def _by_protocol(grid: _Grid, column: str, name: str) -> Table:
    """Return a line a method and a column a protocol, those that have a number."""
    found = {
        method: {protocol: e for protocol, rows in own.items() if (e := estimate(rows, column))}
        for method, own in grid.rows.items()
    }
    there = [p for own in grid.sets.values() for p in own if any(p in e for e in found.values())]
    unit = quantity(column).unit
    lines = [
        Line((method,), tuple(Cell(own[p], unit) if p in own else None for p in there))
        for method, own in found.items()
        if own
    ]
    every = [row for own in grid.rows.values() for rows in own.values() for row in rows]
    title = f"{name.format(score=score_name(every))} ({unit.symbol})"
    title = f"{title[0].upper()}{title[1:]}"
    return Table(title, (grid.axis,), tuple(map(Column, there)), tuple(lines), sortable=True)


def _over_sets(grid: _Grid, ranking: Ranking, shown_as: Mapping[str, str]) -> Table:
    """Return a line a method, best first: its mean rank, and its mean gains over data sets."""
    columns, found = [Column("mean rank")], [_mean_ranks(ranking)]
    for column, name in shown_as.items():
        gains = {method: _gains(grid, method, ranking.sets, column) for method in ranking.methods}
        if any(gains.values()):
            unit = quantity(column).unit
            columns.append(Column(unit.symbol, name))
            found.append({m: Cell(mean_ci(g), unit) if g else None for m, g in gains.items()})
            if p := _p_values(gains):
                columns.append(Column("p, Holm", name))
                found.append(p)
    lines = tuple(Line((m,), tuple(cells.get(m) for cells in found)) for m in ranking.methods)
    return Table(
        "Over data sets", (grid.axis,), tuple(columns), lines, sortable=True, of="data sets"
    )


def _mean_ranks(ranking: Ranking) -> dict[str, Cell | None]:
    sets = len(ranking.sets)
    pairs = zip(ranking.methods, ranking.ranks, strict=True)
    return {method: Cell(Estimate(place, None, None, sets), RATIO) for method, place in pairs}


def _gains(grid: _Grid, method: str, sets: Iterable[str], column: str) -> list[float]:
    """Return a gain a data set that has one: the mean over its protocols, over seeds."""
    found = []
    for name in sets:
        own = [estimate(grid.rows[method].get(p, ()), column) for p in grid.sets[name]]
        if all(own):
            found.append(fmean(e.mean for e in own if e))
    return found


def _p_values(gains: Mapping[str, Sequence[float]]) -> dict[str, Cell | None]:
    """Return the p of each method's gains over data sets, corrected for the number of methods."""
    tested = {m: p for m, g in gains.items() if (p := p_signed_ranks(g)) is not None}
    corrected = zip(tested, holm(list(tested.values())), strict=True)
    return {m: Cell(Estimate(p, None, None, len(gains[m])), _P) for m, p in corrected}


# -- words ---------------------------------------------------------------------------------------


def _compared(ranking: Ranking) -> str:
    return (
        f"Ranked are {len(ranking.methods)} methods over {len(ranking.sets)} data sets "
        f"({', '.join(ranking.sets)}), by the mean score over the seeds that all of them have on a "
        "data set. 1 is best, and methods that tie share their mean rank."
    )


def _tested(ranking: Ranking) -> tuple[str, ...]:
    """Say what Friedman's and Nemenyi's tests find, and what they can tell."""
    methods, sets, apart = len(ranking.methods), len(ranking.sets), ranking.difference
    if ranking.statistic is None or ranking.p is None or apart is None:
        return (
            f"Nothing is tested: Friedman's test is done from {FEWEST_SETS} data sets and "
            f"{FEWEST_METHODS} methods on.",
        )
    p = "p < 0.001" if ranking.p < 0.001 else f"p = {ranking.p:.3f}"
    finding = (
        f"some methods differ. Nemenyi's critical difference at 5 % is {apart:.2f}: bars join "
        "methods whose mean ranks lie nearer to each other than that."
        if ranking.p < LEVEL
        else "no method is shown to differ from another, so nothing is concluded of any two."
    )
    return (
        f"Friedman's test: χ²({methods - 1}) = {ranking.statistic:.2f}, {p}: {finding}",
        "The unit is the data set, of which another one might rank the methods differently: the "
        "test says whether methods differ over data sets such as these, not by how much, and "
        f"nothing of one data set. With {sets} data sets and {methods} methods it tells mean ranks "
        f"apart that differ by {apart:.2f} or more: methods that differ less may yet not be alike. "
        "That threshold grows with the number of methods that are compared. The p beside a gain "
        "answers another question, whether one method gains at all: it is that of Wilcoxon's "
        "signed-rank test over data sets, corrected for the number of methods (Holm).",
    )
