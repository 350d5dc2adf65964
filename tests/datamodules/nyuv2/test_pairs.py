from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ntdh_bench.datamodules.nyuv2.matfile import LabelledMat
from ntdh_bench.datamodules.nyuv2.pairs import PreparedFolder, pair_source, prepared_pairs, resized
from ntdh_bench.datamodules.store import Arrays
from ntdh_bench.errors import UserError
from tests.datamodules.nyuv2.files import SIZE, SPLIT, pair, write_mat


def train(root: Path, cache: Path, size: tuple[int, int] = SIZE) -> Arrays:
    return prepared_pairs(root, cache, "train", size=size)


def check_whole(arrays: Arrays, indices: list[int]) -> None:
    assert arrays.names == [f"{index:04d}" for index in indices]
    for position, index in enumerate(indices):
        expected = pair(index)
        assert np.array_equal(arrays["rgb"][position], expected.rgb.transpose(2, 0, 1))
        assert np.array_equal(arrays["depth"][position], expected.depth)
        assert np.array_equal(arrays["label"][position], expected.label)


def test_holds_what_the_files_say(prepared: Path, tmp_path: Path) -> None:
    root = prepared.parents[1]
    check_whole(train(root, tmp_path / "cache"), SPLIT["train"])
    check_whole(prepared_pairs(root, tmp_path / "cache", "test", size=SIZE), SPLIT["test"])


def test_the_published_file_gives_the_same(prepared: Path, mat: Path, tmp_path: Path) -> None:
    mat.rename(tmp_path / "nyuv2")
    assert isinstance(pair_source(tmp_path), LabelledMat)
    published = train(tmp_path, tmp_path / "cache")
    check_whole(published, SPLIT["train"])
    assert published.digest == train(prepared.parents[1], tmp_path / "cache").digest


def test_the_prepared_folder_comes_first(prepared: Path) -> None:
    root = prepared.parents[1]
    write_mat(root / "published")
    for path in (root / "published").iterdir():
        path.rename(root / "nyuv2" / path.name)
    assert isinstance(pair_source(root), PreparedFolder)


def test_photographs_may_be_jpeg(prepared: Path, tmp_path: Path) -> None:
    for path in (prepared / "rgb").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=92)
        path.unlink()
    arrays = train(prepared.parents[1], tmp_path / "cache")
    expected = pair(SPLIT["train"][0])
    close = np.abs(arrays["rgb"][0].astype(int) - expected.rgb.transpose(2, 0, 1))
    assert close.mean() < 4
    assert np.array_equal(arrays["label"][0], expected.label)


def test_resized() -> None:
    whole = pair(3)
    rgb, depth, label = resized(whole, (6, 8))
    mean = whole.rgb.reshape(6, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(rgb - mean).max() <= 0.5
    assert np.array_equal(depth, whole.depth[1::2, 1::2])
    assert np.array_equal(label, whole.label[1::2, 1::2])
    assert resized(whole, SIZE) is whole
    assert [array.shape[:2] for array in resized(whole, (5, 7))] == [(5, 7)] * 3


def test_is_made_once_and_anew_for_other_files(prepared: Path, tmp_path: Path) -> None:
    root, cache = prepared.parents[1], tmp_path / "cache"
    first = train(root, cache)
    assert train(root, cache).folder == first.folder
    assert train(root, cache, (6, 8)).folder != first.folder
    Image.new("RGB", SIZE[::-1]).save(prepared / "rgb" / "0002.png")
    assert train(root, cache).digest != first.digest


def test_larger_than_the_files(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"32x24 pixels are asked for, but .* have 16x12: choose"):
        train(prepared.parents[1], tmp_path / "cache", (24, 32))


@pytest.mark.parametrize(
    ("kind", "name"), [("rgb", "0004.jpg"), ("depth", "0004.png"), ("label40", "0004.png")]
)
def test_a_missing_partner(prepared: Path, kind: str, name: str) -> None:
    (prepared / kind / "0004.png").unlink()
    with pytest.raises(UserError, match=rf"{kind}/{name} is missing \(1 such files"):
        PreparedFolder(prepared)


@pytest.mark.parametrize(
    ("kind", "image", "message"),
    [
        ("rgb", Image.new("L", SIZE[::-1]), "mode L, expected 8-bit RGB"),
        ("rgb", Image.new("RGB", (8, 6)), "8x6, but the first image has 16x12"),
        ("depth", Image.new("L", SIZE[::-1]), "mode L, expected 16-bit grey"),
        ("depth", Image.new("I;16", (16, 13)), "16x13, but the first image has 16x12"),
        ("label40", Image.new("L", SIZE[::-1], 41), "label 41, expected at most 40"),
        ("label40", Image.new("L", (12, 16)), "12x16, but the first image has 16x12"),
        ("label40", Image.new("L", (4000, 1001)), "expected at most 4000000"),
    ],
)
def test_another_image(prepared: Path, kind: str, image: Image.Image, message: str) -> None:
    image.save(prepared / kind / "0004.png")
    with pytest.raises(UserError, match=rf"{kind}/0004\.png: .*{message}"):
        PreparedFolder(prepared).read(4)


def test_another_format_under_the_name(prepared: Path) -> None:
    wraps = np.full(SIZE, 66_000, np.int32)  # 464 in 16 bits
    Image.fromarray(wraps).save(prepared / "depth" / "0004.png", format="TIFF")
    with pytest.raises(UserError, match=r"depth/0004\.png: damaged, or not a PNG image"):
        PreparedFolder(prepared).read(4)
    Image.new("RGB", SIZE[::-1]).save(prepared / "rgb" / "0004.png", format="JPEG")
    with pytest.raises(UserError, match=r"rgb/0004\.png: damaged, or not a PNG image"):
        PreparedFolder(prepared).read(4)


def test_hidden_files_are_passed_by(prepared: Path) -> None:
    for kind in ("rgb", "depth", "label40"):
        (prepared / kind / "._0001.png").write_bytes(b"\0\5\x16\7")
    assert PreparedFolder(prepared).read(1).rgb.shape == (*SIZE, 3)


@pytest.mark.parametrize("kind", ["rgb", "depth", "label40"])
@pytest.mark.parametrize("length", [0, 60])
def test_a_damaged_image(prepared: Path, kind: str, length: int) -> None:
    path = prepared / kind / "0002.png"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"{kind}/0002\.png: damaged, or not a"):
        PreparedFolder(prepared).read(2)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": [1, 6], "test": [2]}, r"index 6 of 'train' \(1 in all\) has no pair"),
        ({"train": [1], "test": [0]}, r"index 0 of 'test' .* there are 1\.\.5, counted from 1"),
        ({"train": [1, 2], "test": [2]}, "index 2 is there twice"),
        ({"train": [1]}, "the split, 'test' is not"),
        ({"train": [True], "test": [2]}, r"the split, 'train'\[0\] is not"),
        ({"train": ["1"], "test": [10**9]}, r"the split, 'train'\[0\] is not"),
        ([1, 2], "the split is not"),
    ],
)
def test_split(prepared: Path, split: Any, message: str) -> None:
    (prepared / "split.json").write_text(json.dumps(split))
    with pytest.raises(UserError, match=rf"split\.json: {message}"):
        PreparedFolder(prepared)


@pytest.mark.parametrize("content", [b"\xff{", b"{", b"[" * 200_000])
def test_a_split_that_is_no_json(prepared: Path, content: bytes) -> None:
    (prepared / "split.json").write_bytes(content)
    with pytest.raises(UserError, match=r"split\.json: not (JSON|UTF-8)"):
        PreparedFolder(prepared)
    (prepared / "split.json").unlink()
    with pytest.raises(UserError, match=r"split\.json is missing"):
        PreparedFolder(prepared)


def test_real(data_root: Path) -> None:
    source = pair_source(data_root)
    assert isinstance(source, PreparedFolder)
    assert {part: len(indices) for part, indices in source.split.items()} == {
        "train": 795,
        "test": 654,
    }
    for index in (1, 464, 1449):
        rgb, depth, label = source.read(index)
        assert rgb.shape == (*source.size, 3)
        assert label.shape == depth.shape == source.size
        assert 500 < np.median(depth) < 10_000
        assert 0.4 < (label > 0).mean() < 1


def test_real_against_lossless_samples(data_root: Path) -> None:
    folder = data_root / "nyuv2" / "original_samples"
    if not folder.is_dir():
        pytest.skip("no lossless samples")
    source = pair_source(data_root)
    for index in (433, 464):
        rgb, depth, label = source.read(index)
        with Image.open(folder / f"{index:06d}.png") as image:
            small = image.convert("RGB").resize(source.size[::-1], Image.Resampling.BOX)
        assert np.abs(np.asarray(small).astype(int) - rgb).mean() < 6
        with Image.open(folder / f"segm_gt_{index:06d}.png") as image:
            # There: class - 1, and 255 for none; here otherprop (40) is not told from none.
            published = np.asarray(image)[1::2, 1::2].astype(int) + 1
        assert (published == label)[published < 40].mean() > 0.99
        with Image.open(folder / f"depth_gt_{index:06d}.png") as image:
            millimetres = np.asarray(image)[1::2, 1::2] / 5
        measured = millimetres > 0
        assert np.median(np.abs(millimetres - depth)[measured]) < 25
