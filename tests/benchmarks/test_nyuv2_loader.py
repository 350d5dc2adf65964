"""Labelled pairs of NYU Depth V2 from the cache against decoding them, and against a CPU step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ntdh_bench.datamodules import NYUDepthV2DataModule
from ntdh_bench.datamodules.nyuv2.datamodule import standardised_depth, standardised_rgb
from ntdh_bench.datamodules.nyuv2.labels import target_table
from ntdh_bench.datamodules.nyuv2.simulate import write_simulated
from ntdh_bench.models import EncoderDecoder
from tests.helpers import seconds_per_sample

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

PAIRS, BATCH = 24, 8
FULL, SMALL = (480, 640), (120, 160)


class OnTheFly(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """What decoding the prepared files in ``__getitem__`` does: a sample at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(path.stem for path in (folder / "rgb").iterdir())[:PAIRS]
        self.targets = torch.from_numpy(target_table(40).astype(np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        name = self.names[index]
        with Image.open(self.folder / "rgb" / f"{name}.png") as image:
            rgb = np.array(image.resize(SMALL[::-1], Image.Resampling.BOX))
        depth, label = (self._nearest(kind, name) for kind in ("depth", "label40"))
        target = self.targets[torch.from_numpy(label).long()]
        teacher = standardised_rgb(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0]
        return teacher, standardised_depth(torch.from_numpy(depth.astype("i4"))[None])[0], target

    def _nearest(self, kind: str, name: str) -> NDArray[Any]:
        with Image.open(self.folder / kind / f"{name}.png") as image:
            return np.array(image.resize(SMALL[::-1], Image.Resampling.NEAREST))


def train_step(images: Tensor, target: Tensor) -> int:
    network = EncoderDecoder(in_channels=images.shape[1])
    F.cross_entropy(network(images), target, ignore_index=255).backward()
    return len(target)


def test_cache_against_decoding_and_a_training_step(tmp_path: Path) -> None:
    write_simulated(tmp_path, rooms=PAIRS, size=FULL)
    data = NYUDepthV2DataModule(
        task="semantic_segmentation", root=str(tmp_path), cache_dir=str(tmp_path / "cache"),
        scale=0.25, batch_size=BATCH,
    )  # fmt: skip
    data.setup()
    slow = DataLoader(OnTheFly(tmp_path / "nyuv2" / "prepared"), batch_size=BATCH, shuffle=True)
    ours = seconds_per_sample(lambda: sum(len(b["target"]) for b in data.train_dataloader()), 5)
    usual = seconds_per_sample(lambda: sum(len(target) for *_, target in slow), 2)
    batch = next(iter(data.train_dataloader()))
    step = seconds_per_sample(lambda: train_step(batch["student"], batch["target"]), 3)
    assert usual > 3 * ours
    assert step > 5 * ours
    print(
        f"\nNYU Depth V2, {SMALL[0]}x{SMALL[1]}, batch {BATCH}, one core: {1 / ours:,.0f} pairs/s "
        f"from the cache (mirrored, standardised); decoding {FULL[0]}x{FULL[1]} files "
        f"{1 / usual:,.0f} pairs/s: {usual / ours:.0f}x. A training step of the encoder-decoder "
        f"takes {step / ours:.0f} times as long as loading its batch"
    )
