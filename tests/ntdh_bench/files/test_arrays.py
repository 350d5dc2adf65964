from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntdh_bench.errors import LONGEST, FileError
from ntdh_bench.files.arrays import Spec, map_npy, read_npz

SPECS = {"x": Spec("f", (-1, 3), 4), "name": Spec("U", (-1,))}


def _npz(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _npy(array: np.ndarray[Any, Any], **changes: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    if not changes:
        return file.getvalue()
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **changes}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_is_asked_for_is_read(tmp_path: Path, save: Any) -> None:
    x = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    save(tmp_path / "a.npz", x=x, name=np.array(["a", "bc"]), other=np.ones(2))
    arrays = read_npz(tmp_path / "a.npz", SPECS)
    assert arrays.keys() == {"x", "name"}
    np.testing.assert_array_equal(arrays["x"], x)
    assert arrays["name"].tolist() == ["a", "bc"]
    assert "other" in read_npz(tmp_path / "a.npz", SPECS, default=Spec("f"))


@pytest.mark.parametrize(
    ("member", "match"),
    [
        (_npy(np.ones((2, 3))), "expected kind f of 4 bytes"),
        (_npy(np.ones((2, 4), np.float32)), r"expected .*shape \(N, 3\)"),
        (_npy(np.full((2, 3), np.nan, np.float32)), "not finite"),
        (_npy(np.ones((2, 3), np.float32), shape=(2**50, 3)), "size its header says"),
        (_npy(np.ones((2, 3), np.float32), shape=(-2, 3)), "damaged"),
        (_npy(np.ones((2, 3), np.float32), descr="|O"), "damaged"),
        (_npy(np.ones((2, 3), np.float32)) + b"more", "size its header says"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'", "damaged"),
        (b"", "damaged"),
    ],
)
def test_damaged_arrays(tmp_path: Path, member: bytes, match: str) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": member})
    tracemalloc.start()
    with pytest.raises(FileError, match=match) as caught:
        read_npz(path, SPECS)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) <= LONGEST


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    whole = _npz(path, {"x.npy": _npy(np.ones((2, 3), np.float32))}).read_bytes()
    for content in (b"", whole[:60], whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(FileError, match="damaged"):
            read_npz(path, SPECS)
    _npz(path, {"x.npy": _npy(np.ones((2, 3), np.float32))}, zipfile.ZIP_LZMA)
    with pytest.raises(FileError, match="another method"):
        read_npz(path, SPECS)
    _npz(path, {f"{number}.npy": b"" for number in range(1001)})
    with pytest.raises(FileError, match="1001 members"):
        read_npz(path, SPECS)
    _npz(path, {"x.npy": _npy(np.ones((2, 3), np.float32))})
    with pytest.raises(FileError, match="more than 10 bytes"):
        read_npz(path, SPECS, max_bytes=10)
    with pytest.raises(FileError, match="missing"):
        read_npz(tmp_path / "none.npz", SPECS)


def test_an_array_of_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = _npz(tmp_path / "a.npz", {"x.npy": _npy(np.ones((2, 3), np.float32))})
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(1).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="BadZipFile"):
        read_npz(path, SPECS)


def test_a_mapped_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    path.write_bytes(_npy(values))
    mapped = map_npy(path, SPECS["x"])
    np.testing.assert_array_equal(mapped, values)
    mapped[0] = 7  # copy-on-write
    np.testing.assert_array_equal(np.load(path), values)
    path.write_bytes(_npy(values[:0]))
    assert map_npy(path, SPECS["x"]).shape == (0, 3)
    for content, match in [
        (_npy(values)[:-1], "size its header says"),
        (_npy(values, shape=(2**60, 3)), "size its header says"),
        (_npy(values.astype(np.float64)), "expected kind f of 4 bytes"),
        (b"\x93NUMPY", "damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FileError, match=match):
            map_npy(path, SPECS["x"])
