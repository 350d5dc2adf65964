from __future__ import annotations

import pytest

from ntdh_bench.datamodules.ravdess.names import ClipName
from ntdh_bench.errors import UserError


def test_fields_of_a_name() -> None:
    name = ClipName.parse("03-01-06-02-01-02-12")
    assert name == (3, 1, 6, 2, 1, 2, 12)
    assert (name.emotion, name.target, name.actor) == (6, 5, 12)
    assert name.key == ClipName.parse("01-01-06-02-01-02-12").key
    assert str(name) == "03-01-06-02-01-02-12"


@pytest.mark.parametrize(
    "stem",
    [
        "03-01-06-02-01-12",  # six fields
        "03-01-09-01-01-01-01",  # no such emotion
        "03-01-01-01-01-01-25",  # no such actor
        "00-01-01-01-01-01-01",
        "3-1-1-1-1-1-1",
        "03-01-06-02-01-02-12 (copy)",
        "03-01-06-02-01-02-1²",
        "",
    ],
)
def test_other_names_are_refused(stem: str) -> None:
    with pytest.raises(UserError, match="is not the name of a RAVDESS file"):
        ClipName.parse(stem)
