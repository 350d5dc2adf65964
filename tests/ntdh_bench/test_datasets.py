from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ntdh_bench import plugins
from ntdh_bench.datasets import (
    MARKER,
    DatasetInfo,
    begin_simulated,
    catalogue,
    data_root,
    find_dataset,
    is_simulated,
    state_of,
    write_marker,
)
from ntdh_bench.errors import UserError


def test_catalogue_is_sorted_and_complete() -> None:
    names = [info.name for info in catalogue()]
    assert names == sorted(names)
    assert {"mnist", "synthetic"} <= set(names)
    assert find_dataset("mnist").folders == ("mnist", "bsds500")
    with pytest.raises(UserError, match=r"unknown data set 'nope': choose one of .*mnist"):
        find_dataset("nope")


def test_entry_point_that_is_no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = EntryPoint("odd", "ntdh_bench.datasets:MARKER", "ntdh_bench.datasets")
    monkeypatch.setattr(plugins, "entry_points", lambda group: (odd,))
    with pytest.raises(UserError, match=r"ntdh_bench\.datasets:MARKER gives no DatasetInfo"):
        catalogue()


def test_root_is_the_argument_the_variable_or_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTDH_DATA", "/somewhere")
    assert data_root("here") == Path("here")
    assert data_root(None) == Path("/somewhere")
    monkeypatch.delenv("NTDH_DATA")
    assert data_root(None) == Path("data")


def test_marker_counts_from_the_root_down(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "a" / "b"
    folder.mkdir(parents=True)
    write_marker(tmp_path, {"seed": 1})
    assert not is_simulated(folder, tmp_path / "root")
    assert json.loads((tmp_path / MARKER).read_text()) == {"source": "simulated", "seed": 1}
    write_marker(tmp_path / "root" / "a", {})
    assert is_simulated(folder, tmp_path / "root")
    assert is_simulated(folder.parent, folder)  # outside the root: only the folder itself


def test_only_folders_without_other_files_may_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "file").write_text("")
    with pytest.raises(UserError, match=r"is not empty and has no SIMULATED\.json"):
        begin_simulated(tmp_path, ["none", "a"])
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match=r"file is a file: name another --root"):
        begin_simulated(folder, ["file"])
    (folder / "file").unlink()
    for seed in (1, 2):
        begin_simulated(tmp_path, ["none", "a"], ["a/b"], seed=seed)
    for name in ("none", "a", "a/b"):
        facts = json.loads((tmp_path / name / MARKER).read_text())
        assert facts == {"source": "simulated", "generator": "ntdh-bench", "seed": 2}


def test_state_of_a_data_set(tmp_path: Path) -> None:
    mnist = find_dataset("mnist")
    assert state_of(find_dataset("synthetic"), tmp_path) == ("not needed", None)
    assert state_of(mnist, tmp_path) == ("missing", None)
    (tmp_path / "mnist").mkdir()
    assert state_of(mnist, tmp_path) == ("incomplete", "no train images of MNIST")
    assert state_of(replace(mnist, lacking=lambda root: None), tmp_path) == ("real", None)

    def unreadable(root: Path) -> None:
        raise UserError("no")

    state, _ = state_of(replace(mnist, lacking=unreadable), tmp_path)
    assert state == "incomplete"
    write_marker(tmp_path / "mnist", {})
    assert state_of(mnist, tmp_path) == ("simulated", None)


@pytest.mark.parametrize("info", catalogue(), ids=lambda info: info.name)
def test_what_is_lacking_of_nothing(info: DatasetInfo, tmp_path: Path) -> None:
    for name in info.folders:
        (tmp_path / name).mkdir(parents=True)
    state, lacking = state_of(info, tmp_path)
    assert (state == "incomplete") == (info.lacking is not None)
    assert lacking is None or len(lacking) <= 34  # what a line of 80 characters has room for
