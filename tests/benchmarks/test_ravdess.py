"""Preparation of RAVDESS against a loop over the clips that decodes everything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import av
import librosa
import numpy as np
import pytest

from ntdh_bench.datamodules.ravdess.layout import expected_names
from ntdh_bench.datamodules.ravdess.names import ClipName
from ntdh_bench.datamodules.ravdess.store import StoreKind, prepared
from tests.datamodules.ravdess.files import mp4_bytes, wav_bytes

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module", params=[30, 250], ids=["a key frame a second", "one key frame"])
def published(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """1,440 names, all linked to one wav and one mp4 with the published length and picture.

    How often the published videos have a key frame is not documented: 250 frames is x264's default.
    """
    folder = tmp_path_factory.mktemp("published")
    contents = {
        3: wav_bytes(seconds=3.7),
        1: mp4_bytes(
            count=110,
            width=1280,
            height=720,
            rate=30,
            options={"g": str(request.param), "preset": "medium"},
        ),
    }
    for modality, ending in ((3, "wav"), (1, "mp4")):
        first = folder / f"original.{ending}"
        first.write_bytes(contents[modality])
        for key in expected_names():
            top = (
                "Audio_Speech_Actors_01-24" if modality == 3 else f"Video_Speech_Actor_{key[-1]:02}"
            )
            path = folder / top / f"{ClipName(modality, *key)}.{ending}"
            path.parent.mkdir(exist_ok=True)
            os.link(first, path)
    return folder


def subset(published: Path, target: Path, count: int) -> Path:
    """Link the files of the first clips."""
    for name in [ClipName(1, *key) for key in expected_names()[:count]]:
        for path in (
            *published.glob(f"*/{name._replace(modality=3)}.wav"), *published.glob(f"*/{name}.mp4"),
        ):  # fmt: skip
            copy = target / path.relative_to(published)
            copy.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, copy)
    return target


def decode_everything(folder: Path) -> None:
    for path in folder.rglob("*.wav"):
        audio, _ = librosa.load(path, sr=22050)
        librosa.feature.mfcc(y=audio, sr=22050, n_mfcc=40)
    for path in folder.rglob("*.mp4"):
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(pictures) == 110


def test_preparation_against_decoding_everything(
    published: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    warm = subset(published, tmp_path / "warm", 1)
    folder = subset(published, tmp_path / "folder", 12)
    kinds: tuple[StoreKind, ...] = ("audio", "video")
    decode_everything(warm)
    for kind in kinds:
        prepared(warm, kind, tmp_path / "cache", jobs=1)
    seconds = {}
    for kind in kinds:
        start = time.process_time()
        assert len(prepared(folder, kind, tmp_path / "cache", jobs=1).names) == 12
        seconds[kind] = time.process_time() - start
    start = time.process_time()
    decode_everything(folder)
    usual = 12 / (time.process_time() - start)
    ours = 12 / sum(seconds.values())
    print(
        f"\nRAVDESS, wav of 3.7 s and mp4 of 1280x720, 110 frames, {request.node.callspec.id}; "
        f"one core: {ours:.1f} clips/s "
        f"(audio {12 / seconds['audio']:.0f}, video {12 / seconds['video']:.1f}); librosa and "
        f"every frame {usual:.2f} clips/s: {ours / usual:.1f}x"
    )


PEAK = """
import sys
from pathlib import Path
from ntdh_bench.datamodules.ravdess.settings import Preparation
from ntdh_bench.datamodules.ravdess.store import prepared
settings = Preparation(image_height=64, image_width=128)
store = prepared(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), settings)
# Not getrusage: its maximum outlives exec, so it may be that of the process that started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(len(store.names), int(status["VmHWM"].split()[0]) / 1024)
"""


@pytest.mark.parametrize(("kind", "counts"), [("audio", (60, 1440)), ("video", (12, 120))])
def test_peak_memory_whatever_the_number_of_clips(
    published: Path, tmp_path: Path, kind: str, counts: tuple[int, int]
) -> None:
    peaks = []
    for count in counts:
        folder = subset(published, tmp_path / str(count), count)
        command = [sys.executable, "-c", PEAK, str(folder), kind, str(tmp_path / "cache")]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert int(shown[0]) == count
        peaks.append(float(shown[1]))
    print(f"\nRAVDESS {kind}: peak memory {peaks[0]:.0f} MiB for {counts[0]} clips, ", end="")
    print(f"{peaks[1]:.0f} MiB for {counts[1]}")
    assert np.max(peaks) < 1024
