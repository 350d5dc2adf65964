from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntdh_bench.cache import seal
from ntdh_bench.datamodules.ravdess import media
from ntdh_bench.datamodules.ravdess.layout import ClipFile
from ntdh_bench.datamodules.ravdess.settings import Preparation
from ntdh_bench.datamodules.ravdess.store import Recipe, Store, StoreKind
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
    assert store.faults == []
    plan = Recipe(kind, "librosa", shape)
    ending = {"video": "mp4", "tracking": "csv"}.get(kind, "wav")
    for name, row in zip(store.clips, store.values, strict=True):
        content = next(folder.rglob(f"{name}.{ending}")).read_bytes()
        assert np.array_equal(row, plan.decode(content))
    assert [clip.key for clip in store.clips] == sorted(clip.key for clip in store.clips)


def test_threads_change_nothing_and_a_second_call_does_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = [prepared(folder, "audio", tmp_path / f"{jobs}", jobs=jobs) for jobs in (1, 3)]
    assert stores[0].digest == stores[1].digest
    assert np.array_equal(stores[0].values, stores[1].values)
    read = calls(monkeypatch)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("values")}
    assert prepared(folder, "audio", tmp_path / "1").digest == stores[0].digest
    assert not read
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("values")}


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
        assert one.folder != other.folder
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
    assert store.names == [NAMES[0], *NAMES[3:]]
    assert len(store.faults) == 3
    assert store.faults[0].startswith("Audio_Speech_Actors_01-24/odd.wav: 'odd' is not the name")
    assert f"{NAMES[1]}.wav: not a wav file that can be read (" in store.faults[1]
    content = next(folder.rglob(f"{NAMES[3]}.wav")).read_bytes()
    assert np.array_equal(store.values[1], media.mfcc(content))


def test_what_depends_on_the_files_and_the_settings(folder: Path, tmp_path: Path) -> None:
    def path(**changes: Any) -> Path:
        settings = {"image_height": 16, "image_width": 16, **changes}
        return prepared(folder, "video", tmp_path, **settings).folder

    first = path()
    assert path(backend="torchaudio") == first  # video does not depend on it
    assert len({first, path(frames=2), path(image_height=17), path(image_width=17)}) == 4
    next(folder.rglob("*.mp4")).touch()
    assert path() != first


KILLED = """
import os, signal, sys
from pathlib import Path
from ntdh_bench.cache import seal
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
    read = calls(monkeypatch)
    resumed = prepared(folder, "tracking", cache)
    assert len(read) == len(CLIPS) - 3
    whole = prepared(folder, "tracking", tmp_path / "other")
    assert resumed.digest == whole.digest
    assert (resumed.clips, resumed.faults) == (whole.clips, whole.faults)
    assert np.array_equal(resumed.values, whole.values)


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
    assert prepared(folder, "tracking", tmp_path).faults == []


def test_facts_that_are_none_are_not_believed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepared(folder, "tracking", tmp_path)
    meta = json.loads((first.folder / "meta.json").read_text())
    for place, value in ((0, "x"), (3, None), (3, ["", 1])):
        entries = [list(entry) for entry in meta["entries"]]
        entries[1][place] = value
        (first.folder / "meta.json").write_text(json.dumps({**meta, "entries": entries}))
        seal(first.folder, first.folder)
        assert prepared(folder, "tracking", tmp_path).clips == first.clips
        assert f"{first.folder} is damaged" in capsys.readouterr().err
