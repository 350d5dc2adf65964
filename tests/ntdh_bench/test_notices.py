from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ntdh_bench.notices import is_quiet, logged_to, notice, say, speaking


def test_only_the_first_process_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notice("two\nlines")
    monkeypatch.setenv("LOCAL_RANK", "1")
    notice("other")
    said = capsys.readouterr()
    assert said.err == "ntdh-bench: note: two lines\n"
    assert said.out == ""


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (logging.WARNING, "ntdh-bench: note: heed\n"),
        (logging.INFO, "ntdh-bench: note: heed\nepoch 1\n"),
        (logging.DEBUG, "ntdh-bench: note: heed\nepoch 1\nstep 1\n"),
    ],
)
def test_what_is_said_goes_by_verbosity_and_the_log_has_all(
    verbosity: int, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    with speaking(verbosity), logged_to(log):
        notice("heed")
        say("epoch 1")
        say("step 1", detail=True)
    assert capsys.readouterr().err == shown
    assert not is_quiet()
    said = [line.split("  ", 1)[1] for line in log.read_text().splitlines()]
    assert said == ["heed", "epoch 1", "step 1"]


def test_a_log_that_cannot_be_written_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with logged_to(Path("/dev/full")):
        say("epoch 1")
    assert capsys.readouterr().err == "epoch 1\n"
