from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ntdh_bench.errors import LONGEST, FileError
from ntdh_bench.people.votes import MODALITIES, read_votes
from tests.ntdh_bench.people.files import CLIPS, counts, lines, write_votes


def test_votes_are_read_by_clip(tmp_path: Path) -> None:
    found = read_votes(write_votes(tmp_path, [lines()[0], *reversed(lines()[1:])]))
    assert found.clips == CLIPS
    assert found.actor.tolist() == [1001, 1001, 1002, 1003]
    assert found.target.tolist() == [0, 4, 5, 3]
    for name, expected in zip(MODALITIES, counts(), strict=True):
        np.testing.assert_array_equal(found.counts[name], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "not every clip has votes of all three modalities"),
        (lambda text: text[:1], "not every clip has votes"),
        (lambda text: [*text, text[-1]], "line 14: a clip twice"),
        (lambda text: [text[0].replace('"F"', '"X"'), *text[1:]], "no column 'F'"),
        (lambda text: [*text, '"400001",0,0,0,0,0,0,"1001_IEO_ANG_HI"'], "line 14 is not of this"),
        (lambda text: [*text, '"100009",0,0,0,0,0,0,"1001_IEO_JOY_HI"'], "line 14 is not of this"),
        (lambda text: [*text, '"100009",0,0,-1,0,0,0,"1009_IEO_ANG_HI"'], "line 14 is not of this"),
        (lambda text: [*text, '"100009",0,0,²,0,0,0,"1009_IEO_ANG_HI"'], "line 14 is not of this"),
        (lambda text: [*text, '"100009",0,0'], "line 14 is not of this"),
        (lambda text: [*text, f'"{"1" * 200_000}"'], "damaged, or not a CSV"),
    ],
)
def test_other_tables_are_refused(
    change: Callable[[list[str]], list[str]], message: str, tmp_path: Path
) -> None:
    path = write_votes(tmp_path, change(lines()))
    with pytest.raises(FileError, match=message) as told:
        read_votes(path)
    assert len(str(told.value)) <= LONGEST


def test_the_published_table(data_root: Path) -> None:
    found = read_votes(data_root / "cremad_votes" / "tabulatedVotes.csv")
    assert len(found.clips) == 7442
    assert len(np.unique(found.actor)) == 91
    assert [int(found.counts[name].sum()) for name in MODALITIES] == [68568, 71654, 71778]
