"""Which runs without KD a KD run is compared with.

A control is the same student (seed, initialisation, batches, schedule, data) trained with the task
loss alone, of weight 1 (``without_kd``), of the KD run's own task weight (``equal_task``: what the
teacher adds, all else equal) or of the sum of its weights (``matched``). Where two of these weights
are equal, one run is both controls. Its accuracy does not depend on the teacher, but its
divergences do: they lie between the *masked* teacher and the student, so they count only for the KD
run with that very teacher and mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isclose

from ntdh_bench.records.columns import CHECKPOINTS, CONTROLS, SPLITS, Row, by_key

# baseline_hash holds everything the student depends on: data, network, schedule and seed.
_STUDENT = ("baseline_hash", "protocol", "source", "data_fingerprint")
_TEACHER = ("teacher_hash", "mask_hash")
_PLACE = ("experiment", "protocol", "source", "dataset", "seed")
# Two rows of one student alone, trained with one weight, have these in common.
_TRAINED = ("baseline_hash", "data_fingerprint")
Key = tuple[object, ...]


def scored(row: Row) -> Row:
    """Return a row with its scores, of the measure that the data are judged by.

    ``{last,best}_{val,test}_score`` of the student, ``..._teacher_score`` of the teacher. A metric
    of a user's module that bears such a name is kept as ``... (own)``.
    """
    starts = [
        f"{checkpoint}_{part}_{whose}"
        for checkpoint in CHECKPOINTS
        for part in SPLITS
        for whose in ("", "teacher_")
    ]
    scores = {f"{start}score": row.get(f"{start}{row['measure']}") for start in starts}
    own = {
        f"{name} (own)": row[name] for name in scores if row.get(name, scores[name]) != scores[name]
    }
    return {**row, **own, **scores}


def _key(row: Row, columns: tuple[str, ...]) -> Key:
    return tuple(row[column] for column in columns)


def _is_beside(row: Row, control: Row) -> bool:
    """Return whether two cells have other labels on one axis that both have, and are else equal."""
    cell, other = row["cell"], control["cell"]
    differing = [axis for axis in {**cell, **other} if cell.get(axis) != other.get(axis)]
    return len(differing) == 1 and differing[0] in cell and differing[0] in other


def control_weight(row: Row, over: str) -> float:
    """Return the task weight of a run's control."""
    if over == "without_kd":
        return 1.0
    task = _weighed(row, "task_weight")
    return task + _weighed(row, "distill_weight") if over == "matched" else task


def _weighed(row: Row, column: str) -> float:
    """Return a weight of a run's loss; a method with a module of its own, without it, has 1."""
    return 1.0 if row[column] is None else float(row[column])


def split(row: Row) -> str:
    """Return ``val``, or ``test`` for a protocol without a validation split."""
    return "test" if row["last_val_score"] is None else "val"


class Controls:
    """The runs without KD among ``rows``, found by what they share with a KD run.

    A method with a module of its own has settings that no student without KD has, and a teacher of
    two modalities other data: such a run is paired with the control that its experiment sets beside
    it, of the same seed, in the cell that has another label on one axis and is else the same.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        alone = [row for row in rows if row["arm"] in CONTROLS]
        self._by_student = by_key(alone, lambda row: _key(row, _STUDENT))
        self._by_place = by_key(alone, lambda row: _key(row, _PLACE))
        self._by_teacher = {
            _key(row, _STUDENT + _TEACHER): row
            for row in reversed(alone)
            if row["arm"] == "without_kd"
        }

    def control(self, row: Row) -> Row | None:
        """Return the control with the same teacher and mask, whose divergences count."""
        return self._by_teacher.get(_key(row, _STUDENT + _TEACHER))

    def student(self, row: Row, over: str = "without_kd") -> Row | None:
        """Return the control whose score counts: of the same student, whatever its teacher.

        Args:
            row: of a KD run.
            over: which control: ``without_kd``, ``equal_task`` or ``matched``.

        Returns:
            None if it was not run, or cannot be: with a task weight of 0 nothing is trained.
        """
        weight = control_weight(row, over)
        same = self._by_student.get(_key(row, _STUDENT), [])
        place = self._by_place.get(_key(row, _PLACE), [])
        beside = [control for control in place if _is_beside(row, control)]
        for candidates in (same, beside):
            found = [c for c in candidates if isclose(_weighed(c, "task_weight"), weight)]
            if found:
                return found[0] if len({_key(c, _TRAINED) for c in found}) == 1 else None
        return None

    def gain(
        self, row: Row, column: str = "last_test_score", over: str = "without_kd"
    ) -> float | None:
        """Return a run's score minus its control's, as a share in [-1, 1]."""
        control = self.student(row, over)
        if control is None or control[column] is None or row[column] is None:
            return None
        return float(row[column] - control[column])

    def before(self, row: Row, metric: str = "ncjsd", on: str | None = None) -> float | None:
        """Return a metric between the (masked) teacher and the student *before* distillation.

        It is the control's, of the last epoch, on a split; by default on validation data where
        there are any (:func:`split`). Metrics: ``ncjsd``, ``tcjsd`` (nats), ...
        """
        control = self.control(row)
        value = None if control is None else control[f"last_{on or split(control)}_{metric}"]
        return None if value is None else float(value)
