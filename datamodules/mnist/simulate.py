"""Small generated files in the layout of MNIST and BSDS500, for offline runs and tests.

Digits are scikit-learn's 1,797 real 8x8 digits, enlarged, shifted and turned; photographs are
pieces of its two sample photographs. So the task is real, and small.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ntdh_bench.datasets import begin_simulated

from .idx import Bytes, write_idx
from .layout import IDX_FOLDER, IDX_PREFIX, PHOTO_FOLDER

_SIDE = 28
_PIECES = 6  # photographs per sample photograph and axis: 6 x 2 for each of the two splits
_TEST_SHARE = 0.2


def write_simulated(root: Path, train: int = 4000, test: int = 1000, seed: int = 0) -> None:
    """Write simulated MNIST and BSDS500 files below ``root``; the same arguments, the same bytes.

    Training and test digits come from different originals, and training and test photographs from
    different regions of the sample photographs.

    Args:
        root: data root; ``mnist`` and ``bsds500`` in it must be empty, absent or generated.
        train: training digits, at least 1.
        test: test digits, at least 1.
        seed: of originals, shifts and turns.

    Raises:
        UserError: the folders hold something else than generated files.
    """
    folders, inside = ("mnist", "bsds500"), (IDX_FOLDER, PHOTO_FOLDER)
    begin_simulated(root, folders, inside, train=train, test=test, seed=seed)
    write_digits(root / IDX_FOLDER, {"train": train, "test": test}, seed)
    _write_photographs(root / PHOTO_FOLDER)


def write_digits(folder: Path, sizes: dict[str, int], seed: int) -> None:
    """Write MNIST's IDX files: ``sizes["train"]`` and ``sizes["test"]`` digits."""
    from sklearn.datasets import load_digits

    originals, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(originals))
    cut = round(_TEST_SHARE * len(order))
    pools = {"test": order[:cut], "train": order[cut:]}
    for split, size in sizes.items():
        # Whole rounds over the pool, so that every original is used about as often.
        chosen = np.resize(random.permutation(pools[split]), size)
        images = _draw(originals[chosen].reshape(-1, 8, 8), random)
        prefix = IDX_PREFIX[split]
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels[chosen].astype(np.uint8))


def _draw(digits: NDArray[np.float64], random: np.random.Generator) -> Bytes:
    """Enlarge 8x8 digits (n, 8, 8) in [0, 16] to 28x28, turned by ±12° and shifted by ±2 pixels."""
    turns = random.uniform(-12, 12, len(digits))
    shifts = random.integers(-2, 3, (len(digits), 2))
    images = np.empty((len(digits), _SIDE, _SIDE), dtype=np.uint8)
    for row, digit in enumerate(digits):
        small = Image.fromarray((digit * 255 / 16).astype(np.uint8))
        canvas = Image.new("L", (_SIDE, _SIDE))
        canvas.paste(small.resize((20, 20), Image.Resampling.BILINEAR), (4, 4))
        dx, dy = (int(value) for value in shifts[row])
        turned = canvas.rotate(turns[row], Image.Resampling.BILINEAR, translate=(dx, dy))
        image = np.asarray(turned)
        # MNIST is black around the strokes; without a floor binarised digits would be blobs.
        images[row] = np.where(image < 112, 0, image)
    return images


def _write_photographs(folder: Path) -> None:
    """Cut scikit-learn's two photographs: left part for training, right part for testing."""
    from sklearn.datasets import load_sample_images

    for number, photograph in enumerate(load_sample_images().images):
        columns = np.array_split(photograph, _PIECES, axis=1)
        for column, strip in enumerate(columns):
            split = "train" if column < _PIECES - 2 else "test"
            (folder / split).mkdir(parents=True, exist_ok=True)
            for row, piece in enumerate(np.array_split(strip, 2, axis=0)):
                path = folder / split / f"{number}{column}{row}.jpg"
                Image.fromarray(piece).save(path, quality=92)
