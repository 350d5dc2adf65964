from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ntdh_bench.commands.data import main
from ntdh_bench.datasets import catalogue, find_dataset, write_marker
from ntdh_bench.errors import UserError
from tests.ntdh_bench.people.files import write_votes


def test_list_names_the_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "mnist" in shown
    assert "synthetic" in shown
    assert "missing" in shown
    for info in catalogue():
        assert f"{info.name}: {info.licence}; {info.how_to_get}" in shown


@pytest.mark.parametrize("there", [True, False])
def test_list_has_one_line_of_100_characters_a_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    for name in ("mnist", "ravdess", "semantickitti", "nyuv2") if there else ():
        (tmp_path / name).mkdir()
    main(["data", "list", "--root", str(tmp_path)])
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert len(lines) == 1 + len(catalogue())
    assert max(map(len, lines)) <= 100
    assert sum("incomplete" in line for line in lines) == 4 * there


def test_a_narrow_terminal_cuts_the_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    main(["data", "list", "--root", str(tmp_path)])
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert len(lines) == 1 + len(catalogue())
    assert max(map(len, lines)) == 40


def test_sample_then_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path / "new")
    assert main(["data", "sample", "mnist", "--root", root, "--seed", "3"]) == 0
    assert main(["data", "verify", "mnist", "--root", root]) == 0
    shown = capsys.readouterr().out
    assert shown.count("simulated  mnist/MNIST/raw") == 4
    assert "mnist: all ok" in shown


def test_verify_fails_where_something_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "verify", "mnist", "--root", str(tmp_path)]) == 1
    assert "mnist: 6 of 6 wrong" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["prepare", "verify", "sample"])
def test_synthetic_data_need_no_files(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", action, "synthetic"]) == 0
    assert "made on the fly" in capsys.readouterr().out


def test_prepare_from_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        main(
            ["data", "prepare", "mnist", "--root", str(tmp_path), "--from", str(tmp_path / "none")]
        )


def test_sample_needs_a_root_and_leaves_other_files_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --root"):
        main(["data", "sample", "mnist"])
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "real").write_text("")
    with pytest.raises(UserError, match="may hold real data"):
        main(["data", "sample", "mnist", "--root", str(tmp_path)])


def test_options_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "prepare", "--help"])
    shown = capsys.readouterr().out
    assert "options of ravdess" in shown
    assert "--backend {librosa,torchaudio}" in shown
    with pytest.raises(UserError, match="--jobs is no option of mnist, which has none of its own"):
        main(["data", "prepare", "mnist", "--jobs", "2", "--root", str(tmp_path)])
    given = ["--from", str(tmp_path)]
    with pytest.raises(UserError, match="RAVDESS is missing"):
        main(["data", "prepare", "--backend", "torchaudio", "--songs", "ravdess", *given])
    with pytest.raises(SystemExit):
        main(["data", "prepare", "ravdess", "--backend", "sox", *given])


def test_options_reach_prepare_with_their_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    got: dict[str, Any] = {}

    def prepare(root: Path, from_folder: Path | None, **options: Any) -> list[str]:
        got.update(options)
        return ["done"]

    info = replace(find_dataset("ravdess"), prepare=prepare)
    monkeypatch.setattr("ntdh_bench.commands.data.find_dataset", lambda name: info)
    assert (
        main(["data", "prepare", "ravdess", "--root", str(tmp_path), "--frames", "3", "--songs"])
        == 0
    )
    assert got == {
        "backend": "librosa", "songs": True, "frames": 3, "image_height": 256,
        "image_width": 512, "jobs": None, "tolerance": 0,
    }  # fmt: skip
    assert "ravdess: done" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--from .*none: no such folder"):
        main(["data", "prepare", "ravdess", "--from", str(tmp_path / "none")])


def test_addresses_of_all_sets_are_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, bool] = {}

    def url_fault(url: str, *, page: bool = False) -> str | None:
        asked[url] = page
        return "HTTP 404 Not Found" if url == gone else None

    monkeypatch.setattr("ntdh_bench.downloads.url_fault", url_fault)
    gone = "none"
    assert main(["data", "addresses"]) == 0
    assert f"all {len(asked)} ok" in capsys.readouterr().out
    files = {url for info in catalogue() for url in info.file_urls()}
    assert {url for url, page in asked.items() if not page} == files
    assert {url for url, page in asked.items() if page} == {
        url for info in catalogue() for url in info.page_urls
    }
    gone = find_dataset("wiki").page_urls[0]
    assert main(["data", "addresses"]) == 1
    shown = capsys.readouterr().out
    assert f"wiki: {gone}: HTTP 404 Not Found" in shown
    assert f"1 of {len(asked)} wrong" in shown


def test_votes_are_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_votes(tmp_path), tmp_path / "new" / "votes.yaml"
    assert main(["data", "votes", str(path), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines[:4]] == [
        "people", "voice, face", "voice, both", "face, both",
    ]  # fmt: skip
    assert lines[4] == "4 clips, 3 actors; nats"
    pairs = yaml.safe_load(out.read_text())["pairs"]
    assert f"{pairs[0]['ncjsd'][0]:.4f}" in lines[1]
    with pytest.raises(UserError, match="missing; expected tabulatedVotes"):
        main(["data", "votes", str(tmp_path / "none.csv"), "--out", str(tmp_path / "x.yaml")])
    assert not (tmp_path / "x.yaml").exists()


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"unknown data set 'x': choose one of .*mnist, nyuv2, pairs.*, ravdess"
    ):
        main(["data", "verify", "x"])
    with pytest.raises(SystemExit) as stopped:
        main(["data", "delete", "mnist"])
    assert stopped.value.code == 2
    assert "list" in capsys.readouterr().err


def test_verify_takes_a_file_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, values = tmp_path / "own.npz", np.arange(24.0).reshape(12, 2)
    part = np.repeat(["train", "test"], 6)
    np.savez(path, a=values, b=values[:, 0], label=np.resize([0, 1, 2], 12), part=part)
    assert main(["data", "verify", str(path), "--target", "label", "--split", "part"]) == 0
    shown = capsys.readouterr().out
    for told in ("a: float64 (12, 2)", "b: float64 (12,)", "6 train, 6 test, 3 classes, no groups"):
        assert told in shown
    np.savez(path, a=values * 0, b=values[:, 0] * 0, target=np.repeat([0, 1], 6), split=part)
    assert main(["data", "verify", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "a: all samples are equal" in shown
    assert "1 classes have no train samples" in shown
    assert "6 test samples are training samples as well" in shown
    with pytest.raises(UserError, match="--split names an array of a"):
        main(["data", "verify", "mnist", "--split", "x", "--root", str(tmp_path)])


def test_verify_trusts_neither_a_place_nor_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a\x1b[2J", "b\nok          real       wiki.npz"]
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        for name in (*names, "target"):
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, np.arange(6) % 2 if name == "target" else np.arange(6.0))
    write_marker(tmp_path, {})
    assert main(["data", "verify", str(tmp_path / "own.npz")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("ok          simulated") == len(shown.splitlines()) - 1
    assert "\x1b" not in shown
