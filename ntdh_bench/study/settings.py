"""Settings, the protocols of a data set, and their runs as arrays of cells by seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from ntdh_bench.records.columns import Row, by_key
from ntdh_bench.report import gates
from ntdh_bench.report.cells import one_run
from ntdh_bench.report.contrasts import Measure, column, points
from ntdh_bench.report.effects import Effect
from ntdh_bench.report.gates import Gate
from ntdh_bench.report.pairing import split
from ntdh_bench.report.statistics import Array
from ntdh_bench.study.results import SettingEffect

#: What tells a cell from others: names, ratios, doses; None for what it has not.
Cell: TypeAlias = tuple[Any, ...]

#: The student with KD minus that of the same task weight without it, in points.
GAIN = points("gain_over_equal_task")
SCORE = points("last_test_score")
#: Before distillation, on validation data, in nats.
NCJSD, TCJSD = column("ncjsd_before"), column("tcjsd_before")
#: That of the distributions over target and all else, of which TCJSD is one term; in later records.
TWO_WAY = column("tcjsd_binary_before")
# Of cells that fewer runs have, a sweep is not done.
_SHARE_OF_SEEDS = 0.5


def teacher(row: Row) -> float | None:
    """Return the accuracy of the teacher as distilled, on the data of divergences, in points."""
    return points(f"last_{split(row)}_teacher_score")(row)


#: The same on test data.
ON_TEST: dict[Measure, Measure] = {
    NCJSD: column("ncjsd_before_test"),
    TCJSD: column("tcjsd_before_test"),
    teacher: points("last_test_teacher_score"),
}


@dataclass(frozen=True)
class Setting:
    """The runs of one protocol of an experiment on a data set.

    Attributes:
        rows: all of them, controls too.
    """

    dataset: str
    source: str
    protocol: str
    rows: tuple[Row, ...]

    @cached_property
    def distilled(self) -> list[Row]:
        """The runs with KD, and a cross entropy of weight 1: those of a main protocol."""
        return [row for row in self.rows if row["arm"] == "kd" and row["task_weight"] == 1]

    @cached_property
    def common_gates(self) -> tuple[Gate, ...]:
        """The gates that rest on no comparison of cells."""
        rows = self.rows
        return gates.converged(rows), gates.capacity(rows), gates.strength(rows)

    def effect(
        self, effect: Effect | None, own: Iterable[Gate], measured: Mapping[str, float]
    ) -> SettingEffect:
        """Return an effect in this setting, with its own gates and those that all effects have."""
        gates_of = (*own, *self.common_gates)
        return SettingEffect(self.dataset, self.protocol, effect, gates_of, tuple(measured.items()))

    def teacher_gate(self, rows: Iterable[Row]) -> Gate:
        """Return the gate of the teacher's accuracy over the changes in ``rows``."""
        return gates.teacher(rows, self.rows)


#: What an effect is in a setting; None where it was not run.
EffectOf: TypeAlias = Callable[[Setting], SettingEffect | None]


def settings(rows: Iterable[Row], experiments: Sequence[str]) -> list[Setting]:
    """Return the settings of experiments, or of those whose exhibits they are part of, by name.

    Those without a run with KD in a main protocol are left out.
    """
    own = [row for row in rows if row["part_of"] in experiments]
    groups = by_key(
        own,
        lambda row: (
            str(row["dataset"]), str(row["source"]), str(row["protocol"]), str(row["experiment"])
        ),
    )  # fmt: skip
    found = [
        Setting(dataset, source, protocol, tuple(groups[dataset, source, protocol, experiment]))
        for dataset, source, protocol, experiment in sorted(groups)
    ]
    return [setting for setting in found if setting.distilled]


@dataclass(frozen=True)
class Block:
    """Runs of cells by seed, none missing.

    Attributes:
        runs: those of each cell, in order of the seeds, which are the same.
    """

    runs: Mapping[Cell, Sequence[Row]]

    @property
    def rows(self) -> list[Row]:
        """All of the runs."""
        return [row for cell in self.runs.values() for row in cell]

    def values(self, measure: Measure) -> Array:
        """Return what a measure says of each run, float ``(cells, seeds)``."""
        return np.array([[measure(row) for row in of] for of in self.runs.values()], dtype=float)

    def only(self, cells: Iterable[Cell]) -> Block:
        """Return the block of some of the cells, in this order."""
        return Block({cell: self.runs[cell] for cell in cells})

    def sound(self, setting: Setting) -> list[Cell]:
        """Return the cells whose changes leave the teacher's accuracy as it is."""
        return [cell for cell, rows in self.runs.items() if setting.teacher_gate(rows).passed]


def block(rows: Iterable[Row], cell_of: Callable[[Row], Cell], needed: Sequence[Measure]) -> Block:
    """Return the runs that have all measures, of the seeds that have all cells.

    A cell that less than half of the seeds have is one that a sweep has not done yet: it is left
    out.

    Args:
        rows: the runs.
        cell_of: what tells the cells apart.
        needed: what must be known of a run.

    Returns:
        Cells in the order of their values, None first; none if no seed has all of them.

    Raises:
        MixedRuns: a cell has two runs of a seed.
    """
    found: dict[Cell, dict[int, Row]] = {}
    for row in rows:
        if all(measure(row) is not None for measure in needed):
            by_seed = found.setdefault(cell_of(row), {})
            one_run(by_seed.setdefault(row["seed"], row), row)
    most = max(map(len, found.values()), default=0)
    kept = {cell: of for cell, of in found.items() if len(of) >= _SHARE_OF_SEEDS * most}
    seeds = sorted(set.intersection(*(set(of) for of in kept.values()))) if kept else []
    cells = sorted(kept, key=_none_first) if seeds else []
    return Block({cell: tuple(kept[cell][seed] for seed in seeds) for cell in cells})


def _none_first(cell: Cell) -> tuple[tuple[bool, Any], ...]:
    return tuple((value is not None, value) for value in cell)


def moved(changes: Array) -> Gate:
    """Return the gate of a manipulation, of changes ``(seeds,)`` in nats, > 0 as intended."""
    return gates.manipulation([float(change) for change in changes])
