from __future__ import annotations

import pytest

from ntdh_bench.notices import notice


def test_only_the_first_process_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notice("two\nlines")
    monkeypatch.setenv("LOCAL_RANK", "1")
    notice("other")
    said = capsys.readouterr()
    assert said.err == "ntdh-bench: note: two lines\n"
    assert said.out == ""
