from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ntdh_bench.cli import main
from ntdh_bench.show.comparison import ComparedRun, compare, render, text, write_table
from ntdh_bench.show.runs import read_run
from tests.ntdh_bench.show.made import made_run, settings

FITNET = {"class_path": "ntdh_bench.distillers.FitNet", "init_args": {"layer": "=hidden"}}


def compared(*folders: Path) -> list[ComparedRun]:
    return compare([read_run(folder, whole=False) for folder in folders])


def test_the_settings_that_differ_and_the_gains_are_shown(tmp_path: Path) -> None:
    control = made_run(tmp_path / "control", settings(distiller=None), accuracy=0.4)
    first = made_run(tmp_path / "kd", accuracy=0.5)
    second = made_run(tmp_path / "fitnet", settings(distiller=FITNET), accuracy=0.45)
    lines = compared(control, first, second)
    assert [line.mark for line in lines] == ["", "", ""]
    assert [line.settings["model.distiller"] for line in lines] == ["none", "KD", "FitNet"]
    assert lines[2].settings["model.distiller.layer"] == "=hidden"
    assert lines[1].values["gain over w/o KD"] == pytest.approx(10)
    assert lines[1].values["accuracy"] == pytest.approx(50)
    assert "gain over w/o KD" not in lines[0].values
    assert not any("fingerprint" in key or key == "seed" for key in lines[0].settings)


def test_seeds_of_one_run_can_be_compared_though_their_noise_differs(tmp_path: Path) -> None:
    first = made_run(tmp_path / "0", settings(seed=0))
    second = made_run(tmp_path / "1", settings(seed=1))
    lines = compared(first, second)
    assert [line.mark for line in lines] == ["", ""]
    assert [line.settings["seed"] for line in lines] == ["0", "1"]


def test_other_data_splits_and_trainings_are_marked(tmp_path: Path) -> None:
    first = made_run(tmp_path / "first")
    other = made_run(tmp_path / "other", settings(fingerprint="of others"))
    split = made_run(tmp_path / "split", settings(seed=1, split="random"))
    training = made_run(tmp_path / "training", settings(lr=0.2))
    lines = compared(first, other, split, training)
    other_data = "other data: mnist, real"
    assert [line.mark for line in lines] == ["", other_data, other_data, "other training"]
    assert list(lines[0].settings) == ["model.optimizer.lr"], "settings of other data are shown"


def test_an_unfinished_run_has_a_line(tmp_path: Path) -> None:
    first, second = made_run(tmp_path / "first"), made_run(tmp_path / "second")
    (first / "record.json").unlink()
    lines = compared(first, second)
    assert [line.mark for line in lines] == ["not finished", ""]
    assert not lines[0].values


def test_the_table_as_text_csv_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = made_run(tmp_path / "<kd>", accuracy=0.5)
    second = made_run(tmp_path / "fitnet", settings(distiller=FITNET), accuracy=1 / 3)
    written, page = tmp_path / "t.csv", tmp_path / "t.html"
    words = ["compare", str(first), str(second), "--csv", str(written), "--html", str(page)]
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:2] == ["run", "accuracy"]
    assert "model.distiller" in shown[0]
    assert len({line.index("75.00") for line in shown[1:3]}) == 1, "columns are not aligned"
    with written.open() as file:
        lines = list(csv.DictReader(file))
    assert float(lines[1]["accuracy"]) == pytest.approx(100 / 3, rel=1e-12)
    assert lines[1]["model.distiller.layer"] == "'=hidden", "a spreadsheet would compute it"
    assert "&lt;kd&gt;" in page.read_text()
    assert "<kd>" not in page.read_text()


def test_settings_of_any_text_end_nothing_and_move_no_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = {"class_path": "X", "init_args": {"a\x1b[31m\nb": "\x1b[2J\ud800"}}
    runs = [made_run(tmp_path / "a"), made_run(tmp_path / "b", settings(distiller=hostile))]
    written, page = tmp_path / "t.csv", tmp_path / "t.html"
    assert main(["compare", *map(str, runs), "--csv", str(written), "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.splitlines()[2].startswith("b ")
    assert "?" in written.read_text("utf-8")


def test_one_run_is_a_table(tmp_path: Path) -> None:
    lines = compared(made_run(tmp_path / "run"))
    assert len(text(lines)) == 2
    assert "run" in render(lines)
    write_table(tmp_path / "t.csv", lines)


def test_a_folder_is_no_file_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, taken = made_run(tmp_path / "run"), tmp_path / "taken"
    taken.mkdir()
    assert main(["compare", str(run), "--html", str(taken)]) == 1
    assert f"cannot write to {taken}: Is a directory" in capsys.readouterr().err
    assert not list(taken.iterdir())
