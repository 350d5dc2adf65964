from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ntdh_bench.datamodules.ravdess import prepare as module
from ntdh_bench.datamodules.ravdess.glance import lacking
from ntdh_bench.datamodules.ravdess.layout import expected_names
from ntdh_bench.datamodules.ravdess.names import ClipName
from ntdh_bench.datamodules.ravdess.prepare import prepare, published_zips, verify
from ntdh_bench.datasets import FileCheck, write_marker
from ntdh_bench.errors import UserError
from tests.datamodules.ravdess.files import (
    CLIPS,
    csv_bytes,
    write_tables,
    write_videos,
    write_wavs,
    zipped,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTDH_CACHE", str(tmp_path / "cache"))


def prepared(*args: Any, **options: Any) -> str:
    small = {"image_height": 28, "image_width": 56}
    return "\n".join(prepare(*args, **{**small, **options}))


def test_from_a_folder_reads_the_files_where_they_are(tmp_path: Path) -> None:
    given = tmp_path / "given"
    write_tables(write_videos(write_wavs(given)))
    before = sorted(given.rglob("*"))
    shown = prepared(tmp_path / "root", given, frames=2)
    for kind in ("audio", "video", "tracking", "speech"):
        assert f"{kind}: 6 clips" in shown
    assert "6 clips have both audio and video" in shown
    assert "6 clips have both speech and tracking" in shown
    settings = "--data.frames 2 --data.image_height 28 --data.image_width 56"
    assert shown.endswith(f"use it with --data.root {given} {settings}")
    assert sorted(given.rglob("*")) == before
    assert not (tmp_path / "root").exists()


def test_what_is_not_there_is_not_prepared(tmp_path: Path) -> None:
    write_wavs(tmp_path / "given" / "ravdess")
    shown = prepared(tmp_path / "root", tmp_path / "given")
    assert "audio: 6 clips" in shown
    assert not any(word in shown for word in ("video:", "tracking", "both"))
    (tmp_path / "none" / "ravdess").mkdir(parents=True)
    with pytest.raises(UserError, match="no clips to prepare; expected"):
        prepared(tmp_path / "root", tmp_path / "none")


def test_faults_are_listed_and_fail_once_the_rest_is_prepared(tmp_path: Path) -> None:
    folder = write_tables(write_wavs(tmp_path / "ravdess"))
    wav = next(folder.rglob("*.wav"))
    wav.write_bytes(b"no wav")
    with pytest.raises(
        UserError, match=r"1 files are damaged or misnamed, more than --tolerance 0"
    ):
        list(prepare(tmp_path, tmp_path))
    lines = list(prepare(tmp_path, tmp_path, tolerance=1))
    assert "audio: 5 clips" in lines[0]
    assert sum(f"{wav.name}: not a wav file" in line for line in lines) == 1
    assert lines[-1] == f"use it with --data.root {tmp_path}"


class Zenodo:
    """A downloader that serves records and zips from a folder."""

    def __init__(self, folder: Path, zips: dict[str, Path]) -> None:
        self.folder, self.zips = folder, zips
        self.asked: list[str] = []
        self.changes: dict[str, Any] = {}

    def record(self, names: list[str]) -> str:
        files = []
        for name in names:
            path = self.zips[name]
            entry = {
                "key": name, "size": path.stat().st_size,
                "checksum": f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}",
                "links": {"self": f"https://zenodo.org/api/records/1/files/{name}/content"},
            }  # fmt: skip
            files.append({**entry, **self.changes})
        return json.dumps({"files": files})

    def __call__(self, urls: list[str], path: Path, *, max_bytes: int, check: Any) -> Path:
        if path.exists():
            return path
        [url] = urls
        self.asked.append(url)
        source = self.folder / "answer"
        self.folder.mkdir(exist_ok=True)
        if url.rpartition("/")[2].isdigit():
            source.write_text(self.record(published_zips()[url.rpartition("/")[2]]))
        else:
            shutil.copy(self.zips[path.name], source)
        assert source.stat().st_size <= max_bytes
        if wrong := check(source):
            raise UserError(f"cannot download {path.name}: {wrong}")
        assert check(Path(__file__)) is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(source, path))


@pytest.fixture
def zenodo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zenodo:
    source = write_tables(write_videos(write_wavs(tmp_path / "source")))
    names = [name for record in published_zips().values() for name in record]
    zips = {}
    for name in names:
        published = source / Path(name).stem
        published.mkdir(exist_ok=True)  # the other actors' zips are empty
        zips[name] = zipped(published, tmp_path / "server" / name)
    fake = Zenodo(tmp_path / "answers", zips)
    monkeypatch.setattr(module, "download", fake)
    return fake


def test_downloads_what_is_missing_and_keeps_it_zipped(zenodo: Zenodo, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(
        tmp_path / "source" / "Video_Speech_Actor_01", root / "ravdess" / "Video_Speech_Actor_01"
    )
    shown = prepared(root)
    assert "6 clips have both audio and video" in shown
    assert len(zenodo.asked) == 2 + 1 + 23 + 1
    assert zenodo.asked[0] == "https://zenodo.org/api/records/1188976"
    assert "https://zenodo.org/api/records/3255102" in zenodo.asked
    assert not any("Actor_01.zip" in url for url in zenodo.asked)  # is there, extracted
    assert (root / "ravdess" / "Audio_Speech_Actors_01-24.zip").is_file()
    zenodo.asked.clear()
    assert "6 clips have both audio and video" in prepared(root)
    assert zenodo.asked == []


def test_zips_with_another_size_are_not_overwritten(zenodo: Zenodo, tmp_path: Path) -> None:
    path = tmp_path / "root" / "ravdess" / "Audio_Speech_Actors_01-24.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"4 bytes, expected \d+; delete it and try again"):
        prepared(tmp_path / "root")
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checksum": "md5:" + "0" * 32}, f"MD5 is .*, expected {'0' * 32}"),
        ({"checksum": "sha1:00"}, "not the record's list of files .*'checksum'"),
        ({"links": {"self": "https://elsewhere.org/x"}}, "not the record's list of files .*'self'"),
        ({"key": "other.zip"}, "has no Audio_Speech_Actors_01-24.zip"),
        ({"size": -1}, "not the record's list of files .*'size'"),
        ({"size": 10**12}, "1000000000000 bytes announced, expected at most"),
    ],
)
def test_the_record_is_not_trusted(
    zenodo: Zenodo, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    zenodo.changes = changes
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "root")


def test_a_web_page_or_half_a_zip_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "given" / "ravdess"
    zipped(write_wavs(tmp_path / "source"), folder / "Audio_Speech_Actors_01-24.zip")
    page = folder / "Video_Speech_Actor_01.zip"
    page.write_text("<!DOCTYPE html><html>Too many requests</html>")
    with pytest.raises(UserError, match="1 files are damaged") as caught:
        prepared(tmp_path / "root", tmp_path / "given")
    assert len(str(caught.value)) <= 400
    half = folder / "Audio_Speech_Actors_01-24.zip"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    with pytest.raises(UserError, match=r"no clips .*Audio_Speech_Actors_01-24\.zip: damaged"):
        prepared(tmp_path / "root", tmp_path / "given")
    assert lacking(tmp_path / "given") == "0 of 1,440 wav, 0 of 1,440 mp4, 2 unusable"


def test_a_glance_says_what_is_lacking(tmp_path: Path) -> None:
    write_videos(write_wavs(tmp_path / "ravdess"))
    assert lacking(tmp_path) == "6 of 1,440 wav, 6 of 1,440 mp4"


def test_a_damaged_list_of_the_record_is_downloaded_anew(
    zenodo: Zenodo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path / "root")
    [*_, kept] = sorted((tmp_path / "root" / "ravdess").glob(".zenodo-*.json"))
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "root" / "ravdess" / "FacialTracking_Actors_01-24.zip").unlink()
    prepared(tmp_path / "root")
    assert "is damaged: downloaded anew" in capsys.readouterr().err
    assert kept.read_bytes() == whole


def test_published_zips() -> None:
    assert sum(map(len, published_zips().values())) == 26
    clips = published_zips(songs=True)[module.CLIPS_RECORD]
    assert len(clips) == 25 + 24
    assert "Video_Song_Actor_18.zip" not in clips


def by_path(root: Path) -> dict[str, FileCheck]:
    return {check.path.relative_to(root).as_posix(): check for check in verify(root)}


def test_verify_names_what_is_missing(tmp_path: Path) -> None:
    """Actor 1 is whole but for two clips, of actor 2 there are three, of others none."""
    names = [str(ClipName(3, *key))[3:] for key in expected_names() if key[-1] == 1]
    gone = [names[3], names[57]]
    few = [name[:-2] + "02" for name in names[:3]]
    write_wavs(tmp_path / "ravdess", [name for name in names if name not in gone] + few)
    checks = by_path(tmp_path)
    first = checks["ravdess/Audio_Speech_Actors_01-24/Actor_01"]
    assert first.state == "incomplete"
    missing = f"missing 03-{gone[0]}.wav, 03-{gone[1]}.wav"
    assert first.note == f"58 of 60 clips, all decoded; {missing}"
    second = checks["ravdess/Audio_Speech_Actors_01-24/Actor_02"]
    assert second.note.startswith("3 of 60 clips, all decoded; missing 03-")
    assert second.note.endswith("and 54 more")
    assert second.note.count(".wav") == 3
    third = checks["ravdess/Audio_Speech_Actors_01-24/Actor_03"]
    assert (third.state, third.note) == ("missing", "0 of 60 clips")
    videos = checks["ravdess/Video_Speech_Actor_NN[.zip]"]
    assert videos.state == "missing"
    assert videos.note.startswith("none of 1,440 clips")
    assert len(checks) == 25


def test_verify_names_what_is_damaged_misnamed_and_unpaired(tmp_path: Path) -> None:
    folder = write_tables(write_videos(write_wavs(tmp_path)))
    next(folder.rglob(f"03-{CLIPS[1]}.wav")).write_bytes(b"no wav")
    video = next(folder.rglob(f"01-{CLIPS[4]}.mp4"))
    video.write_bytes(video.read_bytes()[:600])
    next(folder.rglob(f"01-{CLIPS[5]}.mp4")).unlink()
    next(folder.rglob(f"01-{CLIPS[0]}.csv")).write_bytes(csv_bytes(leave_out="AU01_r"))
    (folder / "Video_Speech_Actor_02" / "me.mp4").write_bytes(b"")
    checks = verify(folder)
    corrupt = [check.note for check in checks if check.state == "corrupt"]
    assert len(corrupt) == 4
    assert any(f"03-{CLIPS[1]}.wav: not a wav file" in note for note in corrupt)
    assert any(f"01-{CLIPS[4]}.mp4: not an mp4" in note for note in corrupt)
    assert any(f"01-{CLIPS[0]}.csv: no column AU01_r" in note for note in corrupt)
    assert any("Video_Speech_Actor_02/me.mp4: 'me' is not the name" in note for note in corrupt)
    assert checks[-1].state == "incomplete"
    assert checks[-1].note == f"1 clips without video: 03-{CLIPS[5]}.wav"


def test_verify_of_simulated_files_compares_the_kinds(tmp_path: Path) -> None:
    folder = write_tables(write_videos(write_wavs(tmp_path / "ravdess")))
    write_marker(folder, {})
    checks = verify(tmp_path)
    assert {check.state for check in checks} == {"ok"}
    next(folder.rglob(f"01-{CLIPS[5]}.mp4")).unlink()
    assert [check.state for check in verify(tmp_path)].count("incomplete") == 2


def test_verify_of_the_real_files(data_root: Path) -> None:
    checks = by_path(data_root)
    for number in (1, 2):
        check = checks[f"ravdess/Audio_Speech_Actors_01-24/Actor_{number:02}"]
        assert check.state in ("ok", "incomplete")
        assert "all decoded" in check.note
