"""Small wavs, mp4s and OpenFace tables with RAVDESS names."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ntdh_bench.datamodules.ravdess.media import ACTION_UNITS

#: Six fields after the modality, of two actors.
CLIPS = [f"01-{emotion:02}-01-01-01-{actor:02}" for actor in (1, 2) for emotion in (1, 3, 5)]


def wav_bytes(
    seed: int = 0, seconds: float = 0.3, rate: int = 48_000, channels: int = 1, **changes: Any
) -> bytes:
    """A tone in noise; ``changes`` go to soundfile."""
    random = np.random.default_rng(seed)
    count = round(seconds * rate)
    tone = 0.3 * np.sin(2 * np.pi * (200 + 50 * seed) * np.arange(count) / rate)
    return encoded(tone[:, None] + 0.05 * random.normal(size=(count, channels)), rate, **changes)


def encoded(samples: NDArray[Any], rate: int = 48_000, **changes: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", "subtype": "PCM_16", **changes})
    return buffer.getvalue()


def mp4_bytes(
    seed: int = 0,
    count: int = 12,
    width: int = 64,
    height: int = 48,
    rate: int = 10,
    options: dict[str, str] | None = None,
) -> bytes:
    """H.264 whose frames get brighter from one to the next; a key frame every five."""
    random = np.random.default_rng(seed)
    texture = random.integers(0, 60, (height, width, 3))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": "5", "bf": "2", "preset": "ultrafast", **(options or {})}
        for number in range(count):
            picture = np.roll(texture, number, axis=1) + 180 * number // max(count - 1, 1)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def every_frame(content: bytes, height: int, width: int) -> list[NDArray[np.uint8]]:
    """All frames, decoded in order: uint8 (3, height, width)."""
    with av.open(io.BytesIO(content)) as container:
        return [
            frame.reformat(width, height, "rgb24", interpolation="AREA")
            .to_ndarray()
            .transpose(2, 0, 1)
            for frame in container.decode(video=0)
        ]


def csv_bytes(seed: int = 0, rows: int = 4, leave_out: str = "", success: int = 1) -> bytes:
    columns = ["frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNITS]
    values = np.random.default_rng(seed).uniform(0, 1, (rows, len(columns)))
    values[:, 4] = success
    kept = [number for number, name in enumerate(columns) if name != leave_out]
    columns, values = [columns[number] for number in kept], values[:, kept]
    lines = [", ".join(columns), *(", ".join(f"{value:.2f}" for value in row) for row in values)]
    return "\n".join(lines).encode() + b"\n"


def write_wavs(folder: Path, clips: list[str] = CLIPS) -> Path:
    """Write ``Audio_Speech_Actors_01-24/Actor_NN/*.wav`` into ``folder``; returns it."""
    for seed, clip in enumerate(clips):
        path = folder / "Audio_Speech_Actors_01-24" / f"Actor_{clip[-2:]}" / f"03-{clip}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav_bytes(seed))
    return folder


def write_videos(folder: Path, clips: list[str] = CLIPS) -> Path:
    """Write ``Video_Speech_Actor_NN/Actor_NN/*.mp4`` into ``folder``; returns it."""
    for seed, clip in enumerate(clips):
        actor = clip[-2:]
        path = folder / f"Video_Speech_Actor_{actor}" / f"Actor_{actor}" / f"01-{clip}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mp4_bytes(seed))
    return folder


def write_tables(folder: Path, clips: list[str] = CLIPS) -> Path:
    """Write ``FacialTracking_Actors_01-24/*.csv`` into ``folder``; returns it."""
    for seed, clip in enumerate(clips):
        path = folder / "FacialTracking_Actors_01-24" / f"01-{clip}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(csv_bytes(seed))
    return folder


def zipped(folder: Path, target: Path) -> Path:
    """Pack the content of ``folder`` into ``target``, as the published zips are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return target
