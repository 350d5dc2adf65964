from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntdh_bench.datamodules.ravdess.features import FeatureTable, read_features
from ntdh_bench.datamodules.ravdess.names import ClipName
from ntdh_bench.errors import UserError

from .conftest import NAMES, write_features


def test_reads_pairs(tmp_path: Path) -> None:
    table = read_features(write_features(tmp_path / "f.npz"))
    assert table.names == tuple(map(ClipName.parse, NAMES))
    assert table.audio.shape == (len(NAMES), 6)
    assert table.face.dtype == np.float32
    other = read_features(write_features(tmp_path / "g.npz", audio_x=np.ones((len(NAMES), 6))))
    assert table.digest != other.digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "no array `name`"),
        ({"name": np.arange(len(NAMES))}, "name is int64 .*, expected kind U"),
        ({"name": np.array(["x", *NAMES[1:]])}, "name 0 is none of RAVDESS"),
        ({"name": np.array([NAMES[1], *NAMES[1:]])}, "given twice"),
        ({"name": np.array(["02" + NAMES[1][2:], *NAMES[1:]])}, "given twice"),
        ({"audio_x": None}, "0 arrays of numbers called audio_"),
        ({"face_y": np.ones((len(NAMES), 2))}, "2 arrays of numbers called face_"),
        ({"audio_x": np.ones((3, 6))}, r"audio_\* has the shape \(3, 6\)"),
        ({"face_x": np.full((len(NAMES), 4), np.nan)}, "not finite"),
        ({"audio_x": np.full((len(NAMES), 6), 1e300)}, "not finite"),  # in single precision
        ({"actor": np.ones(len(NAMES), int)}, "'actor' does not agree with the names"),
        ({"emotion": np.ones(2, int)}, "'emotion' does not agree with the names"),
        ({"audio_x": np.array([["a"]], dtype=object)}, "not a .npz of plain arrays"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_features(tmp_path / "f.npz", **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_features(path)
    assert str(path) in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    with pytest.raises(UserError, match="is missing"):
        read_features(path)
    path.write_text("no archive")
    with pytest.raises(UserError, match=r"not a \.npz"):
        read_features(path)
    whole = write_features(tmp_path / "g.npz").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"not a \.npz"):
        read_features(path)
    np.savez_compressed(path, name=np.zeros(1000), other=np.zeros(1000))
    content = bytearray(path.read_bytes())
    content[60:120] = b"x" * 60  # within the first array's stream
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a \.npz"):
        read_features(path)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez_compressed(path, name=np.array(NAMES), audio_x=np.zeros((len(NAMES), 12_000)))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match=r"f\.npz: more than \d+ bytes of arrays"):
        read_features(path)


def test_every_message_is_short_and_quotes_nothing(tmp_path: Path) -> None:
    path = write_features(tmp_path / "f.npz", name=np.array(["secret" * 500, *NAMES[1:]]))
    with pytest.raises(UserError) as caught:
        read_features(path)
    assert len(str(caught.value)) <= 400
    assert "secret" not in str(caught.value)


def test_copies_in_either_modality_are_found() -> None:
    audio = np.array([[0], [1], [2], [2], [4], [5]], np.float32)
    face = np.array([[0], [1], [1], [3], [4], [0]], np.float32)
    names = tuple(map(ClipName.parse, NAMES[:6]))
    copies = FeatureTable(names, audio, face).copies
    assert len({int(copies[row]) for row in (1, 2, 3)}) == 1  # 1 and 2 by face, 2 and 3 by audio
    assert copies[0] == copies[5]
    assert len(copies.unique()) == 3
    assert copies.dtype == torch.int64


def test_the_public_features(data_root: Path) -> None:
    path = data_root / "ravdess" / "features" / "au_mfcc.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    table = read_features(path)
    assert table.audio.shape == (1440, 259)
    assert table.face.shape == (1440, 35)
    first, second = (
        table.names.index(ClipName.parse(f"01-01-03-01-02-{repetition}-07"))
        for repetition in ("01", "02")
    )
    assert table.copies[first] == table.copies[second]
    assert len(table.copies.unique()) == 1439
