from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ntdh_bench.datamodules.mnist import simulate
from ntdh_bench.datamodules.mnist.idx import read_images, read_labels
from ntdh_bench.datamodules.mnist.layout import PHOTO_FOLDER, idx_file, jpegs
from ntdh_bench.datamodules.mnist.mnist_m import read_image
from ntdh_bench.datamodules.mnist.simulate import write_simulated
from ntdh_bench.datasets import MARKER
from tests.datamodules.files import digests


def test_files_are_marked_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_simulated(tmp_path / name, train=30, test=10, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != digests(tmp_path / "c")
    marked = {path.parent.name for path in (tmp_path / "a").rglob(MARKER)}
    assert marked == {"mnist", "raw", "bsds500", "images"}


def test_digits_can_be_learnt_and_keep_to_their_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    draw = simulate._draw

    def spy(digits: np.ndarray, random: np.random.Generator) -> np.ndarray:
        drawn.append(digits.reshape(len(digits), -1))
        return draw(digits, random)

    monkeypatch.setattr(simulate, "_draw", spy)
    write_simulated(tmp_path, train=1500, test=400)
    used = [{row.tobytes() for row in part} for part in drawn]
    assert len(drawn) == 2
    assert not used[0] & used[1]
    assert used[0] | used[1] <= {row.tobytes() for row in load_digits().data}
    arrays = {
        split: (
            read_images(idx_file(tmp_path, split, "images")).reshape(-1, 784) / 255,
            read_labels(idx_file(tmp_path, split, "labels")),
        )
        for split in ("train", "test")
    }
    model = KNeighborsClassifier(3).fit(*arrays["train"])
    assert model.score(*arrays["test"]) > 0.85
    assert 0.1 < (arrays["train"][0] > 0).mean() < 0.4  # strokes, not blobs


def test_photographs_of_the_splits_are_different_regions(tmp_path: Path) -> None:
    write_simulated(tmp_path, train=10, test=10)
    folder = tmp_path / PHOTO_FOLDER
    train, test = jpegs(folder / "train"), jpegs(folder / "test")
    assert (len(train), len(test)) == (16, 8)
    assert not {path.name for path in train} & {path.name for path in test}
    assert all(min(read_image(path).shape[:2]) >= 100 for path in train + test)
