from __future__ import annotations

import os
from pathlib import Path

import pytest

from ntdh_bench.cli import main
from tests.helpers import refusal, run_script
from tests.ntdh_bench.pictures.made import made_pictures
from tests.ntdh_bench.show.made import made_run


def test_show_writes_a_page_in_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "run", pictures=made_pictures())
    assert main(["show", str(run)]) == 0
    assert (run / "run.html").read_text().startswith("<!doctype html>")
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"open     {run / 'run.html'}"
    assert said[0].startswith("missing: no TensorBoard log")


def test_show_writes_where_it_is_told(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    assert main(["show", str(run / "record.json"), "--output", str(tmp_path / "a.html")]) == 0
    assert (tmp_path / "a.html").is_file()
    assert not (run / "run.html").exists()


def test_what_is_no_run_and_a_page_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no run" in refusal(["show", str(tmp_path)], capsys)
    run = made_run(tmp_path / "run")
    (tmp_path / "file").touch()
    assert "file" in refusal(["show", str(run), "--output", str(tmp_path / "file" / "x")], capsys)


def test_neither_command_imports_torch(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", pictures=made_pictures())
    (run / "tensorboard").mkdir()
    log = run / "tensorboard" / "events.out.tfevents.0"
    log.write_bytes(b"")
    words = [["show", os.fspath(run)], ["compare", os.fspath(run)]]
    run_script(
        "import sys; from ntdh_bench.cli import main\n"
        f"assert [main(each) for each in {words}] == [0, 0]\n"
        "assert not {'torch', 'lightning', 'torchmetrics'} & sys.modules.keys()"
    )
