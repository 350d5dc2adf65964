from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from ntdh_bench.datamodules.ravdess.layout import (
    ClipFile,
    ClipKind,
    dataset_folder,
    expected_names,
    find_clips,
    home,
    how_to_get,
)
from ntdh_bench.datamodules.ravdess.names import ClipName
from ntdh_bench.errors import UserError
from tests.datamodules.ravdess.files import CLIPS, write_tables, write_videos, write_wavs, zipped

AUDIO = "Audio_Speech_Actors_01-24"


def contents(folder: Path, kind: ClipKind = "audio") -> dict[str, bytes]:
    listing = find_clips(folder, kind)
    assert listing.faults == ()
    return {str(file.name): file.read(1 << 20) for file in listing.files.values()}


def test_the_data_root_or_the_folder_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no .*ravdess; expected .*data prepare ravdess.*simulate"):
        dataset_folder(tmp_path)
    folder = write_wavs(tmp_path / "ravdess")
    assert dataset_folder(tmp_path) == folder
    assert dataset_folder(folder) == folder
    shutil.rmtree(folder / AUDIO)
    (folder / "features").mkdir()
    assert dataset_folder(folder) == folder


def test_zipped_extracted_and_flat_are_the_same(tmp_path: Path) -> None:
    nested = write_videos(write_wavs(tmp_path / "nested"))
    packed, flat, bare = tmp_path / "packed", tmp_path / "flat", tmp_path / "bare"
    for published in nested.iterdir():
        zipped(published, packed / f"{published.name}.zip")
        for path in published.rglob("*.*"):
            for target in (flat / published.name, bare):
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    for kind in ("audio", "video"):
        expected = contents(nested, kind)  # type: ignore[arg-type]
        assert len(expected) == len(CLIPS)
        for other in (packed, flat, bare):
            assert contents(other, kind) == expected  # type: ignore[arg-type]


def test_files_are_in_order_and_actor_folders_may_stand_alone(tmp_path: Path) -> None:
    write_wavs(tmp_path)
    shutil.move(tmp_path / AUDIO / "Actor_01", tmp_path / "Actor_01")
    files = find_clips(tmp_path, "audio").files
    assert list(files) == sorted(files)
    assert {str(file) for file in files.values() if file.name.actor == 1} == {
        f"Actor_01/03-{clip}.wav" for clip in CLIPS if clip.endswith("01")
    }


def test_what_is_wrong_is_listed_and_left_out(tmp_path: Path) -> None:
    write_wavs(tmp_path)
    actor = tmp_path / AUDIO / "Actor_01"
    wav = actor / f"03-{CLIPS[0]}.wav"
    for name in (
        "03-01-09-01-01-01-01.wav",
        "01-01-02-01-01-01-01.wav",
        "03-02-02-01-01-01-01.wav",
    ):
        shutil.copy(wav, actor / name)
    (actor / ".DS_Store.wav").write_text("")
    (actor / f"._03-{CLIPS[0]}.wav").write_text("")
    (tmp_path / "holiday.wav").write_text("")  # beside the published folders: not ours
    (actor / wav.name.replace(".wav", ".csv")).mkdir()
    listing = find_clips(tmp_path, "audio", songs=True)
    assert len(listing.files) == len(CLIPS)
    faults = " ".join(listing.faults)
    assert len(listing.faults) == 3
    assert f"{AUDIO}/Actor_01/03-01-09-01-01-01-01.wav: '03-01-09-01-01-01-01' is not the" in faults
    assert "01-01-02-01-01-01-01.wav: modality 01, expected 03 for audio" in faults
    assert "03-02-02-01-01-01-01.wav: channel 02, expected 01 in this folder" in faults


def test_the_same_clip_twice(tmp_path: Path) -> None:
    write_wavs(tmp_path)
    zipped(tmp_path / AUDIO, tmp_path / f"{AUDIO}.zip")
    listing = find_clips(tmp_path, "audio")
    assert listing.faults == ()
    assert {file.member for file in listing.files.values()} == {None}
    wav = tmp_path / AUDIO / "Actor_01" / f"03-{CLIPS[0]}.wav"
    wav.write_bytes(wav.read_bytes()[:-2])
    [fault] = find_clips(tmp_path, "audio").faults
    assert "the same clip twice" in fault
    assert f"{AUDIO}.zip/Actor_01/03-{CLIPS[0]}.wav" in fault


def test_videos_with_sound_are_preferred(tmp_path: Path) -> None:
    write_videos(tmp_path)
    for path in tmp_path.rglob("01-*.mp4"):
        path.with_name(path.name.replace("01-", "02-", 1)).write_bytes(path.read_bytes()[:50])
    next(tmp_path.rglob(f"01-{CLIPS[0]}.mp4")).unlink()
    files = find_clips(tmp_path, "video").files
    assert [file.name.modality for file in files.values()].count(2) == 1
    assert find_clips(tmp_path, "video").faults == ()


def test_songs_only_if_asked_for(tmp_path: Path) -> None:
    song = "02-01-01-01-01-03"
    write_tables(tmp_path, [*CLIPS, song])
    assert len(find_clips(tmp_path, "tracking").files) == len(CLIPS)
    listing = find_clips(tmp_path, "tracking", songs=True)
    assert listing.faults == ()
    assert ClipName.parse(f"01-{song}").key in listing.files


def test_zips_that_cannot_be_trusted(tmp_path: Path) -> None:
    wav = next(write_wavs(tmp_path / "source").rglob("*.wav"))
    (tmp_path / f"{AUDIO}.zip").write_bytes(b"no zip at all")
    with zipfile.ZipFile(tmp_path / "Actor_01.zip", "w") as archive:
        for name in (f"../{wav.name}", f"/etc/{wav.name}", f"C:\\{wav.name}", f"a/{wav.name}"):
            archive.write(wav, name)
            archive.filelist[-1].filename = name  # as an attacker would: unchanged
    listing = find_clips(tmp_path, "audio")
    assert [str(file) for file in listing.files.values()] == [f"Actor_01.zip/a/{wav.name}"]
    assert len(listing.faults) == 4
    assert sum("is a path out of the zip; not read" in fault for fault in listing.faults) == 3
    assert any(f"{AUDIO}.zip: damaged, or not a zip" in fault for fault in listing.faults)


def test_reading_checks_the_size_and_the_zip(tmp_path: Path) -> None:
    write_wavs(tmp_path)
    packed = zipped(tmp_path / AUDIO, tmp_path / "packed" / f"{AUDIO}.zip")
    file = next(iter(find_clips(packed.parent, "audio").files.values()))
    with pytest.raises(UserError, match=rf"{file}: {file.size} bytes, expected at most 10"):
        file.read(10)
    with zipfile.ZipFile(packed) as archive:
        info = archive.getinfo(file.member or "")
    content = bytearray(packed.read_bytes())
    middle = info.header_offset + len(info.filename) + info.compress_size // 2
    content[middle] ^= 0xFF
    packed.write_bytes(content)
    file = next(iter(find_clips(packed.parent, "audio").files.values()))
    with pytest.raises(UserError, match=r"damaged in the zip .*; get it again"):
        file.read(1 << 20)
    short = next((tmp_path / AUDIO).rglob("*.wav"))
    listed = ClipFile(file.stem, "x.wav", short, None, short.stat().st_size + 1, 0)
    with pytest.raises(UserError, match=r"x\.wav: \d+ bytes, expected \d+"):
        listed.read(1 << 20)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    folder = write_wavs(tmp_path / "ravdess")
    actor = folder / AUDIO / "Actor_01"
    shutil.move(actor, tmp_path / "elsewhere")
    actor.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(folder / AUDIO)
    assert len(contents(folder)) == len(CLIPS)


def test_a_member_of_a_rare_method_or_a_long_name_is_one_short_fault(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Actor_01.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("03-01-01-01-01-01-01.wav", bytes(100))
    with zipfile.ZipFile(tmp_path / "Actor_02.zip", "w") as archive:
        archive.writestr("x" * 13_000 + ".wav", bytes(100))
    listing = find_clips(tmp_path, "audio")
    assert not listing.files
    assert "packed by another method than deflate" in listing.faults[0]
    assert all(len(fault) <= 400 for fault in listing.faults)


def test_the_published_set() -> None:
    speech = expected_names()
    both = expected_names(songs=True)
    assert len(speech) == len(set(speech)) == 1440
    assert len(both) == 1440 + 1012
    assert {key[0] for key in speech} == {1}
    assert not any(key[0] == 2 and key[-1] == 18 for key in both)
    assert [key[1] for key in speech].count(1) == 96
    assert set(speech) <= set(both)


def test_the_real_files(data_root: Path) -> None:
    listing = find_clips(dataset_folder(data_root), "audio")
    assert listing.faults == ()
    assert set(listing.files) <= set(expected_names())
    assert all(file.read(1 << 21)[:4] == b"RIFF" for file in listing.files.values())


def test_links_to_nowhere_are_faults(tmp_path: Path) -> None:
    folder = tmp_path / "ravdess" / "Audio_Speech_Actors_01-24"
    folder.mkdir(parents=True)
    (folder / "03-01-01-01-01-01-01.wav").symlink_to(tmp_path / "annex")
    (tmp_path / "ravdess" / "Actor_02.zip").symlink_to(tmp_path / "annex")
    listing = find_clips(tmp_path / "ravdess", "audio")
    assert not listing.files
    assert listing.faults[0] == "Actor_02.zip is missing; get it again"
    assert "03-01-01-01-01-01-01.wav: cannot be read (No such file" in listing.faults[1]


def test_misnamed_files_of_a_flat_folder_are_faults(tmp_path: Path) -> None:
    for name in ("03-01-01-01-01-01-01", "03-01-09-01-01-01-01", "03-01-01-01", "holiday"):
        (tmp_path / f"{name}.wav").write_bytes(b"x")
    listing = find_clips(tmp_path, "audio")
    assert len(listing.files) == 1
    assert [fault.partition(".wav")[0] for fault in listing.faults] == [
        "03-01-01-01",
        "03-01-09-01-01-01-01",
    ]


def test_the_home_of_the_files(tmp_path: Path) -> None:
    assert home(tmp_path) == tmp_path / "ravdess"
    (tmp_path / "Audio_Speech_Actors_01-24").mkdir()
    assert home(tmp_path) == dataset_folder(tmp_path) == tmp_path
    assert f"--root {tmp_path}`" in how_to_get(tmp_path)
    assert f"--root {tmp_path}`" in how_to_get(tmp_path / "ravdess")
    (tmp_path / "ravdess").mkdir()
    assert home(tmp_path) == tmp_path / "ravdess"
