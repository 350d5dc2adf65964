from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ntdh_bench.cache import build_once, is_intact, locked, seal_path
from ntdh_bench.cli import main

DAY = 86_400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of two teachers (one ten days old), and a folder of data."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NTDH_CACHE", str(folder))
    for name in ("teachers/teacher-a.ckpt", "teachers/teacher-b.ckpt"):
        build_once(folder / name, lambda path: path.write_bytes(b"x" * 1500))
    build_once(folder / "ravdess" / "clips-c", _folder)
    _make_older(folder / "teachers" / "teacher-a.ckpt", 10)
    return folder


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "values.npy").write_bytes(b"x" * 3_000_000)


def _make_older(path: Path, days: float) -> None:
    time = path.stat().st_mtime - days * DAY
    os.utime(path, (time, time))


def names(cache: Path) -> set[str]:
    """The files and folders that are cached, digests and locks left out."""
    return {
        path.name for path in cache.glob("*/*") if not path.name.endswith((".lock", ".sha256.json"))
    }


@pytest.mark.usefixtures("cache")
def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list"]) == 0
    ravdess, teachers, _, total = capsys.readouterr().out.splitlines()
    assert ravdess.split() == ["ravdess", "1", "3", "MB", "0", "h", "to", "0", "h", "old"]
    assert teachers.split()[:2] == ["teachers", "2"]
    assert "0 h to 10 d old" in teachers
    assert total.startswith("3 entries, 3 MB in ")
    assert main(["cache", "list", "--kind", "teachers"]) == 0
    assert "teacher-a.ckpt" in capsys.readouterr().out


def test_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "none"))
    assert main(["cache", "list"]) == 0
    assert main(["cache", "prune", "--older-than", "0"]) == 0
    assert "removed 0 entries" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_prune_by_age_and_kind(cache: Path) -> None:
    assert main(["cache", "prune", "--older-than", "20"]) == 0
    assert len(names(cache)) == 3
    assert main(["cache", "prune", "--older-than", "9.5", "--kind", "ravdess"]) == 0
    assert len(names(cache)) == 3
    assert main(["cache", "prune", "--older-than", "9.5"]) == 0
    assert names(cache) == {"teacher-b.ckpt", "clips-c"}
    assert main(["cache", "prune", "--kind", "ravdess"]) == 0
    assert names(cache) == {"teacher-b.ckpt"}
    assert is_intact(cache / "teachers" / "teacher-b.ckpt")
    assert not seal_path(cache / "teachers" / "teacher-a.ckpt").exists()


def test_prune_what_is_damaged(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = cache / "teachers" / "teacher-a.ckpt"
    damaged.write_bytes(b"y" * 1500)
    unfinished = cache / "ravdess" / ".clips-d.0123abcd"
    _folder(unfinished)
    assert main(["cache", "prune", "--damaged", "--dry-run"]) == 0
    assert "would remove 2 entries, 3 MB" in capsys.readouterr().out
    assert len(names(cache)) == 4
    assert main(["cache", "prune", "--damaged"]) == 0
    assert names(cache) == {"teacher-b.ckpt", "clips-c"}


def test_what_is_being_made_stays(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    busy = cache / "ravdess" / "clips-d"
    _folder(cache / "ravdess" / ".clips-d.0123abcd")
    with locked(busy), locked(cache / "teachers" / "teacher-b.ckpt"):
        assert main(["cache", "prune", "--older-than", "0"]) == 0
    assert names(cache) == {".clips-d.0123abcd", "teacher-b.ckpt"}
    assert capsys.readouterr().out.count("in use, stays") == 2


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune"], "give --older-than DAYS"),
        (["prune", "--dry-run"], "give --older-than DAYS"),
        (["list", "--kind", "maps"], "--kind maps: .* it has ravdess, teachers"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)
