from __future__ import annotations

import pytest

from ntdh_bench.progress import progress_bar


def test_shows_how_far_it_is_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("clips", 4, done=1) as update:
        update(advance=1)
    assert "50%" in capsys.readouterr().err
    with progress_bar("file.zip", in_bytes=True) as update:
        update(completed=1500, total=3000)
    shown = capsys.readouterr().err
    assert "file.zip" in shown
    assert "1.5/3.0 kB" in shown
    with progress_bar("nothing", 0):
        pass
    assert "nothing" not in capsys.readouterr().err


def test_says_nothing_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("clips", 4) as update:
        update(advance=1)
    assert capsys.readouterr() == ("", "")
