"""Which run without KD a KD run is compared with.

A control is the same student (seed, initialisation, batches, schedule, data) trained with the task
loss alone. Its accuracy does not depend on the teacher, but its divergences do: they lie between
the *masked* teacher and the student, so they count only for the KD run with that very teacher and
mask.
"""

from __future__ import annotations

from collections.abc import Iterable

from ntdh_bench.records.columns import CHECKPOINTS, SPLITS, Row

# baseline_hash holds everything the student depends on: data, network, schedule and seed.
_STUDENT = ("baseline_hash", "protocol", "source", "data_fingerprint")
_TEACHER = ("teacher_hash", "mask_hash")
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


def split(row: Row) -> str:
    """Return ``val``, or ``test`` for a protocol without a validation split."""
    return "test" if row["last_val_score"] is None else "val"


class Controls:
    """The runs without KD among ``rows``, found by what they share with a KD run."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._by_student: dict[Key, Row] = {}
        self._by_teacher: dict[Key, Row] = {}
        for row in rows:
            if row["arm"] == "without_kd":
                self._by_student.setdefault(_key(row, _STUDENT), row)
                self._by_teacher.setdefault(_key(row, _STUDENT + _TEACHER), row)

    def control(self, row: Row) -> Row | None:
        """Return the control with the same teacher and mask, whose divergences count."""
        return self._by_teacher.get(_key(row, _STUDENT + _TEACHER))

    def student(self, row: Row) -> Row | None:
        """Return the control whose score counts: of the same student, whatever its teacher."""
        return self._by_student.get(_key(row, _STUDENT))

    def gain(self, row: Row, column: str = "last_test_score") -> float | None:
        """Return a KD run's score minus its student's without KD, as a share in [-1, 1]."""
        control = self.student(row)
        if control is None or control[column] is None or row[column] is None:
            return None
        return float(row[column] - control[column])

    def before(self, row: Row, metric: str = "ncjsd") -> float | None:
        """Return a metric between the (masked) teacher and the student *before* distillation.

        It is the control's, of the last epoch, on validation data where there are any (see
        :func:`split`). Metrics: ``ncjsd``, ``tcjsd`` (nats), ``teacher_score`` (a share), ...
        """
        control = self.control(row)
        value = None if control is None else control[f"last_{split(control)}_{metric}"]
        return None if value is None else float(value)
