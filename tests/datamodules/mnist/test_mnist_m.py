from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntdh_bench.datamodules.mnist.layout import ARCHIVE_FOLDER, photographs
from ntdh_bench.datamodules.mnist.mnist_m import (
    archive_files,
    build_mnist_m,
    luma,
    read_archive,
    read_image,
)
from ntdh_bench.errors import UserError

RANDOM = np.random.default_rng(3)
DIGITS = np.where(RANDOM.random((50, 28, 28)) < 0.2, 37, 0).astype(np.uint8)


def build(root: Path, split: str = "train", seed: int = 0, rgb: bool = True) -> np.ndarray:
    return build_mnist_m(DIGITS, photographs(root)[split], rgb=rgb, data_seed=seed, split=split)


def test_luma_is_that_of_pil() -> None:
    rgb = RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert np.array_equal(luma(rgb), np.asarray(Image.fromarray(rgb).convert("L")))


def test_is_the_difference_of_a_crop_and_the_binarised_digit(published: Path) -> None:
    blended = build(published)
    assert blended.shape == (50, 3, 28, 28)
    photos = [read_image(path).astype(int) for path in photographs(published)["train"]]
    for image, digit in zip(blended, DIGITS, strict=True):
        stroke = np.where(digit > 0, 255, 0)
        # Undo the blend: |crop - 255| where there is a stroke.
        crop = np.where(stroke, 255 - image.astype(int), image).transpose(1, 2, 0)
        found = [
            (photo, top, left)
            for photo in photos
            for top in range(photo.shape[0] - 27)
            for left in range(photo.shape[1] - 27)
            if np.array_equal(photo[top : top + 28, left : left + 28], crop)
        ]
        assert len(found) == 1
        assert np.array_equal(np.abs(crop.transpose(2, 0, 1) - stroke), image)


def test_backgrounds_of_a_split_come_from_its_own_photographs(published: Path) -> None:
    outside = DIGITS[:, None].repeat(3, 1) == 0
    assert build(published, "train")[outside].max() < 120  # training photographs are dark
    assert build(published, "test")[outside].min() > 120


def test_every_photograph_and_corner_is_used(published: Path) -> None:
    corners = {image[0, 0, 0].item() for image in build(published)}
    assert len(corners) > 10


def test_is_deterministic_and_depends_on_the_data_seed(published: Path) -> None:
    assert np.array_equal(build(published), build(published))
    assert not np.array_equal(build(published), build(published, seed=1))


def test_grey_is_the_luma_of_the_colour_image(published: Path) -> None:
    grey = build(published, rgb=False)
    assert grey.shape == (50, 1, 28, 28)
    assert np.array_equal(grey[:, 0], luma(build(published).transpose(0, 2, 3, 1)))


def test_photographs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    text, small, huge = tmp_path / "text.jpg", tmp_path / "small.jpg", tmp_path / "huge.jpg"
    text.write_text("not an image")
    with pytest.raises(UserError, match=r"text\.jpg: damaged, or not a JPEG image"):
        read_image(text)
    Image.new("RGB", (20, 60)).save(small)
    with pytest.raises(UserError, match=r"small\.jpg: 20x60 pixels, expected at least 28x28"):
        build_mnist_m(DIGITS, [small], rgb=True, data_seed=0, split="train")
    Image.new("RGB", (3000, 2000)).save(huge)
    with pytest.raises(UserError, match=r"huge\.jpg: 3000x2000 pixels, expected at most"):
        read_image(huge)
    whole = huge.read_bytes()
    small.write_bytes(whole[:200])
    with pytest.raises(UserError, match=r"small\.jpg"):
        read_image(small)
    small.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n")
    with pytest.raises(UserError, match=r"small\.jpg: damaged, or not a JPEG image"):
        read_image(small)  # of other formats, PostScript starts another program


def write_archive(root: Path, lines: str, size: int = 32) -> list[np.ndarray]:
    folder = root / ARCHIVE_FOLDER / "mnist_m_train"
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "mnist_m_train_labels.txt").write_text(lines)
    images = [RANDOM.integers(0, 256, (size, size, 3)).astype(np.uint8) for _ in range(2)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:08d}.png")
    return images


def test_archive_images_are_cut_to_their_centre(tmp_path: Path) -> None:
    images = write_archive(tmp_path, "00000000.png 5\n00000001.png 0\n")
    files = archive_files(tmp_path, "train")
    assert [label for _, label in files] == [5, 0]
    read = read_archive([path for path, _ in files], rgb=True)
    assert np.array_equal(read[1].transpose(1, 2, 0), images[1][2:30, 2:30])
    grey = read_archive([path for path, _ in files], rgb=False)
    assert np.array_equal(grey[1, 0], luma(images[1][2:30, 2:30]))


@pytest.mark.parametrize(
    "lines",
    ["00000001.png 5\n", "00000000.png\n", "00000000.png x\n", "00000000.png 12\n"],
)
def test_broken_label_files_are_named(tmp_path: Path, lines: str) -> None:
    write_archive(tmp_path, lines)
    with pytest.raises(
        UserError, match=r"mnist_m_train_labels\.txt: line 1 is not .*in order; unpack"
    ):
        archive_files(tmp_path, "train")


def test_archive_that_is_not_there_or_too_small(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the MNIST-M archive is missing"):
        archive_files(tmp_path, "train")
    write_archive(tmp_path, "00000000.png 5\n", size=20)
    paths = [path for path, _ in archive_files(tmp_path, "train")]
    with pytest.raises(UserError, match="smaller than 28x28"):
        read_archive(paths, rgb=True)
