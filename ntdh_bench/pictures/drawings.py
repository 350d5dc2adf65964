"""Pictures as images for a log that shows no text; without matplotlib, which starts slowly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ntdh_bench.pictures.colours import Rgb, label_map, marked
from ntdh_bench.pictures.file import Array, Pictures
from ntdh_bench.pictures.scores import class_scores, described, shares

_INK, _PAPER, _BLUE = (30, 30, 30), (255, 255, 255), (0, 114, 178)
_LINE, _LABEL, _GAP = 14, 130, 6  # pixels: of text, of a column of names, between parts
_HEIGHT, _WIDTH = 96, 160  # of a drawn series
_MAX_CLASSES = 64  # drawn: more would be too small to see


def drawings(pictures: Pictures, measure: str) -> dict[str, Rgb]:
    """Return images ``(H, W, 3)`` by name, of what there is.

    Args:
        pictures: of a run.
        measure: what the data are judged by, ``accuracy`` or ``miou``.
    """
    found = {}
    if len(pictures.classes) <= _MAX_CLASSES:
        for network, counts in pictures.confusion.items():
            found[f"confusion/{network}"] = _matrix(counts, pictures.classes)
            scores = class_scores(counts, measure)
            found[f"per_class/{network}_{measure}"] = _bars(scores, pictures.classes, 1.0)
        if pictures.ncjsd is not None:
            top = float(pictures.ncjsd.max()) or 1.0
            found["per_class/ncjsd"] = _bars(pictures.ncjsd, pictures.classes, top)
    if pictures.samples() and pictures.inputs:
        found["samples"] = _samples(pictures)
    return found


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), _PAPER)
    return image, ImageDraw.Draw(image)


def _matrix(counts: Array, classes: Sequence[str]) -> Rgb:
    """Return a confusion matrix: rows true classes, columns predicted, shares of the row in %."""
    side = 30 if len(classes) <= 16 else _LINE
    size = side * len(classes)
    image, draw = _canvas(_LABEL + size, size)
    for row, (name, values) in enumerate(zip(classes, shares(counts), strict=True)):
        draw.text((2, row * side + (side - 11) // 2), name[:20], fill=_INK)
        for column, share in enumerate(values):
            left, top = _LABEL + column * side, row * side
            faded = tuple(round(255 - (255 - part) * share) for part in _BLUE)
            draw.rectangle((left, top, left + side - 2, top + side - 2), fill=faded)
            if side == 30 and share >= 0.005:
                ink = _PAPER if share > 0.5 else _INK
                draw.text((left + 4, top + 9), f"{100 * share:.0f}", fill=ink)
    return np.asarray(image)


def _bars(values: Array, classes: Sequence[str], top: float) -> Rgb:
    """Return a bar a class, from 0 to ``top``, with its value."""
    image, draw = _canvas(_LABEL + 260, _LINE * len(classes))
    for row, (name, value) in enumerate(zip(classes, values, strict=True)):
        y = row * _LINE
        draw.text((2, y + 1), name[:20], fill=_INK)
        if np.isfinite(value):
            end = _LABEL + 200 * min(1.0, float(value) / top)
            draw.rectangle((_LABEL, y + 2, end, y + _LINE - 3), fill=_BLUE)
            draw.text((end + 4, y + 1), f"{value:.3f}", fill=_INK)
    return np.asarray(image)


def _samples(pictures: Pictures) -> Rgb:
    """Return a row a sample: its inputs, and its labels as maps or in words."""
    rows = [_sample(pictures, number) for number in range(pictures.samples())]
    image, _ = _canvas(max(r.width for r in rows), sum(r.height + _GAP for r in rows))
    top = 0
    for row in rows:
        image.paste(row, (0, top))
        top += row.height + _GAP
    return np.asarray(image)


def _sample(pictures: Pictures, number: int) -> Image.Image:
    parts = [_input(values[number]) for values in pictures.inputs.values()]
    assert pictures.target is not None
    labels = {"true": pictures.target[number]}
    labels |= {name: values[number] for name, values in pictures.prediction.items()}
    if pictures.target.ndim == 1:
        text, draw = _canvas(_WIDTH, _LINE * len(labels))
        for row, (name, label) in enumerate(labels.items()):
            words = f"{name}: {described(label, pictures)}"
            draw.text((2, _LINE * row + 1), words[:28], fill=_INK)
        parts.append(text)
    else:
        maps = [label_map(label, len(pictures.classes)) for label in labels.values()]
        if pictures.dropped_map is not None:
            maps.append(marked(maps[0], pictures.dropped_map[number]))
        parts += map(Image.fromarray, maps)
    image, _ = _canvas(sum(p.width + _GAP for p in parts), max(p.height for p in parts))
    left = 0
    for part in parts:
        image.paste(part, (left, 0))
        left += part.width + _GAP
    return image


def _input(values: Array) -> Image.Image:
    """Return an input, an image or lines ``(K, L)``; small images are enlarged."""
    if values.dtype == np.uint8:
        image = Image.fromarray(values).convert("RGB")
        times = max(1, _HEIGHT // max(image.size))
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image, draw = _canvas(_WIDTH, _HEIGHT)
    low, high = float(values.min()), float(values.max())
    x = np.linspace(0, _WIDTH - 1, values.shape[1])
    for line in values:
        y = (_HEIGHT - 1) * (1 - (line - low) / ((high - low) or 1.0))
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=_BLUE)
    return image
