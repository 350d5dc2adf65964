"""Small files in the published layout, without the marker of generated ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntdh_bench.datamodules.mnist.idx import write_idx
from ntdh_bench.datamodules.mnist.layout import IDX_FOLDER, PHOTO_FOLDER


def write_published(root: Path, train: int = 60, test: int = 20) -> Path:
    """Digits are random strokes; training photographs are dark (< 100), the others bright."""
    random = np.random.default_rng(0)
    for prefix, size in (("train", train), ("t10k", test)):
        strokes = random.random((size, 28, 28)) < 0.2
        images = np.where(strokes, random.integers(1, 256, strokes.shape), 0).astype(np.uint8)
        write_idx(root / IDX_FOLDER / f"{prefix}-images-idx3-ubyte.gz", images)
        labels = (np.arange(size) % 10).astype(np.uint8)
        write_idx(root / IDX_FOLDER / f"{prefix}-labels-idx1-ubyte.gz", labels)
    for split, low in (("train", 20), ("test", 160)):
        folder = root / PHOTO_FOLDER / split
        folder.mkdir(parents=True)
        for number in range(3):
            noise = random.integers(low, low + 60, (40 + number, 50, 3)).astype(np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.jpg", quality=95)
    return root


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_published(tmp_path / "published")
