"""From rows to tables and panels of a figure: the few layouts that all exhibits are made of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from ntdh_bench.records.columns import Row, by_key, own_metrics
from ntdh_bench.report.cells import Axis, Where, headings, one_run, select, value_of, varying
from ntdh_bench.report.gains import GAINS, lacks_equal_task, remarks, shown_gains
from ntdh_bench.report.statistics import Estimate, mean_ci
from ntdh_bench.report.tables import (
    MILLIONS,
    NATS,
    PERCENT,
    PLAIN,
    POINTS,
    RATIO,
    Cell,
    Column,
    Line,
    Table,
    Unit,
)

Layout = Callable[[Sequence[Row]], list[Table]]

_KEYS = {"arm": "run", "ratio": "share removed", "dataset": "data set"}
MAX_LINES = 6  # of a panel of an experiment, as many as there are colours
MAX_PANELS = 24  # of the figure of an experiment
_NAMES = {
    "most_divergent": "T, most divergent",
    "random": "R, random",
    "least_divergent": "F, least divergent",
    "kd": "KD",
    "without_kd": "w/o KD",
    "equal_task": "equal task",
    "single": "alone",
    "miou": "mIoU",
}


class Quantity(NamedTuple):
    """A measured column: its name in tables, and its unit.

    ``{score}`` in a name stands for what the data at hand are judged by (:func:`score_name`).
    """

    name: str
    unit: Unit


QUANTITIES = {
    "last_test_score": Quantity("{score}", PERCENT),
    "best_test_score": Quantity("{score}, best on validation", PERCENT),
    "last_test_teacher_score": Quantity("teacher's {score}", PERCENT),
    "last_test_tcjsd": Quantity("TCJSD", NATS),
    "last_test_ncjsd": Quantity("NCJSD", NATS),
    "last_test_kl": Quantity("KL", NATS),
    "last_test_tckl_binary": Quantity("TCKL", NATS),
    "last_test_nckl": Quantity("NCKL", NATS),
    "gain": Quantity("gain over w/o KD", POINTS),
    "gain_over_equal_task": Quantity("gain over equal task", POINTS),
    "gain_over_matched": Quantity("gain over matched", POINTS),
    "late_gain": Quantity("late gain", POINTS),
    "ncjsd_before": Quantity("NCJSD before", NATS),
    "tcjsd_before": Quantity("TCJSD before", NATS),
    "kl_bound": Quantity("TCKL + NCKL", NATS),
    "last_test_tckl_size": Quantity("|TCKL| of Eq. 19", NATS),
    "nckl_over_tckl": Quantity("NCKL / TCKL", RATIO),
    "nckl_over_single_tckl": Quantity("NCKL / |TCKL of Eq. 19|", RATIO),
    "classes_less_1": Quantity("C - 1", RATIO),
    "teacher_parameters": Quantity("teacher's parameters", MILLIONS),
    "student_parameters": Quantity("parameters", MILLIONS),
    "parameters": Quantity("parameters", MILLIONS),
    "tcjsd": Quantity("TCJSD", NATS),
    "ncjsd": Quantity("NCJSD", NATS),
}
_SHARES = ("iou_", "point_miou", "completion_")
_LAST = "last_test_"


def quantity(column: str) -> Quantity:
    """Return the name and the unit of a measured column, also of a metric of a user's module."""
    name = column.removeprefix(_LAST)
    unit = PERCENT if name.startswith(_SHARES) else PLAIN
    return QUANTITIES.get(column, Quantity(_literal(name.replace("_", " ")), unit))


def _literal(text: str) -> str:
    """Return text that ``str.format`` leaves as it is."""
    return text.replace("{", "{{").replace("}", "}}")


# -- selecting and averaging ---------------------------------------------------------------------


def values(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Return the rows of every value of a column or axis, in ascending order; None is no value."""
    found = by_key(rows, lambda row: value_of(row, column))
    there = [value for value in found if value is not None]
    return {value: found[value] for value in sorted(there, key=_order)}


def _order(value: Any) -> tuple[bool, float, str]:
    """Order values as numbers, and others after them."""
    try:
        return False, float(value), ""
    except (TypeError, ValueError):
        return True, 0.0, str(value)


def estimate(rows: Iterable[Row], column: str) -> Estimate | None:
    """Return the mean over seeds and its 95 % interval; None if nothing was measured.

    Raises:
        MixedRuns: a seed has several runs, so that a mean would be of different things.
    """
    by_seed: dict[int, Row] = {}
    for row in rows:
        if row.get(column) is not None:
            one_run(by_seed.setdefault(row["seed"], row), row)
    return mean_ci([row[column] for row in by_seed.values()])


def table_cell(rows: Iterable[Row], column: str, paper: float | None = None) -> Cell:
    """Return the cell of some rows."""
    return Cell(estimate(rows, column), quantity(column).unit, paper)


def score_name(rows: Iterable[Row]) -> str:
    """Return what the scores of rows are: ``accuracy``, ``mIoU``, or both."""
    measures = {row["measure"] for row in rows if row["last_test_score"] is not None}
    return " or ".join(sorted(_NAMES.get(name, name) for name in measures)) or "accuracy"


# -- figures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LineSpec:
    """A line of a panel, or one line per value of a column.

    Attributes:
        label: of the line; ``{}`` stands for the value of ``split``.
        where: which rows.
        column: the quantity on the y axis, if not the panel's.
        x: the column on the x axis, if not the panel's.
        split: a column whose values get a line each.
    """

    label: str
    where: Where = field(default_factory=dict)
    column: str | None = None
    x: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class PanelSpec:
    """A panel of a figure.

    Attributes:
        title: one line.
        x: the column on the x axis.
        x_label: its name and unit; ``{score}`` as in a Quantity.
        column: the quantity on the y axis.
        lines: what is drawn over x.
        levels: drawn as horizontal lines, as they have no x.
        where: holds for all of them.
        even: x values are spaced evenly, whatever their size.
        scatter: a point per run instead of lines; x is measured.
        y_name: of the y axis, if the lines show several quantities.
    """

    title: str
    x: str
    x_label: str
    column: str
    lines: tuple[LineSpec, ...]
    levels: tuple[LineSpec, ...] = ()
    where: Where = field(default_factory=dict)
    even: bool = False
    scatter: bool = False
    y_name: str | None = None


class Curve(NamedTuple):
    """A line to draw: one estimate for every x, scaled to the shown unit."""

    label: str
    x: tuple[float, ...]
    y: tuple[Estimate, ...]
    unit: Unit
    ordered: bool  # one of a family of lines, whose colours show an order


@dataclass(frozen=True)
class Panel:
    """A panel to draw."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    levels: tuple[Curve, ...]
    even: bool
    scatter: bool


def panel(spec: PanelSpec, rows: Sequence[Row]) -> Panel | None:
    """Return the panel of some rows; None if there is nothing to draw."""
    inside = select(rows, spec.where)
    curves = tuple(curve for line in spec.lines for curve in _curves(line, spec, inside))
    levels = tuple(level for line in spec.levels for level in _level(line, spec, inside))
    if not curves:
        return None
    score = score_name(inside)
    shown = quantity(spec.column)
    y_label = _with_unit(shown._replace(name=spec.y_name or shown.name), score)
    x_label = spec.x_label.format(score=score)
    return Panel(spec.title, x_label, y_label, curves, levels, spec.even, spec.scatter)


def _curves(line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> list[Curve]:
    chosen = select(rows, line.where)
    parts: dict[Any, Sequence[Row]] = {"": chosen}
    if line.split:
        parts = dict(values(chosen, line.split))
    drawn = _scattered if spec.scatter else _drawn
    found = [
        drawn(line.label.format(shown(value)) if line.split else line.label, line, spec, part)
        for value, part in parts.items()
    ]
    return [curve for curve in found if curve.x]


def _drawn(label: str, line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> Curve:
    column = line.column or spec.column
    at = {x: estimate(part, column) for x, part in values(rows, line.x or spec.x).items()}
    points = {float(x): y for x, y in at.items() if y}
    unit = quantity(column).unit
    return Curve(label, tuple(points), tuple(points.values()), unit, bool(line.split))


def _scattered(label: str, line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> Curve:
    runs = [row for row in rows if row[spec.x] is not None and row[spec.column] is not None]
    x = tuple(row[spec.x] * quantity(spec.x).unit.scale for row in runs)
    y = tuple(Estimate(row[spec.column], None, None, 1) for row in runs)
    return Curve(label, x, y, quantity(spec.column).unit, False)


def _level(line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> list[Curve]:
    column = line.column or spec.column
    found = estimate(select(rows, line.where), column)
    unit = quantity(column).unit
    return [Curve(line.label, (), (found,), unit, False)] if found else []


def panel_table(drawn: Panel) -> Table:
    """Return the numbers of a panel: a line per x, a column per curve, then the levels."""
    xs = sorted({x for curve in drawn.curves for x in curve.x})
    found = [dict(zip(curve.x, curve.y, strict=True)) for curve in drawn.curves]
    lines = [
        Line(
            (f"{x:g}",),
            tuple(
                Cell(at[x], curve.unit) if x in at else None
                for curve, at in zip(drawn.curves, found, strict=True)
            ),
        )
        for x in xs
    ]
    lines += [Line((level.label,), (Cell(level.y[0], level.unit),)) for level in drawn.levels]
    columns = tuple(Column(curve.label) for curve in drawn.curves)
    title = ": ".join(filter(None, (drawn.title, drawn.y_label)))
    return Table(title, (drawn.x_label,), columns, tuple(lines))


# -- tables and figures by cell ------------------------------------------------------------------


def grouped(*columns: str, by: Sequence[str] | None = None) -> Layout:
    """Return a layout of a line per group of rows, and these columns.

    Args:
        columns: the quantities.
        by: the columns whose values make the groups, in ascending order, None first; those that
            tell no groups apart are left out. By default the groups are the cells, in the order of
            their experiment, labelled by the axes on which they differ; then every metric that is
            not this package's follows the columns, and a second table holds the IoUs of classes.
    """

    def layout(rows: Sequence[Row]) -> list[Table]:
        if not rows:
            return []
        names = varying(rows) if by is None else _telling(by, rows)
        groups = by_key(rows, lambda row: tuple(value_of(row, name) for name in names))
        if by is not None:
            groups = dict(sorted(groups.items(), key=lambda item: list(map(_none_first, item[0]))))
            return [_grouped_table("", names, groups, columns)]
        own = _own_columns(rows)
        classes = [column for column in own if column.startswith(f"{_LAST}iou_")]
        others = [column for column in own if column not in classes]
        tables = [_grouped_table("", names, groups, (*columns, *others))]
        return tables + ([_grouped_table("Each class", names, groups, classes)] if classes else [])

    return layout


def _telling(by: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the columns that differ; not one that has a value or none, as others say already."""
    names = [name for name in by if len({row[name] for row in rows}) > 1]
    for name in tuple(names):
        rest = [other for other in names if other != name]
        groups = [{tuple(row[n] for n in told) for row in rows} for told in (names, rest)]
        if len({row[name] for row in rows} - {None}) == 1 and len(set(map(len, groups))) == 1:
            names = rest
    return names


def _none_first(value: Any) -> tuple[bool, Any]:
    return value is not None, value


def _own_columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns of metrics on test data, last epoch, that are not this package's."""
    own = [column for column in own_metrics(rows) if column.startswith(_LAST)]
    return [column for column in own if column not in QUANTITIES]


def _grouped_table(
    title: str,
    names: Sequence[str],
    groups: Mapping[tuple[Any, ...], list[Row]],
    columns: Sequence[str],
) -> Table:
    rows = [row for group in groups.values() for row in group]
    gains = shown_gains(rows)
    measured = {column for row in rows for column in columns if row.get(column) is not None}
    there = [c for c in columns if (c in gains if c in GAINS else c in measured)]
    lines = [
        Line(
            tuple(_label(name, value) for name, value in zip(names, found, strict=True)),
            tuple(_cell_or_none(group, column) for column in there),
        )
        for found, group in groups.items()
    ]
    score, short = score_name(rows), headings(names)
    shown = [quantity(column) for column in there]
    named = [q._replace(name=gains.get(c, q.name)) for c, q in zip(there, shown, strict=True)]
    heads = tuple(Column(_with_unit(quantity, score)) for quantity in named)
    remark = remarks(rows) if gains.keys() & set(there) else ""
    keys = tuple(
        short[name] if isinstance(name, Axis) else _KEYS.get(name, short[name]) for name in names
    )
    return Table(title, keys, heads, tuple(lines), sortable=True, remark=remark)


def cell_panels(rows: Sequence[Row]) -> tuple[PanelSpec, ...]:
    """Return the panels of an experiment's figure: the score, and each metric of its own, by cell.

    Over the axis with most numbers; a line for every combination of the others, in panels of their
    own if they are more than :data:`MAX_LINES`. Cells without a value of the first axis are levels.
    There is no figure without such an axis, of more than :data:`MAX_PANELS` panels, or of more than
    :data:`MAX_LINES` lines that each have a panel of their own: nothing can be compared there.
    """
    names = varying(rows)
    numbers = {name: _numbers(name, rows) for name in names}
    x = max(names, key=lambda name: numbers[name], default=None)
    if x is None or numbers[x] < 2:
        return ()
    others = [name for name in names if name != x]
    cells = list(dict.fromkeys(tuple(value_of(row, name) for name in others) for row in rows))
    panels: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for apart in range(len(others) + 1):
        panels = defaultdict(list)
        for labels in cells:
            panels[labels[:apart]].append(labels)
        if max(map(len, panels.values())) <= MAX_LINES:
            break
    columns = [column for column in _own_columns(rows) if not column.startswith(f"{_LAST}iou_")]
    if any(row["last_test_score"] is not None for row in rows):
        columns = ["last_test_score", *columns]
    lone = len(panels) == len(cells) > MAX_LINES
    if lone or len(columns) * len(panels) > MAX_PANELS:
        return ()
    short = headings(names)
    return tuple(
        _cell_panel(x, column, dict(zip(others, panel, strict=False)), [
            dict(zip(others, labels, strict=True)) for labels in lines
        ], short)
        for column, (panel, lines) in product(columns, panels.items())
    )  # fmt: skip


def _numbers(axis: str, rows: Sequence[Row]) -> int:
    """Return how many numbers an axis has; none if a label of it is no number."""
    labels = {value_of(row, axis) for row in rows} - {None}
    try:
        return len(labels) if all(math.isfinite(float(label)) for label in labels) else 0
    except ValueError:
        return 0


def _cell_panel(
    x: str, column: str, where: Where, lines: Sequence[Where], short: Mapping[str, str]
) -> PanelSpec:
    def named(labels: Where) -> str:
        there = {name: label for name, label in labels.items() if label is not None}
        return ", ".join(f"{short[name]} {shown(label)}" for name, label in there.items())

    own = [{name: label for name, label in line.items() if name not in where} for line in lines]
    curves = tuple(LineSpec(named(labels), labels) for labels in own)
    levels = tuple(LineSpec(named(labels), {**labels, x: None}) for labels in own)
    return PanelSpec(named(where), x, _literal(short[x]), column, curves, levels, where, even=True)


def _cell_or_none(rows: Sequence[Row], column: str) -> Cell | None:
    """Return the cell of some rows; None where the column says nothing about them."""
    found = table_cell(rows, column)
    lacking = column == "gain_over_equal_task" and any(map(lacks_equal_task, rows))
    return found if found.estimate or lacking else None


def _with_unit(quantity: Quantity, score: str) -> str:
    name = quantity.name.format(score=score)
    return f"{name} ({quantity.unit.symbol})" if quantity.unit.symbol else name


def _label(key: str, value: Any) -> str:
    empty = "no mask" if key == "removes" else "–"
    return empty if value is None else shown(value)


def shown(value: Any) -> str:
    """Return the label of a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _NAMES.get(value, str(value))
