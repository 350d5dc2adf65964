from __future__ import annotations

from typing import Any

import pytest

from ntdh_bench.records.columns import Row
from ntdh_bench.report import gates
from ntdh_bench.report.gates import Gate
from tests.ntdh_bench.report.rows import bare_row


def rows(teachers: dict[str | None, float], seeds: int = 3, **given: Any) -> list[Row]:
    """Students without KD at 70 %, beside teachers of an accuracy, one a mask."""
    return [
        bare_row(
            dataset="mnist", source="real", protocol="p", seed=seed, arm="without_kd", gap=0.5,
            last_test_score=0.7, last_test_teacher_score=accuracy, mask=mask and "feature",
            removes=mask, ratio=0.5 if mask else None, **given,
        )
        for mask, accuracy in teachers.items()
        for seed in range(seeds)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "passed", "shown"),
    [
        ([(100, 105)], True, "5.0 % apart"),
        ([(106, 100)], False, "6.0 % apart"),
        ([(100, 100), (100, 120)], False, "20.0 % apart"),
        ([(None, 100)], None, ""),
    ],
)
def test_capacity_counts_the_pair_that_lies_farthest_apart(
    parameters: list[tuple[int | None, int]], passed: bool | None, shown: str
) -> None:
    found = [
        bare_row(teacher_parameters=teacher, student_parameters=student)
        for teacher, student in parameters
    ]
    assert gates.capacity(found) == Gate("capacity", passed, shown)


def test_strength_compares_the_teacher_as_it_is_with_the_student_without_kd() -> None:
    near = rows({None: 0.68, "random": 0.2})
    assert gates.strength(near) == Gate("strength", True, "-2.0 points")
    far = rows({None: 0.731})
    assert gates.strength(far) == Gate("strength", False, "+3.1 points")
    other = [{**row, "pair_hash": "b"} for row in far]
    assert gates.strength(near + other) == gates.strength(far)
    assert gates.strength([{**row, "arm": "kd"} for row in far]) == Gate("strength", None)
    changed = [{**row, "intervention": "ShuffleNontarget"} for row in far]
    assert gates.strength(near + changed).passed is True
    noisy = [{**row, "last_test_teacher_score": 0.7 + 0.05 * (row["seed"] - 1)} for row in far]
    assert gates.strength(noisy).shown == "+0.0 points"


def test_a_mask_may_not_damage_the_teacher() -> None:
    found = rows({None: 0.7, "most_divergent": 0.69, "random": 0.66})
    mild = [row for row in found if row["removes"] != "random"]
    assert gates.teacher(mild, found) == Gate("teacher", True, "-1.0 points")
    assert gates.teacher(found, found) == Gate("teacher", False, "-4.0 points")
    assert gates.teacher([row for row in found if not row["mask"]], found).passed is True
    alone = [row for row in found if row["mask"]]
    assert gates.teacher(alone, alone) == gates.teacher([], found) == Gate("teacher", None)


def test_an_intervention_may_not_damage_it_either() -> None:
    found = rows({None: 0.7})
    changed = [
        {**row, "intervention": "ShuffleTarget", "mask_hash": "q", "last_test_teacher_score": 0.6}
        for row in found
    ]
    assert gates.teacher(changed, found + changed) == Gate("teacher", False, "-10.0 points")


def test_students_that_still_learn_have_not_converged() -> None:
    found = rows({None: 0.7})
    assert gates.converged(found) == Gate("converged", None)
    flat = [{**row, "late_gain": 0.004} for row in found]
    assert gates.converged(flat) == Gate("converged", True, "+0.40 points late")
    rising = [{**row, "late_gain": 0.006, "pair_hash": "b"} for row in found]
    assert gates.converged(flat + rising) == Gate("converged", False, "+0.60 points late")
    assert gates.converged([{**row, "arm": "kd"} for row in rising]).passed is None


@pytest.mark.parametrize(
    ("changes", "passed", "shown"),
    [
        ([0.02, 0.03, 0.025], True, "0.025 nats as intended"),
        ([0.1, -0.08, 0.01], False, "0.010 nats as intended"),  # may be chance
        ([0.004, 0.0041, 0.0042], False, "0.004 nats as intended"),  # surely, but hardly
        ([-0.02, -0.03, -0.025], False, "0.025 nats against the intention"),
        ([0.02], None, ""),
    ],
)
def test_the_divergence_must_be_seen_to_move_as_intended(
    changes: list[float], passed: bool | None, shown: str
) -> None:
    assert gates.manipulation(changes) == Gate("manipulation", passed, shown)


def test_what_is_unknown_has_not_failed() -> None:
    found = [Gate("capacity", None), Gate("strength", False, "x"), Gate("teacher", True)]
    assert gates.failed(found) == [found[1]]
    assert [gates.weakest(found), gates.weakest(found[::2])] == [found[1], found[0]]
