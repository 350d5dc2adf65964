from __future__ import annotations

import subprocess
import sys
import wave
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ntdh_bench.datamodules.ravdess import media, simulate
from ntdh_bench.datamodules.ravdess.names import ACTORS, ClipName
from ntdh_bench.datamodules.ravdess.simulate import clip_names, write_simulated
from ntdh_bench.datasets import MARKER, is_simulated
from ntdh_bench.errors import UserError
from tests.datamodules.files import digests

Floats = NDArray[Any]
CLIPS = (".wav", ".mp4", ".csv")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 clips of every actor."""
    folder = tmp_path_factory.mktemp("simulated")
    write_simulated(folder, clips=8)
    return folder


def speech_files(root: Path) -> list[Path]:
    return sorted(root.glob("ravdess/Audio_Speech_Actors_01-24/Actor_??/*.wav"))


def partners(root: Path, speech: Path) -> tuple[Path, Path]:
    """Video and table of a clip."""
    name = ClipName.parse(speech.stem)
    stem, folder = str(name._replace(modality=1)), root / "ravdess"
    place = f"Video_Speech_Actor_{name.actor:02}/Actor_{name.actor:02}"
    return folder / place / f"{stem}.mp4", folder / "FacialTracking_Actors_01-24" / f"{stem}.csv"


def frames(path: Path) -> list[Image.Image]:
    with av.open(str(path)) as file:
        return [frame.to_image() for frame in file.decode(video=0)]


def table(path: Path) -> tuple[list[str], Floats]:
    header, *rows = path.read_text().splitlines()
    return header.split(", "), np.array([row.split(", ") for row in rows], dtype=float)


def test_all_names_are_those_of_the_published_set() -> None:
    names = {name for actor in ACTORS for name in clip_names(actor, 60)}
    assert len(names) == 1440
    assert Counter(name.emotion for name in names) == {1: 96, **dict.fromkeys(range(2, 9), 192)}
    assert all(ClipName.parse(str(name)) == name for name in names)
    assert {(name.modality, name.channel) for name in names} == {(3, 1)}
    assert not [name for name in names if name.emotion == 1 and name.intensity == 2]


@pytest.mark.parametrize("clips", [1, 2, 8, 20, 37])
@pytest.mark.parametrize("sex", [0, 1])
def test_any_number_of_clips_is_balanced(clips: int, sex: int) -> None:
    names = [name for actor in ACTORS[sex::2] for name in clip_names(actor, clips)]
    assert len(set(names)) == 12 * clips
    emotions = Counter(name.emotion for name in names)
    assert set(emotions) == set(range(1, 9))
    others = [emotions[emotion] for emotion in range(2, 9)]
    assert max(others) - min(others) <= 0.25 * max(others) + 1
    assert emotions[1] <= max(others)
    for field in ("statement", "repetition"):
        share = np.mean([getattr(name, field) == 1 for name in names])
        assert 0.3 <= share <= 0.7, field
    strong = np.mean([name.intensity == 2 for name in names if name.emotion > 1])
    assert 0.3 <= strong <= 0.7


def test_layout_pairs_and_formats(root: Path) -> None:
    speech = speech_files(root)
    assert len(speech) == 24 * 8
    channels = Counter[int]()
    for path in speech:
        with wave.open(str(path)) as file:
            channels[file.getnchannels()] += 1
            assert (file.getframerate(), file.getsampwidth()) == (48_000, 2)
            assert 1.0 <= file.getnframes() / 48_000 <= 1.6
        assert all(partner.is_file() for partner in partners(root, path))
    assert channels == {1: 24 * 8 - 3, 2: 3}
    assert is_simulated(root / "ravdess", root)
    assert all(
        (folder / MARKER).is_file() for folder in (root / "ravdess").iterdir() if folder.is_dir()
    )


def test_video_and_table_of_a_clip_agree(root: Path) -> None:
    video, tracking = partners(root, speech_files(root)[0])
    images = frames(video)
    columns, rows = table(tracking)
    assert images[0].size == (320, 160)
    assert len(images) == len(rows)
    assert columns[:5] == ["frame", "face_id", "timestamp", "confidence", "success"]
    assert [name for name in columns if name.endswith("_r")][::16] == ["AU01_r", "AU45_r"]
    assert [name for name in columns if name.endswith("_c")][-2:] == ["AU28_c", "AU45_c"]
    assert len(columns) == 5 + 17 + 18 == rows.shape[1]
    assert rows[:, 5:22].min() >= 0
    assert rows[:, 5:22].max() <= 5
    assert set(np.unique(rows[:, 22:])) <= {0, 1}
    assert np.allclose(np.diff(rows[:, 2]), 0.1)


def test_a_clip_depends_on_its_name_and_the_seed_alone(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from ntdh_bench.datamodules.ravdess.simulate import write_simulated as write;"
        "write(Path(sys.argv[1]), clips=1); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True)
    write_simulated(tmp_path / "other", clips=1, seed=1)
    many, again, other = (
        {name: value for name, value in digests(folder).items() if name.endswith(CLIPS)}
        for folder in (root, tmp_path / "again", tmp_path / "other")
    )
    assert len(again) == 3 * 24
    assert {name: many[name] for name in again} == again
    assert again.keys() == other.keys()
    assert not [name for name in again if again[name] == other[name]]


@pytest.fixture
def empty_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write speech files without content and no features, for tests of the folders."""

    def touch(folder: Path, clip: simulate._Clip) -> None:
        (folder / "Audio_Speech_Actors_01-24" / f"{clip.name}.wav").touch()

    monkeypatch.setattr(simulate, "_write_clip", touch)
    monkeypatch.setattr(simulate, "_write_features", lambda folder: None)


@pytest.mark.usefixtures("empty_clips")
def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    speech = tmp_path / "ravdess" / "Audio_Speech_Actors_01-24"
    write_simulated(tmp_path, clips=2)
    write_simulated(tmp_path, clips=1)  # its own files it may replace
    assert len(list(speech.glob("*.wav"))) == 24
    for folder in (speech, tmp_path / "ravdess"):
        (folder / MARKER).unlink()
        with pytest.raises(UserError, match=rf"{folder.name} is not empty and has no SIMULATED"):
            write_simulated(tmp_path, clips=1)


@pytest.mark.parametrize(("clips", "seed"), [(0, 0), (61, 0), (1, -1)])
def test_arguments_out_of_range(clips: int, seed: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 1 to 60 clips"):
        write_simulated(tmp_path, clips, seed)
    assert not list(tmp_path.iterdir())


def test_without_x264_the_videos_are_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    path = tmp_path / "clip.mp4"
    grey = np.full((160, 320, 3), 128, np.uint8)
    simulate._write_video(path, iter([grey] * 3))
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.name == "mpeg4"
    assert abs(np.asarray(frames(path)[1]).astype(int) - grey).max() <= 4


def on_unseen_actors(names: Iterable[ClipName], features: list[Floats]) -> float:
    """Accuracy of a linear classifier on actors 17 to 24."""
    names, values = list(names), np.array(features)
    target = np.array([name.target for name in names])
    train = np.array([name.actor <= 16 for name in names])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    return float(model.fit(values[train], target[train]).score(values[~train], target[~train]))


def middle(path: Path) -> Floats:
    (frame,) = media.frames(path.read_bytes(), 1, 40, 80)
    return frame[:, 2:38, 22:58].mean(0).ravel()


def test_both_modalities_can_be_learnt_but_not_perfectly(root: Path) -> None:
    speech = speech_files(root)
    names = [ClipName.parse(path.stem) for path in speech]
    videos, tables = zip(*(partners(root, path) for path in speech), strict=True)
    accuracy = {
        "speech": on_unseen_actors(
            names, [media.functionals(path.read_bytes()) for path in speech]
        ),
        "image": on_unseen_actors(names, [middle(path) for path in videos]),
        "units": on_unseen_actors(
            names, [media.action_units(path.read_bytes()) for path in tables]
        ),
    }
    print(accuracy)
    assert all(0.3 < value < 0.9 for value in accuracy.values()), accuracy  # chance: 0.125
