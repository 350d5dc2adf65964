"""What a stack tells of itself, and what is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ntdh_bench.stacks.progress import tell, told


def test_what_is_told_is_read(tmp_path: Path) -> None:
    assert told(tmp_path) == ""
    tell(tmp_path, "students", 3, 40)
    assert told(tmp_path) == "students, epoch 3 of 40"
    tell(tmp_path, "teachers", 4, None)
    assert told(tmp_path) == "teachers, epoch 4"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"stage": "students"}', '{"stage": "\\u001b[2J", "epoch": 1, "epochs": 2}'],
)
def test_other_content_tells_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(text)
    assert told(tmp_path) == ""
