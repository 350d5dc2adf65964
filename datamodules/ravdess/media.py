"""Decoding: the bytes of a wav, mp4 or OpenFace CSV to one array. Trusts none of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO, StringIO
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.errors import UserError

if TYPE_CHECKING:
    import av
    import torch
    from av.container import InputContainer
    from av.video.stream import VideoStream

    Packet = av.Packet[VideoStream]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SAMPLE_RATE = 22_050
COEFFICIENTS, LENGTH = 40, 256
FUNCTIONALS = 4 * COEFFICIENTS
CONTOUR = 259
_CONTOUR_RATE = 44_100
_WINDOW, _HOP, _BANDS, _TOP_DB = 2048, 512, 128, 80.0  # librosa's defaults
_MIN_SECONDS, _MAX_SECONDS = 0.01, 30  # published clips have 3 to 7
_MAX_SAMPLES = 6_000_000  # 30 s of two channels at 96 kHz, or of four at 48
_RATES = 1_000, 384_000  # Hz; published clips have 48,000
_UNCOMPRESSED = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
_LOUDEST = 1e6  # of floating-point samples, where 1 is full scale: their squares stay finite
_MAX_PIXELS = 1920 * 1088  # published videos have 1280x720
_MAX_PACKETS = 1000  # published videos have about 110 to 250 frames
_INTENSITY_RANGE, _PRESENCE_RANGE = (0, 5), (0, 1)
_INTENSITIES = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
_PRESENCES = (*_INTENSITIES[:-1], 28, 45)
#: OpenFace's columns: 17 intensities in [0, 5], then 18 presences in [0, 1].
ACTION_UNITS = (
    *(f"AU{unit:02}_r" for unit in _INTENSITIES),
    *(f"AU{unit:02}_c" for unit in _PRESENCES),
)


def samples(content: bytes, rate: int = SAMPLE_RATE) -> Floats:
    """Decode a wav: mono (the mean of its channels), float32 (n,) at ``rate`` Hz, as librosa does.

    Sample rates of 1 to 384 kHz, integer or floating-point samples, any RIFF chunks.

    Raises:
        UserError: it is no wav, is cut off, has no samples or compressed ones, less than 10 ms or
            more than 30 s, another sample rate, or samples that are NaN or beyond 1e6.
    """
    import librosa
    import soundfile

    with _decoding("a wav file"), soundfile.SoundFile(BytesIO(content)) as file:
        _check_wav(file, content)
        channels = file.read(dtype="float32", always_2d=True)
        own_rate = file.samplerate
    if not np.abs(channels).max() <= _LOUDEST:  # true of NaN as well
        raise UserError("samples that are NaN, infinite or beyond 1e6; get it again")
    mono = channels.mean(axis=1)
    resampled: Floats = librosa.resample(mono, orig_sr=own_rate, target_sr=rate)
    return resampled


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Turn whatever damaged content leads a decoder to raise inside the block into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"not {what} that can be read ({type(error).__name__}); get it again"
        ) from None


def _check_wav(file: Any, content: bytes) -> None:
    if file.format not in ("WAV", "WAVEX", "RF64"):
        raise UserError(f"not a wav file, but {file.format}; get it again")
    declared = int.from_bytes(content[4:8], "little") + 8
    if content[:4] == b"RIFF" and len(content) < declared < 1 << 32:
        raise UserError(f"cut off: {len(content)} of {declared} bytes; get it again")
    if file.subtype not in _UNCOMPRESSED:
        raise UserError(f"samples of the kind {file.subtype}, expected PCM; get it again")
    low, high = _RATES
    if not low <= file.samplerate <= high:
        raise UserError(f"{file.samplerate} Hz, expected {low} to {high}; get it again")
    if not file.frames:
        raise UserError("no samples; get it again")
    seconds = file.frames / file.samplerate
    if seconds < _MIN_SECONDS:
        raise UserError(f"{file.frames} samples in all: no speech; get it again")
    if seconds > _MAX_SECONDS or file.frames * file.channels > _MAX_SAMPLES:
        raise UserError(
            f"{seconds:.0f} s in {file.channels} channels, expected at most {_MAX_SECONDS} s and "
            f"{_MAX_SAMPLES} samples; remove it"
        )


def mfcc(content: bytes) -> Floats:
    """Return the MFCCs of a wav by librosa: float32 (40, 256), zeros after the end of the clip.

    Windows of 2,048 samples every 512; what comes after 256 windows (5.9 s) is left out.

    Raises:
        UserError: as ``samples``.
    """
    return _fitted(_coefficients(samples(content)))


def functionals(content: bytes) -> Floats:
    """Return statistics of the MFCCs of a wav over its windows: float32 (160,).

    Mean and standard deviation of the 40 MFCCs, then of their first differences (zeros if there
    is one window only).

    Raises:
        UserError: as ``samples``.
    """
    coefficients = _coefficients(samples(content))
    changes = np.diff(coefficients) if coefficients.shape[1] > 1 else np.zeros_like(coefficients)
    parts = [
        part
        for values in (coefficients, changes)
        for part in (values.mean(axis=1), values.std(axis=1))
    ]
    return np.concatenate(parts).astype(np.float32)


def contour(content: bytes) -> Floats:
    """Return the course of a wav over time: float32 (259,), zeros after the end of the clip.

    Each value is the mean of the 13 first MFCCs of a window, as in the public features of paired
    face and speech: 44,100 Hz, windows every 512 samples, 3 s (here from the start of the clip).

    Raises:
        UserError: as ``samples``.
    """
    audio = samples(content, _CONTOUR_RATE)[: 3 * _CONTOUR_RATE]
    course = _coefficients(audio, _CONTOUR_RATE, 13).mean(axis=0)
    return np.pad(course, (0, CONTOUR - len(course)))


def _coefficients(audio: Floats, rate: int = SAMPLE_RATE, count: int = COEFFICIENTS) -> Floats:
    """Return float32 (count, 1 + n // 512)."""
    import librosa

    with warnings.catch_warnings():
        # A clip shorter than one window is padded with zeros, as every clip is at both ends.
        warnings.filterwarnings("ignore", message="n_fft=.* is too large")
        found: Floats = librosa.feature.mfcc(
            y=audio, sr=rate, n_mfcc=count, n_fft=_WINDOW, hop_length=_HOP
        )
    return found


def _fitted(coefficients: Floats) -> Floats:
    used = coefficients[:, :LENGTH]
    return np.pad(used, ((0, 0), (0, LENGTH - used.shape[1])))


def mfcc_batch(clips: Sequence[Floats]) -> list[Floats]:
    """Return what ``mfcc`` does of several clips, by torchaudio, on the GPU if there is one.

    Every value is within 0.02 of librosa's (MFCCs range over some hundreds): both work in
    single precision, with different Fourier transforms.

    Args:
        clips: from ``samples``.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True).to(device)
    with torch.inference_mode():
        # Four dimensions: of three, torchaudio would cut the decibels at the whole batch's peak.
        found = _torch_mfcc(device)(batch[:, None])[:, 0].cpu().numpy()
    return [
        _fitted(coefficients[:, : 1 + len(clip) // _HOP])
        for coefficients, clip in zip(found, clips, strict=True)
    ]


@lru_cache(maxsize=1)
def _torch_mfcc(device: torch.device) -> torch.nn.Module:
    from torchaudio.transforms import MFCC

    transform: torch.nn.Module = MFCC(
        SAMPLE_RATE,
        COEFFICIENTS,
        melkwargs={
            "n_fft": _WINDOW, "hop_length": _HOP, "n_mels": _BANDS, "pad_mode": "constant",
            "norm": "slaney", "mel_scale": "slaney",
        },
    ).to(device)  # fmt: skip
    return transform


def frames(content: bytes, count: int, height: int, width: int) -> Bytes:
    """Return frames of an mp4 at the fractions (i + 0.5) / count of its length.

    Only what these frames depend on is decoded, from the key frame before each; frames that no
    other one refers to are passed by, and only what is kept is converted and scaled.

    Args:
        content: of the file.
        count: frames to take, at least 1; a clip with fewer gives some of them twice.
        height: to scale to.
        width: to scale to.

    Returns:
        uint8 RGB (count, 3, height, width).

    Raises:
        UserError: it is no mp4, is cut off or damaged, has no video or no frames, or more than
            2.1 million pixels or 1,000 frames.
    """
    import av

    # Tags that are not UTF-8 matter to nobody: PyAV 19 takes them, earlier ones if they are told.
    major = int(av.__version__.partition(".")[0])
    tags: dict[str, Any] = {} if major >= 19 else {"metadata_errors": "replace"}
    with (
        _decoding("an mp4"),
        # Only this demuxer: others, such as that of playlists, would open further files.
        av.open(BytesIO(content), "r", format="mp4", **tags) as container,
    ):
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise UserError("no video stream; get it again")
        packets = _packets(container, stream)
        wanted = _wanted(packets, count)
        pictures = _pictures(stream, packets, set(wanted), height, width)
    if missing := set(wanted) - set(pictures):
        raise UserError(f"{len(missing)} of {count} frames cannot be decoded; get it again")
    return np.stack([pictures[time] for time in wanted])


def _packets(container: InputContainer, stream: VideoStream) -> list[Packet]:
    context = stream.codec_context
    if context is None:
        raise UserError("video in a format that cannot be decoded; get it again")
    pixels = context.width * context.height
    if not 0 < pixels <= _MAX_PIXELS or stream.frames > _MAX_PACKETS:
        raise UserError(
            f"{stream.frames} frames of {context.width}x{context.height}, expected at most "
            f"{_MAX_PACKETS} of {_MAX_PIXELS} pixels; remove it"
        )
    packets = [packet for packet in islice(container.demux(stream), _MAX_PACKETS) if packet.size]
    whole = sum(not packet.is_corrupt for packet in packets)
    if whole < max(len(packets), stream.frames):
        raise UserError(f"cut off: {whole} of {stream.frames} frames; get it again")
    return packets


def _wanted(packets: list[Packet], count: int) -> list[int]:
    """Return the times of the frames to take."""
    times = sorted(
        packet.pts for packet in packets if packet.pts is not None and not packet.is_discard
    )
    if not times:
        raise UserError("no frames; get it again")
    return [times[math.floor((number + 0.5) / count * len(times))] for number in range(count)]


def _pictures(
    stream: VideoStream, packets: list[Packet], wanted: set[int], height: int, width: int
) -> dict[int, Bytes]:
    """Decode the frames with the times ``wanted``: uint8 RGB (3, height, width) by time."""
    context = stream.codec_context
    context.thread_type = "NONE"  # clips are decoded in parallel
    context.options = {"max_pixels": str(_MAX_PIXELS)}  # a stream can change its size midway
    position = {packet.pts: number for number, packet in enumerate(packets)}
    runs: dict[int, set[int]] = {}
    for time in wanted:
        runs.setdefault(_start(packets, position[time], time), set()).add(time)
    found: dict[int, Bytes] = {}
    # Some "key frames" only start a gradual refresh: then all that came before is needed.
    for start, times in [*runs.items(), (0, wanted)]:
        missing = times - set(found)
        last = max((position[time] for time in missing), default=-1)
        for packet in [*packets[start : last + 1], None] if missing else []:
            context.skip_frame = "DEFAULT" if packet and packet.pts in missing else "NONREF"
            for frame in context.decode(packet):
                if frame.pts in missing and not frame.is_corrupt:
                    found[frame.pts] = _scaled(frame, height, width)
        context.flush_buffers()
    return found


def _start(packets: list[Packet], position: int, time: int) -> int:
    """Return the last key frame that the packet at ``position`` can depend on, or the first packet.

    What is shown before a key frame but stored after it may refer to the one before.
    """
    for number in range(position, 0, -1):
        packet = packets[number]
        if packet.is_keyframe and packet.pts is not None and packet.pts <= time:
            return number
    return 0


def _scaled(frame: av.VideoFrame, height: int, width: int) -> Bytes:
    small = frame.reformat(width, height, "rgb24", interpolation="AREA")
    return np.ascontiguousarray(small.to_ndarray().transpose(2, 0, 1))


def action_units(content: bytes) -> Floats:
    """Return the action units of an OpenFace CSV, averaged over the frames with a face.

    Source: OpenFace 2.0 (Baltrusaitis et al. 2018), as in "RAVDESS Facial Landmark Tracking".

    Returns:
        float32 (35,), in the order of ``ACTION_UNITS``.

    Raises:
        UserError: it is no such CSV, lacks a column, has no frame with a face, or one with a value
            out of its range.
    """
    text = content.decode("utf-8", errors="replace")
    header = [name.strip() for name in text.partition("\n")[0].split(",")]
    columns = ("success", *ACTION_UNITS)
    if missing := [name for name in columns if name not in header]:
        raise UserError(
            f"no column {missing[0]} ({len(missing)} missing in all), expected those of OpenFace; "
            "get it again"
        )
    with _decoding("a table of numbers"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="loadtxt: input contained no data")
        table = np.loadtxt(
            StringIO(text), delimiter=",", skiprows=1, ndmin=2,
            usecols=[header.index(name) for name in columns],
        )  # fmt: skip
    faces = table[table[:, 0] == 1, 1:]
    if not len(faces):
        raise UserError(f"none of {len(table)} frames has a face; get it again")
    for name, values in zip(ACTION_UNITS, faces.T, strict=True):
        low, high = _INTENSITY_RANGE if name.endswith("_r") else _PRESENCE_RANGE
        if not ((values >= low) & (values <= high)).all():  # false of NaN as well
            raise UserError(f"{name} is not always in [{low}, {high}]; get it again")
    mean: Floats = faces.mean(axis=0).astype(np.float32)
    return mean
