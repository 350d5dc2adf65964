from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ntdh_bench.commands.data import main
from ntdh_bench.errors import UserError


def test_list_names_the_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "mnist" in shown
    assert "synthetic" in shown
    assert "missing" in shown


def test_sample_then_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path / "new")
    assert main(["sample", "mnist", "--root", root, "--seed", "3"]) == 0
    assert main(["verify", "mnist", "--root", root]) == 0
    shown = capsys.readouterr().out
    assert shown.count("simulated  mnist/MNIST/raw") == 4
    assert "mnist: all ok" in shown


def test_verify_fails_where_something_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "mnist", "--root", str(tmp_path)]) == 1
    assert "mnist: 6 of 6 wrong" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["prepare", "verify", "sample"])
def test_synthetic_data_need_no_files(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([action, "synthetic"]) == 0
    assert "made on the fly" in capsys.readouterr().out


def test_prepare_from_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        main(["prepare", "mnist", "--root", str(tmp_path), "--from", str(tmp_path / "none")])


def test_sample_needs_a_root_and_leaves_other_files_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --root"):
        main(["sample", "mnist"])
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "real").write_text("")
    with pytest.raises(UserError, match="may hold real data"):
        main(["sample", "mnist", "--root", str(tmp_path)])


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="unknown data set 'x': choose one of mnist, synthetic"):
        main(["verify", "x"])
    with pytest.raises(SystemExit) as stopped:
        main(["delete", "mnist"])
    assert stopped.value.code == 2
    assert "list" in capsys.readouterr().err


def test_no_action_imports_torch(tmp_path: Path) -> None:
    code = """
import sys
from ntdh_bench.commands.data import main
main(["list"])
assert not {"numpy", "torch", "lightning"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
