from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntdh_bench.errors import FileError
from ntdh_bench.files.images import opened_image


def _open(path: Path, **changes: object) -> tuple[int, int]:
    with opened_image(path, **{"max_pixels": 100, **changes}) as image:  # type: ignore[arg-type]
        image.load()
        return image.size


def test_formats_of_the_layout_only(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    for ending, form in ((".png", "PNG"), (".jpg", "JPEG")):
        picture.save(tmp_path / f"x{ending}", form)
        assert _open(tmp_path / f"x{ending}") == (6, 4)
    for form in ("TIFF", "EPS", "BMP"):  # EPS would start another program
        picture.save(tmp_path / "x.jpg", form)
        with pytest.raises(FileError, match="not a PNG or JPEG image"):
            _open(tmp_path / "x.jpg")
    picture.save(tmp_path / "x.png", "PNG")
    with pytest.raises(FileError, match="not a JPEG image"):
        _open(tmp_path / "x.png", formats=("JPEG",))


def test_size_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(path)
    with pytest.raises(FileError, match="8x8 pixels, expected at most 63; call for help"):
        _open(path, max_pixels=63, remedy="call for help")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(FileError, match="damaged"):
        _open(path)
    with pytest.raises(FileError, match="missing"):
        _open(tmp_path / "none.png")


def test_the_length_of_a_chunk_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    place = content.index(b"IDAT")
    content[place - 4 : place] = (0x7FFF0000).to_bytes(4, "big")
    path.write_bytes(content)
    tracemalloc.start()
    with contextlib.suppress(FileError):
        _open(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()
