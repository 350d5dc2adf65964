from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntdh_bench.datamodules.nyuv2 import prepare as module
from ntdh_bench.datamodules.nyuv2.pairs import PreparedFolder, resized
from ntdh_bench.datamodules.nyuv2.prepare import prepare, verify
from ntdh_bench.datasets import write_marker
from ntdh_bench.errors import UserError
from tests.datamodules.nyuv2.files import SPLIT, pair


@pytest.fixture
def published(tmp_path: Path, mat: Path) -> Path:
    """A data root with the three published files."""
    (tmp_path / "root").mkdir()
    return mat.rename(tmp_path / "root" / "nyuv2").parent


@pytest.mark.parametrize("full_size", [False, True])
def test_prepared_from_the_published_file(published: Path, full_size: bool) -> None:
    lines = list(prepare(published, full_size=full_size))
    folder = published / "nyuv2" / "prepared"
    size = (12, 16) if full_size else (6, 8)
    assert lines == [f"5 labelled pairs of {size[1]}x{size[0]} in {folder}"]
    source = PreparedFolder(folder)
    assert source.split == SPLIT
    for index in range(1, 6):
        for found, expected in zip(source.read(index), resized(pair(index), size), strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


def test_what_is_there_stays(published: Path) -> None:
    list(prepare(published))
    before = (published / "nyuv2" / "prepared" / "rgb" / "0001.png").stat()
    assert "8x6" in next(prepare(published))
    with pytest.raises(UserError, match=r"prepared holds pairs of 8x6: delete it .* --full_size"):
        list(prepare(published, full_size=True))
    assert (published / "nyuv2" / "prepared" / "rgb" / "0001.png").stat() == before


def test_an_interrupted_one_leaves_nothing(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise UserError("stopped")

    monkeypatch.setattr(module, "resized", stop)
    with pytest.raises(UserError, match="stopped"):
        list(prepare(published))
    assert sorted(path.name for path in (published / "nyuv2").iterdir() if path.is_dir()) == []


def test_from_another_folder(tmp_path: Path, mat: Path) -> None:
    source = tmp_path / "downloads" / "nyu"
    source.parent.mkdir()
    mat.rename(source)
    root = tmp_path / "root"
    list(prepare(root, tmp_path / "downloads"))
    assert (root / "nyuv2" / "splits.mat").resolve() == source / "splits.mat"
    assert len(PreparedFolder(root / "nyuv2" / "prepared").split["train"]) == 3


def test_nothing_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="NYU Depth V2 is missing: neither"):
        list(prepare(tmp_path))


def test_verify(prepared: Path) -> None:
    root = prepared.parents[1]
    check = verify(root)[0]
    assert (check.path, check.state) == (prepared, "incomplete")
    assert "3 + 2 pairs of 16x12, all decoded; 40 of 40 classes" in check.note
    assert "795 + 654" in check.note
    write_marker(prepared.parent, {})
    assert verify(root)[0].state == "ok"
    (prepared / "label40" / "0003.png").write_bytes(b"")
    check = verify(root)[0]
    assert check.state == "corrupt"
    assert "0003.png: damaged, or not a" in check.note


def test_verify_wants_the_files_of_one_task_only(prepared: Path, tmp_path: Path) -> None:
    root = prepared.parents[1]
    assert [check.path for check in verify(root)] == [prepared]
    (root / "nyu_ssc" / "NYUtrain").mkdir(parents=True)
    assert [check.state for check in verify(root)] == ["incomplete", "corrupt", "missing"]
    (tmp_path / "other" / "nyu_ssc" / "NYUtrain").mkdir(parents=True)
    assert [check.state for check in verify(tmp_path / "other")] == ["corrupt", "missing"]


def test_verify_the_published_file(published: Path) -> None:
    check = verify(published)[0]
    assert check.state == "incomplete"
    assert "3 + 2 pairs of 16x12" in check.note


def test_scenes_are_decoded_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def prepared_scenes(folder: Path, cache_dir: Path, part: str) -> list[int]:
        asked.append((folder, part))
        return [0] * len(part)

    monkeypatch.setattr(module, "prepared_scenes", prepared_scenes)
    for name in ("NYUtrain", "NYUtest"):
        (tmp_path / "download" / name).mkdir(parents=True)
    root = tmp_path / "root"
    lines = list(prepare(root, tmp_path / "download"))
    folder = root / "nyu_ssc"
    assert asked == [(folder, "train"), (folder, "test")]
    assert lines == [f"5 + 4 scenes of {folder} decoded into the cache"]
