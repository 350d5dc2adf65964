from __future__ import annotations

from dataclasses import replace

import pytest

from ntdh_bench.study.answer import Answer, answer
from ntdh_bench.study.results import Decision, Primary
from tests.ntdh_bench.study.studies import empty_study, full_study


def claims(**verdicts: str) -> list[Primary]:
    return [
        replace(claim, overall=Decision(verdicts.get(claim.id, "inconclusive"), 6))
        for claim in empty_study().claims
    ]


@pytest.mark.parametrize(
    ("raised", "lowered", "short"),
    [
        ("holds", "holds", "Yes"),
        ("holds", "fails", "No: a symptom"),
        ("holds", "no effect", "No: a symptom"),
        ("holds", "inconclusive", "Not decided"),
        ("no effect", "no effect", "No"),
        ("no effect", "holds", "Not decided"),
        ("fails", "holds", "No"),
        ("inconclusive", "fails", "Not decided"),
        ("out of scope", "out of scope", "Not decided"),
    ],
)
def test_an_answer_is_read_as_planned(raised: str, lowered: str, short: str) -> None:
    found = answer(claims(P1=raised, P3=lowered))
    assert found.short == short
    assert bool(found.reading) == (short != "Not decided")


def test_an_answer_names_every_verdict() -> None:
    assert answer(full_study().claims).verdicts == (
        "P1 holds; P3 fails; P4 shows no effect; P2 and P5 are inconclusive; "
        "P6 is out of scope; P7 was not run."
    )


def test_nothing_run_is_no_answer() -> None:
    assert answer(empty_study().claims) == Answer("Not tested yet", "", "No primary claim was run.")
