from __future__ import annotations

from dataclasses import replace

import pytest

from ntdh_bench.study.answer import Answer, answer, in_short
from ntdh_bench.study.results import Decision, Primary
from tests.ntdh_bench.study.studies import empty_study, full_study, partial_study


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


def test_five_lines_have_every_number_with_its_gates() -> None:
    study = full_study()
    lines = in_short(study)
    assert len(lines) == 5
    assert lines[0].startswith("**No: a symptom.** Wrong non-target detail harms")
    assert "pass the gates of a claim or more: 6; that also lie within both assumptions" in lines[0]
    pooled = study.claims[2].parts[1].summary
    assert pooled is not None
    shown = f"aligned minus uniform {pooled.value:.2f} [{pooled.low:.2f}, {pooled.high:.2f}]"
    assert f"{shown} points per unit of dose over the 6 data sets that pass its gates" in lines[1]
    assert "* (P5): inconclusive, 2 data sets count, a verdict needs 5" in lines[2]
    assert "(P7): not run." in lines[3]
    best = study.guide.methods[0]
    assert f"it helped in {best.helped} and harmed in {best.harmed} of {best.lines}" in lines[4]
    assert study.guide.advice[0] in lines[4]


def test_what_was_not_run_says_so() -> None:
    lines = in_short(empty_study())
    assert lines[0].startswith("**Not tested yet.** No primary claim was run.")
    assert lines[2].endswith("(P4): not run. *It does so better than TCJSD* (P5): not run.")
    assert lines[4] == "**What to do.** No method was run on real data."
    assert (
        "(P1): inconclusive, 1 data set counts, a verdict needs 5."
        in (in_short(partial_study())[1])
    )


def test_the_best_method_is_told_among_those_of_the_same_data_sets() -> None:
    study = full_study()
    lucky, fair, *rest = study.guide.methods
    lucky = replace(lucky, gain=replace(lucky.gain, mean=9.0, n=3))  # on three easy ones
    fair = replace(fair, gain=replace(fair.gain, low=-0.1))
    guide = replace(study.guide, methods=(lucky, fair, *rest))
    line = in_short(replace(study, guide=guide))[4]
    assert f"Of the 3 methods that were run on all 8 data sets, {fair.method} has" in line
    assert "partly by luck; the interval holds 0)" in line
    alone = replace(guide, methods=(lucky,))
    assert "No method was run on all 8 data sets." in in_short(replace(study, guide=alone))[4]
