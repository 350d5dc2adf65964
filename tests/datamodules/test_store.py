from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntdh_bench.cache import build_once
from ntdh_bench.datamodules.store import Arrays, files_key
from ntdh_bench.errors import FileError, UserError

KINDS = {"rgb": ("u1", (3, 2, 4)), "depth": (np.uint16, (2, 4))}
CLOUDS = {"image": ("u1", (2,)), "pixel": ("<i4", (None,)), "points": ("<f4", (None, 2))}


def sample(position: int) -> dict[str, NDArray[Any]]:
    return {
        "depth": np.full((2, 4), 1000 + position, np.uint16),
        "rgb": np.arange(24, dtype=np.uint8).reshape(2, 4, 3).transpose(2, 0, 1) + position,
    }


def three(path: Path, make: Callable[[int], Any] = sample, names: str = "abc") -> Arrays:
    def each(start: int) -> Iterator[tuple[Any, None]]:
        return ((make(position), None) for position in range(start, len(names)))

    return Arrays.stored(path, list(names), KINDS, each, "making")


def cloud(position: int) -> tuple[dict[str, NDArray[Any]] | None, int]:
    """A sample of ``position`` points; the second cannot be had."""
    if position == 1:
        return None, -1
    return {
        "image": np.full(2, position, np.uint8),
        "pixel": np.arange(position, dtype=np.int32),
        "points": np.full((position, 2), position, np.float32),
    }, 10 * position


def clouds(path: Path, make: Callable[[int], Any] = cloud, header: str | None = None) -> Arrays:
    def each(start: int) -> Iterator[Any]:
        return map(make, range(start, 4))

    return Arrays.stored(path, list("abcd"), CLOUDS, each, "making", header)


def test_holds_what_was_made(tmp_path: Path) -> None:
    arrays = three(tmp_path / "cache" / "x")
    assert (len(arrays), arrays.names) == (3, ["a", "b", "c"])
    for position in range(3):
        for kind, value in sample(position).items():
            assert np.array_equal(arrays[kind][position], value)
    assert arrays["rgb"].shape == arrays.shapes["rgb"] == (3, 3, 2, 4)
    assert arrays["depth"].dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        arrays["depth"][0] = 1
    with pytest.raises(KeyError):
        arrays["label"]


def test_samples_of_any_length_and_such_that_cannot_be_had(tmp_path: Path) -> None:
    arrays = clouds(tmp_path / "x")
    assert (arrays.names, arrays.starts) == (["a", "c", "d"], [0, 0, 2, 5])
    assert [(entry.name, entry.rows, entry.fact) for entry in arrays.entries] == [
        ("a", 0, 0), ("b", None, -1), ("c", 2, 20), ("d", 3, 30),
    ]  # fmt: skip
    assert arrays["image"].tolist() == [[0, 0], [2, 2], [3, 3]]
    assert arrays["pixel"].tolist() == [0, 1, 0, 1, 2]
    assert arrays["points"][arrays.starts[1] : arrays.starts[2]].tolist() == [[2, 2], [2, 2]]
    assert clouds(tmp_path / "y", header="x").digest != arrays.digest


def test_is_made_once(tmp_path: Path) -> None:
    first = three(tmp_path / "x")
    assert three(tmp_path / "x", pytest.fail).digest == first.digest


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    first = three(tmp_path / "x").digest
    assert first == "54129f8f5c9d9225"
    assert three(tmp_path / "y").digest == first
    assert three(tmp_path / "z", lambda i: sample(2 * i)).digest != first


@pytest.mark.parametrize(
    ("kind", "value"),
    [("depth", np.zeros((2, 4), np.int32)), ("rgb", np.zeros((2, 4, 3), np.uint8))],
)
def test_another_type_or_shape(tmp_path: Path, kind: str, value: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=f"{kind} of sample 0 is .* declared as"):
        three(tmp_path / "x", lambda i: {**sample(i), kind: value})


def test_another_length_than_its_sample_has(tmp_path: Path) -> None:
    def odd(position: int) -> Any:
        arrays, fact = cloud(3)
        return {**(arrays or {}), "points": np.zeros((2, 2), np.float32)}, fact

    with pytest.raises(ValueError, match=r"points of sample 0 is .* \(2, 2\), declared as .*3"):
        clouds(tmp_path / "x", odd)


def test_no_samples(tmp_path: Path) -> None:
    assert three(tmp_path / "x", names="")["rgb"].shape == (0, 3, 2, 4)


def test_a_damaged_cache_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = three(tmp_path / "x")
    content = arrays["rgb"].copy()
    meta = (arrays.folder / "meta.json").read_bytes()
    for name, damage in (
        ("rgb", b"short"), ("rgb", bytes(72)), ("meta.json", b"{"), ("meta.json", b"[" * 10_000),
        ("meta.json", meta.replace(b'"entries"', b'"entires"')), ("meta.json", b'{"digest": 1}'),
        ("meta.json", meta.replace(b"|u1", b"|O1")),
    ):  # fmt: skip
        (arrays.folder / name).write_bytes(damage)
        anew = three(tmp_path / "x")
        assert "x is damaged" in capsys.readouterr().err
        assert np.array_equal(anew["rgb"], content)


def test_one_of_an_earlier_version_is_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is whole, but written in another form, is told from what is read now."""

    def earlier(folder: Path) -> None:
        folder.mkdir()
        meta = {"digest": "0" * 16, "names": ["a"], "kinds": {"rgb": ["|u1", [3, 2, 4]]}}
        (folder / "meta.json").write_text(json.dumps(meta))
        (folder / "rgb").write_bytes(bytes(24))

    build_once(tmp_path / "x", earlier)
    assert len(three(tmp_path / "x")) == 3
    assert "x is damaged or of an earlier version: made anew" in capsys.readouterr().err
    assert len(three(tmp_path / "x", pytest.fail)) == 3
    assert not capsys.readouterr().err


def test_workers_are_sent_the_path_only(tmp_path: Path) -> None:
    arrays = three(tmp_path / "x")
    assert arrays["rgb"].any()
    sent = pickle.dumps(arrays)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent)["rgb"], arrays["rgb"])


def test_key_of_files(tmp_path: Path) -> None:
    path = tmp_path / "data" / "a.png"
    path.parent.mkdir()
    with pytest.raises(FileError, match=r"a\.png is missing"):
        files_key(tmp_path, [path])
    path.write_bytes(b"1234")
    keys = {files_key(tmp_path, [path], size=(2, 4)), files_key(tmp_path, [path], size=(2, 5))}
    assert files_key(tmp_path, [path], size=(2, 4)) in keys
    os.utime(path, ns=(1, 1))
    keys.add(files_key(tmp_path, [path], size=(2, 4)))
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        (b'"entries"', b'"entires"', "the value, 'entries'"),
        (b'"a"', b"1", r"'entries'\[0\]\[0\]"),
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


# -- builds that were stopped --------------------------------------------------------------------


def stopped(path: Path, error: type[BaseException] = KeyboardInterrupt) -> Path:
    """Return what a build leaves that ends after three of four samples."""

    def stops(position: int) -> Any:
        if position == 3:
            raise error("d.bin: broken")
        return cloud(position)

    with pytest.raises(error):
        clouds(path, stops)
    assert not path.exists()
    return path.with_name(f".{path.name}.partial")


def assert_goes_on(path: Path, at: int) -> None:
    """Assert that only the samples from ``at`` on are made, and all are what they would be."""
    made: list[int] = []

    def counting(position: int) -> Any:
        made.append(position)
        return cloud(position)

    found, whole = clouds(path, counting), clouds(path.with_name("whole"))
    assert made == list(range(at, 4))
    assert (found.digest, found.entries) == (whole.digest, whole.entries)
    for kind in CLOUDS:
        assert (path / kind).read_bytes() == (whole.folder / kind).read_bytes()
    assert sorted(file.name for file in path.iterdir()) == sorted([*CLOUDS, "meta.json"])
    assert not path.with_name(f".{path.name}.partial").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, UserError])
def test_a_stopped_build_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: type[BaseException]
) -> None:
    partly = stopped(tmp_path / "x", error)
    with (partly / "done.jsonl").open("a") as log:
        log.write('["d", 3, "')  # a line that the kill cut in two,
    with (partly / "points").open("ab") as points:
        points.write(b"half")  # and a sample without its line
    assert_goes_on(tmp_path / "x", at=3)
    assert not capsys.readouterr().err


def test_what_a_broken_file_stops_leaves_nothing(tmp_path: Path) -> None:
    partly = stopped(tmp_path / "x", FileError)  # once it is replaced, the key is another
    assert not partly.exists()


LINES = {
    "not JSON": b"no json\n",
    "not text": b"\xff\xfe\n",
    "deep": b"[" * 100_000 + b"\n",
    "fields": b'["a", "0", "", 0]\n',
    "too few": b'["a"]\n',
    "another sample": b'["d", 0, "", 0]\n',
    "more than there is": b'["a", 1000000000, "00", 0]\n',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
@pytest.mark.parametrize("at", [0, 2])
def test_a_damaged_log_is_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, at: int
) -> None:
    log = stopped(tmp_path / "x") / "done.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    log.write_bytes(b"".join([*lines[:at], line, *lines[at:]]))
    assert_goes_on(tmp_path / "x", at)
    assert f".x.partial is damaged from {at} on: made anew from there" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "place", "at"), [("points", -1, 2), ("image", 0, 0)])
@pytest.mark.parametrize("cut", [False, True])
def test_damaged_samples_are_not_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, place: int, at: int, cut: bool
) -> None:
    path = stopped(tmp_path / "x") / kind
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content)[: place if cut else None])
    assert_goes_on(tmp_path / "x", at)
    assert f"is damaged from {at} on" in capsys.readouterr().err


def replaced(path: Path, by: Callable[[Path], object]) -> None:
    path.unlink()
    by(path)


ODD: dict[str, Callable[[Path], object]] = {
    "a log that is a link to nowhere": lambda p: replaced(
        p / "done.jsonl", lambda path: path.symlink_to("/nowhere")
    ),
    "a log that is a folder": lambda p: replaced(p / "done.jsonl", Path.mkdir),
    "a log that is a pipe": lambda p: replaced(p / "done.jsonl", os.mkfifo),
    "a log that is too long": lambda p: os.truncate(p / "done.jsonl", 1 << 25),
    "a kind that is a link": lambda p: replaced(
        p / "points", lambda path: path.symlink_to("/dev/zero")
    ),
    "a file of another version": lambda p: (p / "values.npy").write_bytes(b""),
    "a file in its place": lambda p: (p.rename(p.with_name("moved")), p.write_text("")),
    "a link in its place": lambda p: (p.rename(p.with_name("moved")), p.symlink_to("moved")),
    "a link to nowhere in its place": lambda p: (
        p.rename(p.with_name("moved")),
        p.symlink_to("/nowhere"),
    ),
}


@pytest.mark.parametrize("damage", ODD.values(), ids=ODD)
def test_what_is_no_build_is_named_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    damage(stopped(tmp_path / "x"))
    assert_goes_on(tmp_path / "x", at=0)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ".x.partial is damaged or of an earlier version: made anew" in said
