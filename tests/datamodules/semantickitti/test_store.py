from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ntdh_bench.datamodules.semantickitti import store
from ntdh_bench.datamodules.semantickitti.labels import RAW_TO_CLASS
from ntdh_bench.datamodules.semantickitti.layout import sequences_folder
from ntdh_bench.datamodules.semantickitti.projection import project
from ntdh_bench.datamodules.semantickitti.reader import read_calibration
from ntdh_bench.datamodules.semantickitti.store import PreparedSequence, prepared
from ntdh_bench.errors import UserError
from tests.datamodules.semantickitti.files import SIZE, read_raw, write_sequence


def one(street: Path, cache: Path, **options: bool | float) -> PreparedSequence:
    return prepared(sequences_folder(street), [0], cache, **options)[0]  # type: ignore[arg-type]


def test_holds_what_the_files_say(street: Path, tmp_path: Path) -> None:
    stored = one(street, tmp_path / "cache")
    folder = sequences_folder(street) / "00"
    assert (len(stored), stored.size, stored.names[3]) == (4, SIZE, "000003")
    points, labels = read_raw(folder, "000002")
    matrix = torch.from_numpy(read_calibration(folder / "calib.txt"))
    view = project(torch.from_numpy(points), matrix, SIZE)
    shown, hidden = stored.shown(2, 0, SIZE[0]), stored.hidden(2, 0, SIZE[0])
    assert len(hidden.pixel) == (~view.nearest).sum() > 0
    for seen, mask in ((shown, view.nearest), (hidden, ~view.nearest)):
        order = view.pixel[mask].argsort(stable=True)
        chosen = view.point[mask][order].numpy()
        assert np.array_equal(seen.pixel, view.pixel[mask][order])
        assert np.array_equal(seen.points, points[chosen])
        assert np.array_equal(seen.classes, RAW_TO_CLASS[labels[chosen] & 0xFFFF])
    with Image.open(folder / "image_2" / "000002.png") as image:
        assert np.array_equal(stored["images"][2].transpose(1, 2, 0), np.asarray(image))


def test_rows_of_a_frame(street: Path, tmp_path: Path) -> None:
    stored = one(street, tmp_path / "cache")
    whole, part = stored.shown(1, 0, SIZE[0]), stored.shown(1, 11, 17)
    inside = (whole.pixel // SIZE[1] >= 11) & (whole.pixel // SIZE[1] < 17)
    assert np.array_equal(part.points, whole.points[inside])
    assert len(np.unique(whole.pixel)) == len(whole.pixel)


def test_is_made_once(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = one(street, tmp_path / "cache")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(store, "_prepare", never)
    assert one(street, tmp_path / "cache").digest == first.digest
    with pytest.raises(AssertionError):
        one(street, tmp_path / "cache", scale=0.5)


def test_a_replaced_file_is_prepared_anew(street: Path, tmp_path: Path) -> None:
    before = one(street, tmp_path / "cache")
    shutil.rmtree(sequences_folder(street) / "00")
    write_sequence(sequences_folder(street) / "00", 4, seed=77)
    assert one(street, tmp_path / "cache").digest != before.digest


def test_digest_is_of_the_content(street: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "semantickitti"
    moved.parent.mkdir()
    digests = {one(street, tmp_path / "cache").digest}
    shutil.copytree(street / "semantickitti", moved, copy_function=shutil.copyfile)
    digests.add(one(moved.parent, tmp_path / "other").digest)
    assert len(digests) == 1
    assert one(street, tmp_path / "cache", scale=0.5).digest not in digests


def test_finished_sequences_are_kept(street: Path, tmp_path: Path) -> None:
    folder, cache = sequences_folder(street), tmp_path / "cache"
    broken = folder / "08" / "velodyne" / "000002.bin"
    content = broken.read_bytes()
    broken.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"08/velodyne/000002\.bin: .* multiple of 16"):
        prepared(folder, [0, 8], cache)
    kept = [path.name[:2] for path in (cache / "semantickitti").iterdir() if path.is_dir()]
    assert kept == ["00"]
    broken.write_bytes(content)
    assert list(prepared(folder, [0, 8], cache)) == [0, 8]


def test_scaled(street: Path, tmp_path: Path) -> None:
    full, half = one(street, tmp_path / "cache"), one(street, tmp_path / "cache", scale=0.5)
    assert half.size == (SIZE[0] // 2, SIZE[1] // 2)
    assert half["images"][0].shape == (3, *half.size)
    count = [
        len(s.shown(0, 0, s.size[0]).pixel) + len(s.hidden(0, 0, s.size[0]).pixel)
        for s in (full, half)
    ]
    assert count[0] == count[1]
    seen = half.shown(0, 0, half.size[0])
    rows, columns = np.divmod(full.shown(0, 0, SIZE[0]).pixel, SIZE[1])
    assert set(seen.pixel) == set((rows // 2) * half.size[1] + columns // 2)


def test_an_image_of_another_size(street: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(sequences_folder(street) / "00" / "image_2" / "000001.png")
    with pytest.raises(UserError, match=r"000001\.png: 50x40, but the sequence's first image"):
        one(street, tmp_path / "cache")


def test_missing_calibration(street: Path, tmp_path: Path) -> None:
    (sequences_folder(street) / "00" / "calib.txt").unlink()
    with pytest.raises(UserError, match=r"00/calib\.txt is missing"):
        one(street, tmp_path / "cache")


def test_links_to_nowhere_are_named(street: Path, tmp_path: Path) -> None:
    label = sequences_folder(street) / "00" / "labels" / "000001.label"
    label.unlink()
    label.symlink_to(tmp_path / "annex")
    with pytest.raises(UserError, match=r"00/labels/000001\.label is missing"):
        one(street, tmp_path / "cache")


def test_nothing_in_view(street: Path, tmp_path: Path) -> None:
    for scan in (sequences_folder(street) / "00" / "velodyne").iterdir():
        points, _ = read_raw(sequences_folder(street) / "00", scan.stem)
        np.abs(points).__mul__(np.array([-1, 1, 1, 1], dtype="<f4")).tofile(scan)
    stored = one(street, tmp_path / "cache")
    assert stored.shown(0, 0, SIZE[0]).points.shape == (0, 4)


@pytest.mark.parametrize("shown", [-1, 1 << 30, True, None])
def test_facts_that_do_not_fit_the_points_are_refused(
    street: Path, tmp_path: Path, shown: Any
) -> None:
    stored = one(street, tmp_path / "cache")
    meta = json.loads((stored.folder / "meta.json").read_text())
    meta["entries"][1][3] = shown
    (stored.folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="and it will be made anew"):
        PreparedSequence(stored.folder)


def test_dense_labels(street: Path, tmp_path: Path) -> None:
    dense = sequences_folder(street) / "00" / "image_2_labels"
    dense.mkdir()
    for number in range(4):
        Image.fromarray(np.full(SIZE, (40, 10, 0, 81)[number], dtype=np.uint8)).save(
            dense / f"{number:06d}.png"
        )
    stored = one(street, tmp_path / "cache", dense=True, scale=0.5)
    assert [int(stored["dense"][frame, 3, 3]) for frame in range(4)] == [9, 1, 0, 19]
    assert not one(street, tmp_path / "cache", scale=0.5).has_dense
