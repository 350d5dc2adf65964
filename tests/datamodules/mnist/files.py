"""The MNIST-M archive in its published layout, small."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from ntdh_bench.datamodules.mnist.layout import ARCHIVE_FOLDER


def write_archive(root: Path, labels: Iterable[int], split: str = "train") -> None:
    """Write an image for each label; its red is its number."""
    folder = root / ARCHIVE_FOLDER / f"mnist_m_{split}"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{number:08d}.png {label}\n" for number, label in enumerate(labels)]
    for number in range(len(lines)):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number:08d}.png")
    folder.with_name(f"mnist_m_{split}_labels.txt").write_text("".join(lines))
