from __future__ import annotations

from pathlib import Path

import pytest

from ntdh_bench.datamodules.nyuv2 import glance
from ntdh_bench.datamodules.nyuv2.glance import lacking


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_pairs_or_scenes_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glance, "PART_SIZE", {"train": 2, "test": 1})
    assert lacking(tmp_path) == "no pairs, no scenes"
    prepared = tmp_path / "nyuv2" / "prepared"
    for kind in ("rgb", "depth", "label40"):
        touch(*(prepared / kind / f"{number:04d}.png" for number in (1, 2, 3)))
    assert lacking(tmp_path) == "no split.json"
    touch(prepared / "split.json", prepared / "depth" / "._0001.png")
    assert lacking(tmp_path) is None
    (prepared / "depth" / "0002.png").unlink()
    assert lacking(tmp_path) == "depth: 2 of 3"
    touch(prepared / "depth" / "0002.png", tmp_path / "nyu_ssc" / "NYUtrain" / "NYU0001_0000.bin")
    assert lacking(tmp_path) == "1 of 2 train scenes"
    touch(tmp_path / "nyu_ssc" / "NYUtrain" / "NYU0002_0000.bin")
    assert lacking(tmp_path) == "0 of 1 test scenes"
    touch(tmp_path / "nyu_ssc" / "NYUtest_npz" / "NYU0003_0000.npz")
    assert lacking(tmp_path) is None


def test_published_files(tmp_path: Path) -> None:
    folder = tmp_path / "nyuv2"
    touch(folder / "nyu_depth_v2_labeled.mat", folder / "splits.mat")
    assert lacking(tmp_path) == "no classMapping40.mat"
    touch(folder / "classMapping40.mat")
    assert lacking(tmp_path) is None
