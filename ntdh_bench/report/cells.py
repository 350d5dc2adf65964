"""Where rows lie in their experiments: axes, their headings, what tells groups of rows apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ntdh_bench.records.columns import SETTINGS, Row
from ntdh_bench.records.rows import differing

#: Column, or axis, to wanted value, or to a tuple of wanted values.
Where: TypeAlias = Mapping[str, Any]

_NO_NAME = "init_args"  # of a dotted key; it says nothing


class Axis(str):
    """The name of an axis, where a column may bear it as well."""

    __slots__ = ()


class MixedRuns(ValueError):
    """Two runs of a seed stand where one should: a mean would be of different things.

    Attributes:
        rows: both.
    """

    def __init__(self, first: Row, row: Row) -> None:
        super().__init__(
            f"runs {first['run']} and {row['run']} of seed {row['seed']} stand in one place, and "
            f"differ in {differing([first, row])}"
        )
        self.rows = first, row


def one_run(first: Row, row: Row) -> None:
    """Refuse another run than the first.

    Raises:
        MixedRuns: naming both, and in what they differ.
    """
    if row["run"] != first["run"]:
        raise MixedRuns(first, row)


def value_of(row: Row, name: str) -> Any:
    """Return the value of a column, or the label on an axis; None where a row has neither.

    A name that is no :class:`Axis` is that of the column, where there is one.
    """
    of_column = name in row and not isinstance(name, Axis)
    return row[name] if of_column else row["cell"].get(name)


def select(rows: Iterable[Row], where: Where) -> list[Row]:
    """Return the rows whose columns, or labels on axes, have the wanted values."""
    return [row for row in rows if all(_fits(value_of(row, n), want) for n, want in where.items())]


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def axes(rows: Iterable[Row]) -> list[Axis]:
    """Return the axes of rows, in the order in which experiments wrote them."""
    return list(map(Axis, dict.fromkeys(axis for row in rows for axis in row["cell"])))


def varying(rows: Sequence[Row]) -> list[str]:
    """Return the axes on which rows differ, ``experiment`` first if they are of several."""
    return [
        name
        for name in ("experiment", *axes(rows))
        if len({value_of(row, name) for row in rows}) > 1
    ]


def headings(names: Iterable[str]) -> dict[str, str]:
    """Return a short name for every axis: the end of its dotted key that no other has."""
    parts = {axis: [part for part in axis.split(".") if part != _NO_NAME] for axis in names}
    return {axis: _heading(axis, parts) for axis in parts}


def _heading(axis: str, parts: dict[str, list[str]]) -> str:
    own = parts[axis]
    for length in range(1, len(own) + 1):
        alike = [other for other, of in parts.items() if of[-length:] == own[-length:]]
        if alike == [axis]:
            return ".".join(own[-length:]).replace("_", " ")
    return axis


def told_apart(
    groups: Sequence[Sequence[Row]], leave_out: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Return, for each group of rows, what tells it from the others: a name, and its value there.

    That is every setting with a column, and every other axis, which is the same within each group
    and not in all of them.

    Args:
        groups: of rows.
        leave_out: settings that are not named.
    """
    every = [row for group in groups for row in group]
    short = headings(axes(every))
    columns = {name: name.replace("_", " ") for name in SETTINGS if name not in set(leave_out)}
    own = {axis: name for axis, name in short.items() if name.replace(" ", "_") not in SETTINGS}
    told: list[dict[str, Any]] = [{} for _ in groups]
    for name, words in (columns | own).items():
        found = [{value_of(row, name) for row in group} for group in groups]
        if all(len(values) == 1 for values in found) and len(set().union(*found)) > 1:
            for group, values in zip(told, found, strict=True):
                group[words] = next(iter(values))
    return told


def in_words(told: dict[str, Any]) -> list[str]:
    """Return names and values in words: ``gap 0.5``, ``unimodal``; nothing where they are none."""
    said = {name: value for name, value in told.items() if value is not None and value is not False}
    return [_coordinate(name, value) for name, value in said.items()]


def _coordinate(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
