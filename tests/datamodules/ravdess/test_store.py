from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ntdh_bench.datamodules.ravdess import media
from ntdh_bench.datamodules.ravdess.layout import ClipFile
from ntdh_bench.datamodules.ravdess.settings import Preparation
from ntdh_bench.datamodules.ravdess.store import (
    Recipe,
    Store,
    StoreKind,
    _open,
    recipe,
)
from ntdh_bench.datamodules.ravdess.store import prepared as prepared_with
from ntdh_bench.errors import UserError
from tests.datamodules.ravdess.files import CLIPS, write_tables, write_videos, write_wavs, zipped

NAMES = sorted(f"03-{clip}" for clip in CLIPS)


def prepared(
    folder: Path, kind: StoreKind, cache: Path, jobs: int | None = None, **settings: Any
) -> Store:
    return prepared_with(folder, kind, cache, Preparation(**settings), jobs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(write_videos(write_wavs(tmp_path / "ravdess")))


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the clips that are decoded from now on."""
    read: list[str] = []
    real = ClipFile.read

    def spy(self: ClipFile, limit: int) -> bytes:
        read.append(str(self.name))
        return real(self, limit)

    monkeypatch.setattr(ClipFile, "read", spy)
    return read


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        ("audio", (40, 256), np.float32),
        ("video", (2, 3, 16, 24), np.uint8),
        ("tracking", (35,), np.float32),
        ("speech", (160,), np.float32),
    ],
)
def test_rows_are_what_media_gives(
    folder: Path, tmp_path: Path, kind: StoreKind, shape: tuple[int, ...], dtype: type
) -> None:
    store = prepared(folder, kind, tmp_path / "cache", frames=2, image_height=16, image_width=24)
    assert store.values.shape == (len(CLIPS), *shape)
    assert store.values.dtype == dtype
    assert store.faults == ()
    assert isinstance(store.values, np.memmap)
    plan = Recipe(kind, "librosa", shape)
    ending = {"video": "mp4", "tracking": "csv"}.get(kind, "wav")
    for name, row in zip(store.names, store.values, strict=True):
        content = next(folder.rglob(f"{name}.{ending}")).read_bytes()
        assert np.array_equal(row, plan.decode(content))
    assert [name.key for name in store.names] == sorted(name.key for name in store.names)


def test_threads_change_nothing_and_a_second_call_does_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [prepared(folder, "audio", tmp_path / f"{jobs}", jobs=jobs) for jobs in (1, 3)]
    assert stores[0].digest == stores[1].digest
    assert np.array_equal(stores[0].values, stores[1].values)
    read = calls(monkeypatch)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert prepared(folder, "audio", tmp_path / "1").digest == stores[0].digest
    assert not read
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}


def test_zipped_is_the_same_as_extracted(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    for published in folder.iterdir():
        zipped(published, packed / f"{published.name}.zip")
    for kind in ("audio", "video"):
        one, other = (
            prepared(place, kind, tmp_path / "cache", image_height=16, image_width=16)  # type: ignore[arg-type]
            for place in (folder, packed)
        )
        assert one.digest == other.digest
        assert one.path != other.path
        assert np.array_equal(one.values, other.values)


def test_torchaudio_in_batches(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("ntdh_bench.datamodules.ravdess.store._BATCH", 4)
    broken = next(folder.rglob(f"{NAMES[1]}.wav"))
    broken.write_bytes(b"no wav")
    one = prepared(folder, "audio", tmp_path)
    other = prepared(folder, "audio", tmp_path, backend="torchaudio")
    assert one.names == other.names
    assert one.faults == other.faults
    assert one.digest != other.digest
    np.testing.assert_allclose(one.values, other.values, atol=0.02, rtol=0)


def test_damaged_clips_are_listed_and_left_out(folder: Path, tmp_path: Path) -> None:
    for name in NAMES[1:3]:
        next(folder.rglob(f"{name}.wav")).write_bytes(b"no wav")
    (folder / "Audio_Speech_Actors_01-24" / "odd.wav").write_bytes(b"")
    store = prepared(folder, "audio", tmp_path)
    assert list(map(str, store.names)) == [NAMES[0], *NAMES[3:]]
    assert len(store.faults) == 3
    assert store.faults[0].startswith("Audio_Speech_Actors_01-24/odd.wav: 'odd' is not the name")
    assert f"{NAMES[1]}.wav: not a wav file that can be read (" in store.faults[1]
    content = next(folder.rglob(f"{NAMES[3]}.wav")).read_bytes()
    assert np.array_equal(store.values[1], media.mfcc(content))


def test_what_depends_on_the_files_and_the_settings(folder: Path, tmp_path: Path) -> None:
    def path(**changes: Any) -> Path:
        settings = {"image_height": 16, "image_width": 16, **changes}
        return prepared(folder, "video", tmp_path, **settings).path

    first = path()
    assert path(backend="torchaudio") == first  # video does not depend on it
    assert len({first, path(frames=2), path(image_height=17), path(image_width=17)}) == 4
    next(folder.rglob("*.mp4")).touch()
    assert path() != first


KILLED = """
import os, signal, sys
from pathlib import Path
from ntdh_bench.datamodules.ravdess import media
from ntdh_bench.datamodules.ravdess.store import prepared
real, count = media.action_units, 0
def dying(content):
    global count
    count += 1
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(content)
media.action_units = dying
prepared(Path(sys.argv[1]), "tracking", Path(sys.argv[2]), jobs=1)
"""


def test_a_killed_build_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(cache)], check=False)
    assert killed.returncode == -9
    [partial] = (cache / "ravdess").glob(".*.partial")
    assert not list((cache / "ravdess").glob("tracking-*"))
    assert len((partial / "done.jsonl").read_text().splitlines()) == 3
    with (partial / "done.jsonl").open("a") as log:
        log.write('["03-01-01')  # a line that the kill cut in two,
    with (partial / "values.npy").open("ab") as values:
        values.write(b"half a row")  # and a row without its line
    read = calls(monkeypatch)
    resumed = prepared(folder, "tracking", cache)
    assert len(read) == len(CLIPS) - 3
    whole = prepared(folder, "tracking", tmp_path / "other")
    assert resumed.digest == whole.digest
    assert (resumed.path / "values.npy").read_bytes() == (whole.path / "values.npy").read_bytes()
    assert sorted(path.name for path in resumed.path.iterdir()) == ["index.json", "values.npy"]
    assert not partial.exists()


BUILD = """
import sys
from pathlib import Path
from ntdh_bench.datamodules.ravdess.store import prepared
print(prepared(Path(sys.argv[1]), "video", Path(sys.argv[2])).digest)
"""


def test_two_processes_at_once(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(folder), str(tmp_path)]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    digests = {builder.communicate(timeout=60)[0] for builder in builders}
    assert [builder.returncode for builder in builders] == [0, 0]
    assert len(digests) == 1
    assert len([path for path in (tmp_path / "ravdess").glob("video-*") if path.is_dir()]) == 1


def test_the_values_can_be_changed_but_not_the_file(folder: Path, tmp_path: Path) -> None:
    store = prepared(folder, "tracking", tmp_path)
    before = store.values.copy()
    store.values[:] = 0
    assert np.array_equal(prepared(folder, "tracking", tmp_path).values, before)


def test_errors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        prepared(folder, "audio", tmp_path / "file")
    for path in folder.rglob("*.wav"):
        path.write_bytes(b"no wav")
    with pytest.raises(UserError, match=r"no clip can be decoded: .*not a wav file"):
        prepared(folder, "audio", tmp_path)
    shutil.rmtree(folder / "Audio_Speech_Actors_01-24")
    with pytest.raises(UserError, match="no audio clips; expected"):
        prepared(folder, "audio", tmp_path)


def test_a_file_that_cannot_be_read_now_stops_the_build(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: ClipFile, limit: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ClipFile, "read", refused)
    with pytest.raises(UserError, match="cannot be read"):
        prepared(folder, "tracking", tmp_path)
    monkeypatch.undo()
    assert prepared(folder, "tracking", tmp_path).faults == ()


Damage = Callable[[Path], object]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "a bit of a value": lambda store: flip(store / "values.npy", -3),
    "another dtype": lambda store: np.save(store / "values.npy", np.zeros((6, 35))),
    "another shape": lambda store: np.save(store / "values.npy", np.zeros((6, 34), np.float32)),
    "cut off": lambda store: (store / "values.npy").write_bytes(b"\x93NUMPY"),
    "fewer names": lambda store: (store / "index.json").write_text('{"names": []}'),
    "deep": lambda store: (store / "index.json").write_text("[" * 100_000),
    "no index": lambda store: (store / "index.json").unlink(),
    "a file too many": lambda store: (store / "more").write_text(""),
    "empty": lambda store: [path.unlink() for path in store.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_made_anew_and_that_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage
) -> None:
    store: Store = prepared(folder, "tracking", tmp_path)
    before = store.values.copy()
    damage(store.path)
    anew = prepared(folder, "tracking", tmp_path)
    assert f"{store.path} is damaged" in capsys.readouterr().err
    assert np.array_equal(anew.values, before)
    assert (anew.names, anew.digest) == (store.names, store.digest)


def test_a_store_that_is_replaced_while_it_is_opened_is_named(folder: Path, tmp_path: Path) -> None:
    path = prepared(folder, "tracking", tmp_path).path
    index = json.loads((path / "index.json").read_text())
    for changes in ({"names": index["names"][1:]}, {"names": ["x"]}, {"digest": 3}):
        (path / "index.json").write_text(json.dumps({**index, **changes}))
        with pytest.raises(UserError, match="made anew"):
            _open(path, recipe("tracking"))


LOGS = {
    "not JSON": b"no json\n",
    "not text": b"\xff\xfe\n",
    "deep": b"[" * 100_000 + b"\n",
    "fields": b'["03-01-01-01-01-01-01", 3, null, ""]\n',
    "too few": b'["03-01-01-01-01-01-01"]\n',
    "another clip": b'["03-01-08-01-01-01-01", "", "broken", ""]\n',
    "another row": b'["01-01-01-01-01-01-01", "", null, "00"]\n',
}


@pytest.mark.parametrize("line", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("at", [0, 3])
def test_a_damaged_log_of_a_killed_build_is_not_believed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, at: int
) -> None:
    partial = killed_build(folder, tmp_path / "cache")
    log = partial / "done.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:at], line, *lines[at:]]))
    assert_resumes(folder, tmp_path, capsys, at)


@pytest.mark.parametrize("place", [-1, -35 * 4 - 1, 3])
def test_damaged_rows_of_a_killed_build_are_not_believed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    partial = killed_build(folder, tmp_path / "cache")
    flip(partial / "values.npy", place)  # the header is written anew anyhow
    assert_resumes(folder, tmp_path, capsys, {-1: 2, 3: None}.get(place, 1))


def test_missing_rows_of_a_killed_build_are_not_zeros(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = killed_build(folder, tmp_path / "cache")
    content = (partial / "values.npy").read_bytes()
    (partial / "values.npy").write_bytes(content[:-10])
    assert_resumes(folder, tmp_path, capsys, 2)


def killed_build(folder: Path, cache: Path) -> Path:
    """Return what a build leaves that ends after three clips."""

    def dying(content: bytes) -> NDArray[np.float32]:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(content)
        return real(content)

    real, seen = media.action_units, list[bytes]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "action_units", dying)
        with pytest.raises(KeyboardInterrupt):
            prepared(folder, "tracking", cache, jobs=1)
    [partial] = (cache / "ravdess").glob(".*.partial")
    return partial


def assert_resumes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int | None
) -> None:
    whole = prepared(folder, "tracking", tmp_path / "other")
    resumed = prepared(folder, "tracking", tmp_path / "cache")
    said = capsys.readouterr().err
    assert (f"damaged from clip {at} on" in said) if at is not None else not said
    assert resumed.digest == whole.digest
    assert (resumed.path / "values.npy").read_bytes() == (whole.path / "values.npy").read_bytes()
