"""From rows to tables and panels of a figure: the few layouts that all exhibits are made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from ntdh_bench.records import Row
from ntdh_bench.report.statistics import Estimate, mean_ci
from ntdh_bench.report.tables import (
    MILLIONS,
    NATS,
    PERCENT,
    POINTS,
    RATIO,
    Cell,
    Column,
    Line,
    Table,
    Unit,
)

#: Column to wanted value, or to a tuple of wanted values.
Where = Mapping[str, Any]

#: The columns of a row that say what was run; tables of unknown experiments have those that vary.
SETTINGS = (
    "dataset", "gap", "classes", "teacher_noise", "student_noise", "modality", "unimodal",
    "teacher", "teacher_epochs", "teacher_parameters", "student_parameters", "arm", "method",
    "alpha", "beta", "mask", "layer", "retrain", "ratio", "removes", "epochs",
)  # fmt: skip
_NAMES = {
    "most_divergent": "T, most divergent",
    "random": "R, random",
    "least_divergent": "F, least divergent",
    "kd": "KD",
    "without_kd": "w/o KD",
    "single": "alone",
}
# None is no other value of these: it says that there is no KD, or no mask, which others say, too.
_IMPLIED = ("method", "alpha", "beta", "mask", "layer", "retrain")


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
    "ncjsd_before": Quantity("NCJSD before", NATS),
    "tcjsd_before": Quantity("TCJSD before", NATS),
    "kl_bound": Quantity("TCKL + NCKL", NATS),
    "last_test_tckl": Quantity("TCKL of Eq. 19", NATS),
    "nckl_over_tckl": Quantity("NCKL / TCKL", RATIO),
    "nckl_over_single_tckl": Quantity("NCKL / |TCKL of Eq. 19|", RATIO),
    "classes_less_1": Quantity("C - 1", RATIO),
    "teacher_parameters": Quantity("teacher's parameters", MILLIONS),
    "student_parameters": Quantity("parameters", MILLIONS),
    "parameters": Quantity("parameters", MILLIONS),
    "tcjsd": Quantity("TCJSD", NATS),
    "ncjsd": Quantity("NCJSD", NATS),
}


# -- selecting and averaging ---------------------------------------------------------------------


def select(rows: Iterable[Row], where: Where) -> list[Row]:
    """Return the rows whose columns have the wanted values."""
    return [row for row in rows if all(_fits(row[name], want) for name, want in where.items())]


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def values(rows: Iterable[Row], column: str) -> dict[str, list[Row]]:
    """Return the rows of every value of a column, in ascending order; None is no value."""
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if row[column] is not None:
            found[row[column]].append(row)
    return dict(sorted(found.items()))


def estimate(rows: Iterable[Row], column: str) -> Estimate | None:
    """Return the mean over seeds and its 95 % interval; several runs of a seed count as one."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row[column] is not None:
            by_seed[row["seed"]].append(row[column])
    return mean_ci(fmean(runs) for runs in by_seed.values())


def cell(rows: Iterable[Row], column: str, paper: float | None = None) -> Cell:
    """Return the cell of some rows."""
    measured = [row for row in rows if row[column] is not None]
    mixed = len({row["seed"] for row in measured}) < len(measured)
    return Cell(estimate(measured, column), QUANTITIES[column].unit, paper, mixed=mixed)


def score_name(rows: Iterable[Row]) -> str:
    """Return what the scores of rows are: ``accuracy``, ``mIoU``, or both."""
    dense = {
        row["last_test_miou"] is not None for row in rows if row["last_test_score"] is not None
    }
    if len(dense) == 2:
        return "accuracy or mIoU"
    return "mIoU" if True in dense else "accuracy"


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
    quantity = QUANTITIES[spec.column]
    y_label = _with_unit(quantity._replace(name=spec.y_name or quantity.name), score)
    x_label = spec.x_label.format(score=score)
    return Panel(spec.title, x_label, y_label, curves, levels, spec.even, spec.scatter)


def _curves(line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> list[Curve]:
    chosen = select(rows, line.where)
    parts: dict[Any, Sequence[Row]] = {"": chosen}
    if line.split:
        parts = dict(values(chosen, line.split))
    drawn = _scattered if spec.scatter else _drawn
    found = [
        drawn(line.label.format(_shown(value)), line, spec, part) for value, part in parts.items()
    ]
    return [curve for curve in found if curve.x]


def _drawn(label: str, line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> Curve:
    column = line.column or spec.column
    at = {x: estimate(part, column) for x, part in values(rows, line.x or spec.x).items()}
    points = {float(x): y for x, y in at.items() if y}
    unit = QUANTITIES[column].unit
    return Curve(label, tuple(points), tuple(points.values()), unit, bool(line.split))


def _scattered(label: str, line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> Curve:
    runs = [row for row in rows if row[spec.x] is not None and row[spec.column] is not None]
    x = tuple(row[spec.x] * QUANTITIES[spec.x].unit.scale for row in runs)
    y = tuple(Estimate(row[spec.column], None, None, 1) for row in runs)
    return Curve(label, x, y, QUANTITIES[spec.column].unit, False)


def _level(line: LineSpec, spec: PanelSpec, rows: Sequence[Row]) -> list[Curve]:
    column = line.column or spec.column
    found = estimate(select(rows, line.where), column)
    unit = QUANTITIES[column].unit
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


# -- tables grouped by settings ------------------------------------------------------------------


def varying(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the settings that are not the same in all rows."""
    found = {name: {row[name] for row in rows} for name in SETTINGS}
    return tuple(
        name
        for name, values in found.items()
        if len(values - {None} if name in _IMPLIED else values) > 1
    )


def grouped_rows(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of every combination of settings, sorted; None comes first."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return dict(sorted(groups.items(), key=lambda item: [(v is not None, v) for v in item[0]]))


def grouped(*columns: str) -> Callable[[Sequence[Row]], list[Table]]:
    """Return a layout: a line per combination of the settings that vary, and these columns."""

    def layout(rows: Sequence[Row]) -> list[Table]:
        if not rows:
            return []
        keys = varying(rows)
        there = [c for c in columns if any(row[c] is not None for row in rows)]
        lines = [
            Line(
                tuple(_label(key, value) for key, value in zip(keys, found, strict=True)),
                tuple(_cell_or_none(group, column) for column in there),
            )
            for found, group in grouped_rows(rows, keys).items()
        ]
        score = score_name(rows)
        names = tuple(Column(_with_unit(QUANTITIES[column], score)) for column in there)
        return [Table("", tuple(map(_key_name, keys)), names, tuple(lines), sortable=True)]

    return layout


def _cell_or_none(rows: Sequence[Row], column: str) -> Cell | None:
    """Return the cell of some rows; None where the column says nothing about them."""
    found = cell(rows, column)
    return found if found.estimate else None


def _with_unit(quantity: Quantity, score: str) -> str:
    name = quantity.name.format(score=score)
    return f"{name} ({quantity.unit.symbol})" if quantity.unit.symbol else name


def _key_name(key: str) -> str:
    return {"arm": "run", "ratio": "share removed", "dataset": "data set"}.get(
        key, key.replace("_", " ")
    )


def _label(key: str, value: Any) -> str:
    empty = "no mask" if key == "removes" else "–"
    return empty if value is None else _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _NAMES.get(value, str(value))
