from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ntdh_bench.datamodules.semantickitti.layout import (
    SEQUENCE_LENGTH,
    TEST_SEQUENCES,
    TRAIN_SEQUENCES,
    VAL_SEQUENCES,
    frames,
    present_sequences,
    require_sequences,
    sequences_folder,
)
from ntdh_bench.errors import UserError


def test_splits_are_apart_and_complete() -> None:
    used = [*TRAIN_SEQUENCES, *VAL_SEQUENCES, *TEST_SEQUENCES]
    assert sorted(used) == list(SEQUENCE_LENGTH)
    assert sum(SEQUENCE_LENGTH.values()) == 23_201


@pytest.mark.parametrize("inside", ["semantickitti", "semantickitti/dataset", ".", "dataset"])
def test_where_the_sequences_may_lie(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside / "sequences"
    folder.mkdir(parents=True)
    assert sequences_folder(tmp_path).samefile(folder)


def test_missing_sequences(street: Path) -> None:
    folder = sequences_folder(street)
    (folder / "poses").mkdir()
    assert present_sequences(folder) == [0, 8, 10]
    require_sequences(folder, [0, 10])
    with pytest.raises(UserError, match=r"sequences missing: 01, 09 \(there: 00, 08, 10\)"):
        require_sequences(folder, [0, 1, 9])


def test_frames(sequence: Path) -> None:
    found = frames(sequence)
    assert [frame.scan.name for frame in found] == ["000000.bin", "000001.bin", "000002.bin"]
    assert found[1].labels == sequence / "labels" / "000001.label"
    assert found[1].image == sequence / "image_2" / "000001.png"
    assert {frame.dense for frame in frames(sequence, dense=True)} == {None}


@pytest.mark.parametrize("file", ["labels/000001.label", "image_2/000001.png"])
def test_a_scan_without_its_partner(sequence: Path, file: str) -> None:
    (sequence / file).unlink()
    with pytest.raises(UserError, match=rf"{file} is missing \(1 of 3 in all\)"):
        frames(sequence)


def test_dense_labels_must_be_complete(sequence: Path) -> None:
    shutil.copytree(sequence / "image_2", sequence / "image_2_labels")
    assert frames(sequence, dense=True)[2].dense == sequence / "image_2_labels" / "000002.png"
    assert frames(sequence)[2].dense is None
    (sequence / "image_2_labels" / "000002.png").unlink()
    with pytest.raises(UserError, match=r"image_2_labels/000002\.png is missing"):
        frames(sequence, dense=True)


def test_no_scans(sequence: Path) -> None:
    shutil.rmtree(sequence / "velodyne")
    with pytest.raises(UserError, match=r"velodyne: no \*\.bin"):
        frames(sequence)
