"""Small generated clips in RAVDESS's published layout, for offline runs and tests.

A clip is a sentence hummed in vowels and a drawn face that says it. Its emotion moves pitch,
energy, tempo, timbre and formants of the voice, and action units of the face; the actor's voice,
face and light, and chance, move the same things. Emotions that sound alike (happy and surprised,
calm and sad, angry and fearful, neutral and disgust) do not look alike, and those that look alike
(fearful and surprised, angry and disgust, neutral and sad, calm and happy) do not sound alike.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntdh_bench.cache import remove, write_atomic
from ntdh_bench.datasets import MARKER, begin_simulated
from ntdh_bench.errors import UserError

from .layout import FEATURES, find_clips
from .media import ACTION_UNITS, action_units, contour
from .names import ACTORS, SPEECH, ClipName

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
#: A filled polygon in every frame, (T or 1, n, 2), and its colour.
Shape = tuple[Floats, str]
Point = tuple[float | Floats, float | Floats]

_MOST = 1 << 24  # bytes of a generated file
_CLIPS = 60  # of an actor in the published set
_AUDIO = "Audio_Speech_Actors_01-24"
_VIDEO = "Video_Speech_Actor_{:02}"
_TRACKING = "FacialTracking_Actors_01-24"
#: Opposites follow each other, so that any number of clips is balanced. Bits of a turn: intensity,
#: statement, repetition.
_TURNS = (0, 7, 3, 4, 5, 2, 6, 1)

_RATE = 48_000  # samples a second, as published
_FFT = 2**15  # samples; two syllables are shorter
_SILENCE = 0.25  # seconds before and after the sentence together, more than a syllable
_SYLLABLE = 0.165  # seconds of one at the usual tempo
_VOWELS = ("iaoiaeo", "oaiiaeo")  # "kids, dogs are talking, sitting by the door"
_FORMANTS = {
    "i": (300, 2250, 2950),
    "e": (480, 1850, 2600),
    "a": (720, 1200, 2500),
    "o": (460, 850, 2400),
}  # Hz, of a man
_BANDWIDTHS = (60, 90, 140)  # Hz
_GAINS = (1.0, 0.5, 0.25)

#: Pitch, its accents and its slope in semitones, energy in dB, logarithm of the tempo, tilt of the
#: spectrum in dB an octave, breath in dB, formants in %, tremor in semitones.
_VOICE = np.array(
    [
        [-0.5, 0.5, -1.0, 0.0, 0.00, 0.0, 0.0, 0.0, 0.1],  # neutral
        [-2.0, 0.3, -1.5, -5.0, -0.12, -1.6, 5.0, 0.0, 0.1],  # calm
        [4.0, 2.5, 1.0, 3.0, 0.08, 0.8, 0.0, 7.0, 0.1],  # happy
        [-1.0, 0.3, -3.5, -5.0, -0.18, -2.0, 7.0, -4.0, 0.4],  # sad
        [3.5, 1.5, -2.0, 7.0, 0.12, 2.6, -2.0, -2.0, 0.2],  # angry
        [6.0, 0.6, 1.0, 4.0, 0.18, 1.6, 6.0, 2.0, 0.8],  # fearful
        [-2.0, 0.8, -2.0, 1.0, -0.10, 0.8, 1.0, -8.0, 0.2],  # disgust
        [6.0, 3.0, 5.0, 2.0, 0.00, 0.2, 2.0, 4.0, 0.1],  # surprised
    ]
)
_ACTOR_VOICE = np.array([1.5, 0.3, 0.6, 2.0, 0.05, 0.6, 1.5, 3.0, 0.0])  # standard deviations
_CLIP_VOICE = np.array([1.5, 0.4, 1.0, 1.5, 0.05, 0.5, 1.5, 1.5, 0.0])

_FPS = 10
_HEIGHT, _WIDTH = 160, 320
_FINER = 2  # pixels drawn for one kept, each way
#: The action units that have an intensity, 0 to 5. All of them and 28 have a presence, 0 or 1.
_INTENSITIES = tuple(int(column[2:4]) for column in ACTION_UNITS if column.endswith("_r"))
_LIP_SUCK = ACTION_UNITS.index("AU28_c") - len(_INTENSITIES)
#: Intensities at the height of a strong expression.
_FACE: tuple[dict[int, float], ...] = (
    {15: 0.8},  # neutral
    {6: 1.0, 12: 2.0, 14: 0.8},  # calm
    {6: 2.6, 12: 3.2, 25: 1.0},  # happy
    {1: 2.4, 4: 1.4, 15: 2.6, 17: 1.6},  # sad
    {4: 3.6, 5: 1.0, 7: 2.4, 17: 1.0, 23: 3.0},  # angry
    {1: 3.0, 2: 2.0, 4: 1.4, 5: 3.0, 20: 2.6, 25: 1.6},  # fearful
    {4: 2.6, 7: 2.0, 9: 3.0, 10: 2.6, 17: 1.0},  # disgust
    {1: 3.0, 2: 3.2, 5: 2.8, 25: 1.6, 26: 2.2},  # surprised
)
_ACTOR_UNITS, _CLIP_UNITS = 0.4, 0.5  # standard deviations
_SPOKEN = 1.2  # intensity of the jaw's action units in the middle of a syllable


@dataclass(frozen=True)
class _Actor:
    """What is the same in all clips of an actor; ``shape`` and ``place`` are N(0, 1)."""

    pitch: float  # Hz
    tract: float  # factor on the formants
    voice: Floats  # (9,)
    expressivity: float
    units: Floats  # (17,), at rest
    shape: Floats  # (8,)
    place: Floats  # (3,)
    colours: dict[str, str]
    light: Floats  # (3,): brightness, and how it changes to the right and downwards


@dataclass(frozen=True)
class _Clip:
    """What voice and face of a clip share."""

    name: ClipName
    actor: _Actor
    strength: float  # of the expression
    voice: Floats  # (9,)
    syllable: float  # seconds
    middles: Floats  # (7,) seconds, of the syllables
    seconds: float
    random: np.random.Generator


def write_simulated(root: Path, clips: int = 20, seed: int = 0) -> None:
    """Write simulated speech, videos, OpenFace tables and features below ``root / "ravdess"``.

    The same arguments give the same bytes (with the same libraries). Takes about 15 seconds for
    20 clips an actor. Generated files that are there already are replaced.

    Args:
        root: data root; ``ravdess`` in it must be empty, absent or generated.
        clips: of each of the 24 actors, 1 to 60; 60 are the names of the published speech set.
        seed: not negative, of voices, faces and chance.

    Raises:
        UserError: ``clips`` or ``seed`` is out of range, or the folder holds something else than
            generated files or cannot be written.
    """
    if not 1 <= clips <= _CLIPS or seed < 0:
        raise UserError(
            f"{clips} simulated clips an actor, seed {seed}: expected 1 to {_CLIPS} clips and a "
            "seed that is not negative"
        )
    folder = root / "ravdess"
    parts = [folder / name for name in (_AUDIO, _TRACKING, FEATURES, *map(_VIDEO.format, ACTORS))]
    begin_simulated(root, (folder, *parts), clips=clips, seed=seed)
    for path in (path for part in parts for path in part.iterdir() if path.name != MARKER):
        remove(path)
    for number in ACTORS:
        actor = _actor(np.random.default_rng([seed, number]), male=number % 2 == 1)
        for name in clip_names(number, clips):
            _write_clip(folder, _clip(name, actor, seed))
    _write_features(folder)


def _write_features(folder: Path) -> None:
    """Write one vector per clip and modality, in the format and with the widths of the public ones.

    What both are made from are the files just written, as theirs were.
    """
    speech = find_clips(folder, "audio").files
    tables = find_clips(folder, "tracking").files
    arrays: dict[str, Any] = {
        "name": np.array([str(file.name) for file in tables.values()]),
        "audio_contour": np.stack([contour(speech[key].read(_MOST)) for key in tables]),
        "face_au": np.stack([action_units(file.read(_MOST)) for file in tables.values()]),
    }
    with write_atomic(folder / FEATURES / "simulated.npz") as temporary:
        np.savez(temporary, **arrays)


def clip_names(actor: int, clips: int) -> list[ClipName]:
    """Return the audio names of an actor's first ``clips`` clips, in an order that is balanced.

    However many: emotions come as often as in the published set (neutral half as often as each
    other one), and intensities, statements and repetitions about equally often.
    """
    pair, female = divmod(actor - 1, 2)
    start = pair + 4 * (1 - female)

    def turn(name: ClipName) -> tuple[int, int]:
        bits = 4 * (name.intensity - 1) + 2 * (name.statement - 1) + name.repetition - 1
        shift = (start + 2 * name.emotion) % (4 if name.target == 0 else 8)
        return _TURNS.index(bits ^ shift), (start + name.emotion) % 8

    fields = product(range(1, 9), (1, 2), (1, 2), (1, 2))
    names = [ClipName(3, SPEECH, *rest, actor) for rest in fields if rest[:2] != (1, 2)]
    return sorted(names, key=turn)[:clips]


def _actor(random: np.random.Generator, male: bool) -> _Actor:
    return _Actor(
        pitch=(115 if male else 200) * 2 ** random.normal(0, 0.1),
        tract=(1 if male else 1.15) * 2 ** random.normal(0, 0.04),
        voice=random.normal(0, _ACTOR_VOICE),
        expressivity=random.uniform(0.8, 1.15),
        units=random.normal(0, _ACTOR_UNITS, len(_INTENSITIES)),
        shape=random.normal(size=8),
        place=random.normal(size=3),
        colours=_colours(random),
        light=np.array([random.uniform(0.85, 1), *random.uniform(-0.1, 0.1, 2)]),
    )


def _colours(random: np.random.Generator) -> dict[str, str]:
    pale, dark = np.array([240, 205, 180]), np.array([150, 100, 70])
    skin = pale + random.uniform() * (dark - pale)
    hair = random.uniform(20, 110) * np.array([1, 0.75, 0.5])
    colours = {
        "skin": skin,
        "shade": 0.7 * skin,
        "lips": skin * [0.8, 0.5, 0.5],
        "hair": hair,
        "shirt": random.uniform(20, 90, 3),
        "wall": random.uniform(190, 250) + random.uniform(-5, 5, 3),
    }
    return {name: f"#{value.astype(np.uint8).tobytes().hex()}" for name, value in colours.items()}


def _clip(name: ClipName, actor: _Actor, seed: int) -> _Clip:
    random = np.random.default_rng([seed, *name.key])
    strength = (0.75, 1.0)[name.intensity - 1] * actor.expressivity * random.uniform(0.8, 1.1)
    voice = strength * _VOICE[name.target] + actor.voice + random.normal(0, _CLIP_VOICE)
    syllable = np.clip(_SYLLABLE * np.exp(-voice[4]), 0.12, 0.19)
    start = random.uniform(0.4, 0.6) * _SILENCE
    middles = start + syllable * (0.5 + np.arange(len(_VOWELS[0])))
    seconds = _SILENCE + syllable * len(middles)
    return _Clip(name, actor, strength, voice, syllable, middles, seconds, random)


def _write_clip(folder: Path, clip: _Clip) -> None:
    name, place = clip.name, f"Actor_{clip.name.actor:02}"
    both = str(name._replace(modality=1))
    speech = folder / _AUDIO / place / f"{name}.wav"
    video = folder / _VIDEO.format(name.actor) / place / f"{both}.mp4"
    for path in (speech, video):
        path.parent.mkdir(parents=True, exist_ok=True)
    _write_wav(speech, _speak(clip), stereo=_is_stereo(name))
    times = (np.arange(round(clip.seconds * _FPS)) + 0.5) / _FPS
    units = _action_units(clip, times)
    _write_video(video, _draw(clip, units))
    _write_table(folder / _TRACKING / f"{both}.csv", times, units, clip.random)


def _is_stereo(name: ClipName) -> bool:
    """Return whether the clip is one of the few with two channels, as there are in the real set."""
    return name.actor % 8 == 1 and name in clip_names(name.actor, 1)


# -- the voice -------------------------------------------------------------------------------------


def _speak(clip: _Clip) -> Floats:
    """Return the sentence, in [-1, 1]: a glottal source filtered by one vowel after the other."""
    source = _glottis(clip)
    speech = np.zeros_like(source)
    length = round(2 * clip.syllable * _RATE)
    window = np.hanning(length) ** 1.5
    responses = {vowel: _response(clip, vowel) for vowel in _FORMANTS}
    for vowel, middle in zip(_VOWELS[clip.name.statement - 1], clip.middles, strict=True):
        start = round((middle - clip.syllable) * _RATE)
        piece = slice(start, start + length)
        spectrum = np.fft.rfft(source[piece], _FFT) * responses[vowel]
        speech[piece] += window * np.fft.irfft(spectrum)[:length]
    level = 10 ** ((clip.voice[3] - 28) / 20)
    room = 10 ** (-65 / 20) * clip.random.normal(size=len(speech))
    heard: Floats = np.clip(level * speech / speech.std() + room, -1, 1)
    return heard


def _glottis(clip: _Clip) -> Floats:
    """Return the derivative of the air flow, with breath; its pitch follows the emotion."""
    pitch, accent, slope, _, _, _, breath, _, tremor = clip.voice
    time = np.arange(round(clip.seconds * _RATE)) / _RATE
    accents = accent * clip.random.uniform(-1, 1, len(clip.middles))
    semitones = pitch + np.interp(time, clip.middles, accents)
    semitones += slope * (time / clip.seconds - 0.5)
    semitones += tremor * np.sin(2 * np.pi * (6 * time + clip.random.uniform()))
    phase = np.cumsum(clip.actor.pitch * 2 ** (semitones / 12)) / _RATE % 1
    noise = 10 ** ((breath - 24) / 20) * clip.random.normal(size=len(time))
    flow: Floats = phase * (2 - 3 * phase) + noise
    return flow


def _response(clip: _Clip, vowel: str) -> Floats:
    """Return the gain of the vocal tract at the frequencies of the transform."""
    frequency = np.fft.rfftfreq(_FFT, 1 / _RATE)
    factor = clip.actor.tract * (1 + clip.voice[7] / 100)
    gain = np.full_like(frequency, 0.03)
    for formant, width, peak in zip(_FORMANTS[vowel], _BANDWIDTHS, _GAINS, strict=True):
        gain += peak / np.hypot(1, (frequency - factor * formant) / width)
    tilt: Floats = (np.maximum(frequency, 100) / 500) ** (clip.voice[5] / (20 * np.log10(2)))
    return gain * tilt


def _write_wav(path: Path, speech: Floats, stereo: bool) -> None:
    """Write 16-bit PCM as published; both channels of a stereo file are nearly the same."""
    channels = np.stack([speech, 0.98 * speech], axis=1) if stereo else speech
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 + stereo)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes((32767 * channels).astype("<i2").tobytes())


# -- the face --------------------------------------------------------------------------------------


def _action_units(clip: _Clip, times: Floats) -> Floats:
    """Return intensities in [0, 5], (T, 17): the expression rises, the jaw speaks, eyes blink."""
    full = np.array([_FACE[clip.name.target].get(unit, 0.0) for unit in _INTENSITIES])
    full = clip.strength * full + clip.actor.units
    full += clip.random.normal(0, _CLIP_UNITS, len(full))
    rise = np.clip(times / (0.35 * clip.seconds), 0, 1)
    units = full * (rise * rise * (3 - 2 * rise))[:, None]
    distance = np.abs(times[:, None] - clip.middles).min(1) / clip.syllable
    jaw = _SPOKEN * clip.random.uniform(0.5, 1) * np.exp(-((distance / 0.3) ** 2))
    units[:, [_INTENSITIES.index(25), _INTENSITIES.index(26)]] += jaw[:, None]
    units[clip.random.integers(len(times)), _INTENSITIES.index(45)] += 4
    return np.clip(units, 0, 5)


def _write_table(path: Path, times: Floats, units: Floats, random: np.random.Generator) -> None:
    """Write the action units as OpenFace's tracker would see them, one row a frame."""
    bias = random.normal(0, 0.7, units.shape[1])
    seen = np.clip(units + bias + random.normal(0, 0.2, units.shape), 0, 5)
    present = np.insert(seen > 1, _LIP_SUCK, random.random(len(seen)) < 0.02, axis=1)
    values = np.concatenate([seen, present], axis=1)
    columns = ["frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNITS]
    lines = [", ".join(columns)]
    for number, time in enumerate(times - times[0]):
        row = ", ".join(f"{value:.2f}" for value in values[number])
        lines.append(f"{number + 1}, 0, {time:.3f}, 0.98, 1, {row}")
    path.write_text("\n".join(lines) + "\n")


def _draw(clip: _Clip, units: Floats) -> Iterator[Bytes]:
    """Yield RGB frames (H, W, 3) of a face with these action units (T, 17)."""
    from PIL import Image, ImageChops, ImageDraw

    matrices, centre = _pose(clip, len(units))
    shapes = [(points @ matrices + centre, colour) for points, colour in _face(clip, units)]
    light = Image.fromarray(_light(clip)).convert("RGB")
    for frame in range(len(units)):
        large = Image.new("RGB", (_FINER * _WIDTH, _FINER * _HEIGHT), clip.actor.colours["wall"])
        pencil = ImageDraw.Draw(large)
        for points, colour in shapes:
            pencil.polygon(points[frame].ravel().tolist(), fill=colour)
        yield np.asarray(ImageChops.multiply(large.reduce(_FINER), light))


def _light(clip: _Clip) -> Bytes:
    """Return the brightness of every pixel, (H, W)."""
    brightness, right, down = clip.actor.light
    across = right * np.linspace(-1, 1, _WIDTH)
    light = brightness + across + down * np.linspace(-1, 1, _HEIGHT)[:, None]
    levels: Bytes = (255 * np.clip(light, 0, 1)).astype(np.uint8)
    return levels


def _write_video(path: Path, frames: Iterator[Bytes]) -> None:
    import av

    x264 = "libx264" in av.codecs_available
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libx264" if x264 else "mpeg4", rate=_FPS)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.gop_size = _FPS
        stream.thread_count = 1  # the bytes must not depend on the number of cores
        stream.options = {"preset": "ultrafast"} if x264 else {"qscale": "3"}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode(None))


def _pose(clip: _Clip, count: int) -> tuple[Floats, Floats]:
    """Return what takes face coordinates to pixels: matrices (T, 2, 2) and a centre (2,).

    A face is 2 units high; its centre is 0, x goes to the right and y downwards. The head sways.
    """
    start, roll, *shift = clip.random.normal(size=4)
    sway = np.sin(2 * np.pi * np.arange(count) / (1.5 * _FPS) + start)
    angle = np.radians(1.5 * (roll + sway))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    centre = np.array([_WIDTH / 2, 0.48 * _HEIGHT]) + 2 * clip.actor.place[:2] + shift
    return _FINER * (0.43 * _HEIGHT + clip.actor.place[2]) * turn, _FINER * centre


def _face(clip: _Clip, units: Floats) -> list[Shape]:
    """Return the polygons of a bust in face coordinates, back to front."""
    wide, *shape = 1 + 0.05 * clip.actor.shape
    amount = dict(zip(_INTENSITIES, units.T / 5, strict=True))
    x = 0.74 * wide
    bust: list[Shape] = [
        (_ellipse(0, -0.12, x + 0.12, 1.02), "hair"),
        (_ellipse(0, 1.75, 1.35, 0.7), "shirt"),
        (_ellipse(0, 1.0, 0.34, 0.45), "shade"),
        (_ellipse(0, 0, x, 1), "skin"),
        (_ellipse(0, -0.92, 0.82 * x, 0.20), "hair"),
    ]
    parts = [*_eyes(amount, *shape[:3]), *_nose(amount, shape[3]), *_mouth(amount, *shape[4:])]
    colours = {**clip.actor.colours, "white": "#f4f4f4", "black": "#181010"}
    return [(points, colours[hue]) for points, hue in bust + parts]


def _eyes(amount: dict[int, Floats], distance: float, size: float, height: float) -> list[Shape]:
    """Eyes and brows: AU 1, 2, 4, 5, 6, 7, 9 and 45."""
    x, y = 0.33 * distance, -0.12
    inner, outer = x - 0.21 * size, x + 0.21 * size
    shut = 1 - np.minimum(1, 1.25 * amount[45])
    upper = shut * (0.15 * size + 0.17 * amount[5] - 0.14 * amount[7] - 0.03 * amount[4])
    lower = shut * (0.12 * size - 0.09 * amount[7] - 0.10 * amount[6])
    lids = _curve((inner, y), (outer, y), -upper), _curve((inner, y), (outer, y), lower)
    iris = _ellipse(x, y, 0.10, 0.115)
    iris = np.stack(
        [
            np.broadcast_to(iris[..., 0], (len(upper), iris.shape[1])),
            np.clip(iris[..., 1], y - 0.9 * upper[:, None], y + 0.9 * lower[:, None]),
        ],
        axis=-1,
    )
    rest = -0.40 * height
    brow = _curve(
        (0.13 - 0.07 * amount[4], rest - 0.28 * amount[1] + 0.28 * amount[4] + 0.08 * amount[9]),
        (0.58, rest + 0.04 - 0.30 * amount[2] + 0.04 * amount[4]),
        -0.06 - 0.10 * amount[2],
    )
    furrow = _curve((0.05, rest + 0.02), (0.09, rest + 0.16), 0)
    shapes: list[Shape] = [
        (np.concatenate([lids[0], lids[1][:, ::-1]], axis=1), "white"),
        (iris, "black"),
        (_band(lids[0], 0.035), "black"),
        (_band(_curve((inner, 0.10), (outer, 0.08), 0.05), 0.08 * amount[6]), "shade"),
        (_band(brow, 0.13), "hair"),
        (_band(furrow, 0.12 * amount[4]), "shade"),
    ]
    return _both_sides(shapes)


def _nose(amount: dict[int, Floats], length: float) -> list[Shape]:
    """Nose and the folds beside it: AU 6, 9, 10, 12 and 14."""
    y = 0.24 * length - 0.08 * amount[9]
    wing = 0.12 + 0.05 * amount[9]
    fold = _curve((wing + 0.05, y - 0.02), (0.36 + 0.05 * amount[12], y + 0.2), -0.04)
    depth = 0.12 * (amount[9] + amount[10] + 0.6 * amount[12] + 0.4 * amount[14])
    wrinkle = _curve((0, -0.14), (0.09, -0.20), 0)
    shapes: list[Shape] = [
        (_band(_curve((0, y), (wing, y - 0.03), 0.04), 0.05), "shade"),
        (_band(fold, depth), "shade"),
        (_band(wrinkle, 0.13 * amount[9]), "shade"),
        (_band(wrinkle + np.array([0, 0.09]), 0.13 * amount[9]), "shade"),
    ]
    return _both_sides(shapes)


def _mouth(amount: dict[int, Floats], width: float, lips: float, low: float) -> list[Shape]:
    """Lips, teeth and chin: AU 10, 12, 15, 17, 20, 23, 25 and 26."""
    half = 0.30 * width + 0.18 * amount[12] + 0.20 * amount[20] - 0.18 * amount[23]
    y = 0.50 * low - 0.04 * amount[17]
    corner = y - 0.28 * amount[12] + 0.28 * amount[15]
    opened = 0.10 * amount[25] + 0.40 * amount[26]
    raised = 0.16 * amount[10] + 0.04 * amount[25]
    thick = 0.09 * lips * (1 - 0.8 * amount[23])
    # A parabola's middle lies `bend` below its ends: here the lips' middle stays where it is.
    top, bottom = y - corner - raised, y - corner + opened
    left, right = (-half, corner), (half, corner)
    inner = _curve(left, right, top), _curve(left, right, bottom)
    outer = _curve(left, right, top - thick), _curve(left, right, bottom + 1.2 * thick)
    shown = np.minimum(raised + opened, 0.2 * (amount[10] + amount[12] + amount[20]))
    teeth = _curve(left, right, top + shown)
    chin = _curve((-0.16, 0.80), (0.16, 0.80), -0.08)
    return [
        (np.concatenate([outer[0], outer[1][:, ::-1]], axis=1), "lips"),
        (np.concatenate([inner[0], inner[1][:, ::-1]], axis=1), "black"),
        (np.concatenate([inner[0], teeth[:, ::-1]], axis=1), "white"),
        (_band(inner[0], 0.02), "black"),
        (_band(chin, 0.14 * amount[17]), "shade"),
    ]


def _ellipse(x: float, y: float, width: float, height: float) -> Floats:
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    points: Floats = np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], 1)[None]
    return points


def _curve(start: Point, end: Point, bend: float | Floats) -> Floats:
    """Return points (T or 1, 11, 2) of a parabola whose middle lies ``bend`` below the chord."""
    share = np.linspace(0, 1, 11)
    x0, y0, x1, y1, down = (np.reshape(value, (-1, 1)) for value in (*start, *end, bend))
    x = x0 + share * (x1 - x0)
    y = y0 + share * (y1 - y0) + 4 * share * (1 - share) * down
    return np.stack(np.broadcast_arrays(x, y), axis=-1)


def _band(curve: Floats, thickness: float | Floats) -> Floats:
    """Return the outline of a line along ``curve``, so thick in the vertical direction."""
    half = np.zeros((np.size(thickness), 1, 2))
    half[:, 0, 1] = np.asarray(thickness) / 2
    return np.concatenate([curve - half, (curve + half)[:, ::-1]], axis=1)


def _both_sides(shapes: list[Shape]) -> list[Shape]:
    return [(points * [side, 1], hue) for points, hue in shapes for side in (-1, 1)]
