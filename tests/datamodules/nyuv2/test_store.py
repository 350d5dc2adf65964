from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntdh_bench.datamodules.nyuv2.store import Arrays, files_key, stored
from ntdh_bench.errors import UserError

KINDS = {"rgb": ("u1", (3, 2, 4)), "depth": (np.uint16, (2, 4))}


def make(position: int) -> dict[str, NDArray[Any]]:
    return {
        "depth": np.full((2, 4), 1000 + position, np.uint16),
        "rgb": np.arange(24, dtype=np.uint8).reshape(2, 4, 3).transpose(2, 0, 1) + position,
    }


def three(path: Path) -> Arrays:
    return stored(path, ["a", "b", "c"], KINDS, make, "making")


def test_holds_what_was_made(tmp_path: Path) -> None:
    arrays = three(tmp_path / "cache" / "x")
    assert (len(arrays), arrays.names) == (3, ["a", "b", "c"])
    for position in range(3):
        for kind, value in make(position).items():
            assert np.array_equal(arrays[kind][position], value)
    assert arrays["rgb"].shape == (3, 3, 2, 4)
    assert arrays["depth"].dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        arrays["depth"][0] = 1
    with pytest.raises(KeyError):
        arrays["label"]


def test_is_made_once(tmp_path: Path) -> None:
    first = three(tmp_path / "x")

    def never(position: int) -> Mapping[str, NDArray[Any]]:
        raise AssertionError("made again")

    assert stored(tmp_path / "x", ["a"], KINDS, never, "making").digest == first.digest


def test_an_interrupted_one_leaves_nothing(tmp_path: Path) -> None:
    def breaks(position: int) -> Mapping[str, NDArray[Any]]:
        if position == 1:
            raise UserError("0002.png: broken")
        return make(position)

    with pytest.raises(UserError, match="broken"):
        stored(tmp_path / "x", ["a", "b"], KINDS, breaks, "making")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    first = three(tmp_path / "x").digest
    assert len(first) == 16
    assert three(tmp_path / "y").digest == first
    other = stored(tmp_path / "z", ["a", "b", "c"], KINDS, lambda i: make(2 * i), "making")
    assert other.digest != first


@pytest.mark.parametrize(
    ("kind", "value"),
    [("depth", np.zeros((2, 4), np.int32)), ("rgb", np.zeros((2, 4, 3), np.uint8))],
)
def test_another_type_or_shape(tmp_path: Path, kind: str, value: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=f"{kind} of sample 0 is .* declared as"):
        stored(tmp_path / "x", ["a"], KINDS, lambda i: {**make(i), kind: value}, "making")


def test_no_samples(tmp_path: Path) -> None:
    assert stored(tmp_path / "x", [], KINDS, make, "making")["rgb"].shape == (0, 3, 2, 4)


def test_a_damaged_cache_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = three(tmp_path / "x")
    content = arrays["rgb"].copy()
    meta = (arrays.folder / "meta.json").read_bytes()
    for name, damage in (
        ("rgb", b"short"), ("rgb", bytes(72)), ("meta.json", b"{"), ("meta.json", b"[" * 10_000),
        ("meta.json", meta.replace(b'"names"', b'"nomes"')), ("meta.json", b'{"digest": 1}'),
        ("meta.json", meta.replace(b"|u1", b"|O1")),
    ):  # fmt: skip
        (arrays.folder / name).write_bytes(damage)
        anew = three(tmp_path / "x")
        assert "x is damaged" in capsys.readouterr().err
        assert np.array_equal(anew["rgb"], content)


def test_workers_are_sent_the_path_only(tmp_path: Path) -> None:
    arrays = three(tmp_path / "x")
    assert arrays["rgb"].any()
    sent = pickle.dumps(arrays)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent)["rgb"], arrays["rgb"])


def test_key_of_files(tmp_path: Path) -> None:
    path = tmp_path / "data" / "a.png"
    path.parent.mkdir()
    path.write_bytes(b"1234")
    keys = {files_key(tmp_path, [path], size=(2, 4)), files_key(tmp_path, [path], size=(2, 5))}
    assert files_key(tmp_path, [path], size=(2, 4)) in keys
    os.utime(path, ns=(1, 1))
    keys.add(files_key(tmp_path, [path], size=(2, 4)))
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        (b'"names"', b'"nomes"', "the value, 'names'"),
        (b'"a"', b"1", r"'names'\[0\]"),
        (b"|u1", b"|O8", r"'kinds', entry 1\[0\]"),
        (b"[3, 2, 4]", b"[-3, 2, 4]", r"'kinds', entry 1\[1\]\[0\]"),
        (b"[3, 2, 4]", b"[30, 2, 4]", "not the 720 bytes"),
        (b"{", b"[", "not JSON"),
    ],
)
def test_a_folder_of_another_schema(
    tmp_path: Path, before: bytes, after: bytes, wrong: str
) -> None:
    path = three(tmp_path / "x").folder / "meta.json"
    path.write_bytes(path.read_bytes().replace(before, after))
    with pytest.raises(UserError, match=rf"x/(meta\.json|rgb): .*{wrong}.*; delete .*x, and it"):
        Arrays(tmp_path / "x")
