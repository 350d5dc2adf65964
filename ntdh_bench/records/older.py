"""Rows of schemas 2 and 3, which knew the cell of a run by a list of settings alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ntdh_bench.cache import digest
from ntdh_bench.experiments import Run, load_shipped
from ntdh_bench.records.columns import COLUMNS, LATER, SETTINGS, Row, metric_of
from ntdh_bench.records.identity import Place, place

_NEW = ("cell", "objective_hash", "pair_hash", "mask_hash", "measure")
_THEN = tuple(name for name in COLUMNS if name not in (*_NEW, *LATER))
_LAYOUTS = {3: _THEN, 2: tuple(name for name in _THEN if not name.endswith("miou"))}
# What told objectives, pairs and masks apart.
_OBJECTIVE = (
    "method", "classes", "student_noise", "student_parameters", "epochs", "task_weight",
    "distill_weight", "alpha", "beta",
)  # fmt: skip
_PAIR = ("gap", "teacher_noise", "unimodal", "teacher", "teacher_epochs", "teacher_parameters")
_MASK = ("mask", "removes", "ratio", "layer", "retrain")


def schema_of(columns: Sequence[str]) -> int | None:
    """Return the older schema that has these columns, if one has."""
    return next((schema for schema, known in _LAYOUTS.items() if known == tuple(columns)), None)


def columns(found: Sequence[str]) -> dict[str, type] | None:
    """Return the columns that rows of an older schema are read with, None if it is none.

    What a schema before it lacked is empty.
    """
    if schema_of(found) is None:
        return None
    return {name: kind for name, kind in COLUMNS.items() if name not in _NEW}


def measure(values: Mapping[str, Any]) -> str | None:
    """Return what data are judged by of which these metrics were measured, by column."""
    found = {metric_of(name) for name, value in values.items() if value is not None}
    return next((name for name in ("miou", "accuracy") if name in found), None)


def completed(experiment: str, rows: Sequence[Row]) -> list[Row]:
    """Return rows of an older schema with what they lack.

    Cell and hashes are those of the run in the experiment of that name that comes with the package.
    A run that it does not have, or the run of another experiment, gets a cell of the settings that
    vary in its file, and hashes of its columns.
    """
    varying = [name for name in (*SETTINGS, "retrain") if len({row[name] for row in rows}) > 1]
    runs = _shipped_runs(experiment)
    return [_complete(row, runs.get((row["run"], row["protocol"])), varying) for row in rows]


def with_mask(row: Row) -> Row:
    """Return a row with what the feature masks that were measured first are called now."""
    if row["retrain"] is None or row["fill"] is not None:
        return row
    return {**row, "fill": "retrain" if row["retrain"] else "zero", "draw": 0, "saliency": "signed"}


def in_experiment(experiment: str, row: Row) -> bool:
    """Return whether the shipped experiment of that name has the run of a row."""
    return (row["run"], row["protocol"]) in _shipped_runs(experiment)


def _complete(row: Row, run: Run | None, varying: Sequence[str]) -> Row:
    where = place(row["experiment"], run) if run else _by_columns(row, varying)
    found = {**row, **where._asdict(), "cell": dict(where.cell), "measure": measure(row)}
    return {name: found[name] for name in COLUMNS}


def _by_columns(row: Row, varying: Sequence[str]) -> Place:
    cell = {name: str(row[name]) for name in varying if row[name] is not None}
    objective, pair, mask = (
        digest([row[name] for name in names]) for names in (_OBJECTIVE, _PAIR, _MASK)
    )
    return Place(
        row["experiment"], row["protocol"], cell, objective, pair, mask if row["mask"] else None
    )


@cache
def _shipped_runs(experiment: str) -> dict[tuple[str, str], Run]:
    named = (shipped for shipped in load_shipped() if shipped.name == experiment)
    return {(run.hash, run.protocol): run for shipped in named for run in shipped.runs}
