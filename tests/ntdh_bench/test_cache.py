from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ntdh_bench.cache import (
    build_once,
    default_cache_dir,
    digest,
    is_intact,
    seal_path,
    write_atomic,
)
from ntdh_bench.errors import UserError


def test_digest_ignores_the_order_of_keys_only() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest([1, 2]) != digest([2, 1])
    assert len(digest("x")) == 16


def test_digest_refuses_objects() -> None:
    with pytest.raises(TypeError):
        digest({"path": Path()})


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("NTDH_CACHE")
    assert default_cache_dir().name == "ntdh-bench"


def test_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.txt"

    def stop_halfway() -> None:
        with write_atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_halfway()
    assert list(path.parent.iterdir()) == []
    with write_atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "whole"


def test_a_folder_is_written_whole(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "part").write_text("x")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        build_once(tmp_path / "folder", fail)
    assert not (tmp_path / "folder").exists()


def test_built_once_by_many(tmp_path: Path) -> None:
    calls = []

    def build(temporary: Path) -> None:
        calls.append(temporary)
        temporary.write_text("built")

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: build_once(tmp_path / "x.txt", build), range(4)))
    assert len(calls) == 1
    assert {path.read_text() for path in paths} == {"built"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write"),
        write_atomic(tmp_path / "file" / "x") as temporary,
    ):
        temporary.write_text("")


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3)
        file.write(b"XXXXXXXX")


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_damaged_is_built_anew_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: bool
) -> None:
    built = []

    def build(temporary: Path) -> None:
        built.append(temporary)
        if folder:
            (temporary / "sub").mkdir(parents=True)
        (temporary / "sub" / "values" if folder else temporary).write_bytes(bytes(100))

    path = tmp_path / "store"
    file = path / "sub" / "values" if folder else path
    build_once(path, build)
    build_once(path, build)
    assert len(built) == 1
    assert is_intact(path)
    for harm in (
        lambda: _damage(file),
        lambda: file.write_bytes(bytes(99)),
        file.unlink,
        seal_path(path).unlink,
        lambda: seal_path(path).write_text('{"": []}'),
        lambda: seal_path(path).write_text("[" * 100_000),
    ):
        harm()
        assert not is_intact(path)
        capsys.readouterr()
        there = path.exists()
        build_once(path, build)
        assert file.read_bytes() == bytes(100)
        assert is_intact(path)
        assert ("made anew" in capsys.readouterr().err) == there
    assert len(built) == 7
    assert not list(tmp_path.glob(".store.*.tmp"))


def test_a_killed_build_leaves_nothing_that_passes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    build_once(path, lambda temporary: temporary.write_text("one") and None)
    path.unlink()  # as if killed between the seal and the file
    assert not is_intact(path)
    path.write_text("two")
    assert not is_intact(path)


def test_a_pipe_in_the_cache_is_damage(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    folder = build_once(tmp_path / "made", lambda path: path.mkdir())
    os.mkfifo(folder / "pipe")
    assert not is_intact(folder)
