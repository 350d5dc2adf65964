from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets.mnist import read_image_file, read_label_file

from ntdh_bench.datamodules.mnist.idx import read_images, read_labels, write_idx
from ntdh_bench.errors import UserError

IMAGES = np.arange(3 * 28 * 28, dtype=np.uint64).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([7, 0, 9], dtype=np.uint8)


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("packed", [True, False])
def test_reads_what_torchvision_reads(tmp_path: Path, packed: bool) -> None:
    write_idx(tmp_path / "i.gz", IMAGES)
    write_idx(tmp_path / "l.gz", LABELS)
    for name in ("i", "l"):
        (tmp_path / name).write_bytes(unpacked(tmp_path / f"{name}.gz"))
    assert np.array_equal(read_image_file(str(tmp_path / "i")), IMAGES)
    assert np.array_equal(read_label_file(str(tmp_path / "l")), LABELS)
    end = ".gz" if packed else ""
    assert np.array_equal(read_images(tmp_path / f"i{end}"), IMAGES)
    assert np.array_equal(read_labels(tmp_path / f"l{end}"), LABELS)


def test_writing_is_reproducible(tmp_path: Path) -> None:
    write_idx(tmp_path / "a.gz", IMAGES)
    write_idx(tmp_path / "b.gz", IMAGES)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def image_file(count: int, rows: int = 28, columns: int = 28, magic: int = 2051) -> bytes:
    return struct.pack(">4I", magic, count, rows, columns) + bytes(rows * columns * min(count, 3))


BROKEN = {
    "truncated": (image_file(3)[:-1], r"header says 3 images \(2352 bytes\), but fewer"),
    "too long": (image_file(3) + b"x", r"but more bytes follow"),
    "wrong magic": (image_file(3, magic=2049), r"magic number 2049, expected 2051"),
    "other size": (image_file(3, rows=32, columns=32), r"\(32, 32\), expected \(28, 28\)"),
    "header only in part": (image_file(3)[:10], r"truncated, 10 bytes"),
    "empty": (b"", r"truncated, 0 bytes"),
    "text": (b"<html>not found</html>", r"magic number"),
    "a count of terabytes": (image_file(2**32 - 1), r"header says 4294967295 images"),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path: Path, name: str, packed: bool) -> None:
    content, message = BROKEN[name]
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=message) as caught:
        read_images(path)
    assert str(path) in str(caught.value)
    assert "data prepare mnist" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_gzip(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    write_idx(path, IMAGES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"images\.gz: damaged, or not an IDX file"):
        read_images(path)
    path.write_bytes(whole[:40] + b"\xff\xff" + whole[42:])
    with pytest.raises(UserError, match=r"damaged|bytes follow|magic"):
        read_images(path)
    path.write_bytes(b"plain text, not gzip")
    with pytest.raises(UserError, match=r"images\.gz: damaged, or not an IDX file"):
        read_images(path)


def test_gzip_that_unpacks_to_far_more_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(image_file(3) + bytes(50_000_000)))
    with pytest.raises(UserError, match="more bytes follow"):
        read_images(path)


def test_labels_out_of_range(tmp_path: Path) -> None:
    write_idx(tmp_path / "l.gz", np.array([3, 10], dtype=np.uint8))
    with pytest.raises(UserError, match="label 10, expected 0 to 9"):
        read_labels(tmp_path / "l.gz")


def test_more_images_than_mnist_has_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    count = 1_900_000  # 1.5 GB in a file of 1.4 MB
    header = struct.pack(">4I", 0x0803, count, 28, 28)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header)
    tracemalloc.start()
    with pytest.raises(UserError, match="1900000 images, expected at most 60000"):
        read_images(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gz is missing"):
        read_images(tmp_path / "none.gz")
