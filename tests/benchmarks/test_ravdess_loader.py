"""RAVDESS from the prepared store against decoding on the fly, and against a training step."""

from __future__ import annotations

from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ntdh_bench.datamodules import RAVDESSDataModule
from ntdh_bench.datamodules.ravdess.clips import normalised_images, normalised_mfcc
from ntdh_bench.datamodules.ravdess.simulate import write_simulated
from ntdh_bench.models import ImageCNN
from tests.helpers import seconds_per_sample

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("one_thread")]

HEIGHT, WIDTH, BATCH = 256, 512, 16


class OnTheFly(Dataset[tuple[Tensor, Tensor, int]]):
    """What reading the published files in ``__getitem__`` does: a sample at a time."""

    def __init__(self, folder: Path) -> None:
        self.wavs = sorted(folder.rglob("*.wav"))
        self.videos = {path.stem[2:]: path for path in folder.rglob("*.mp4")}

    def __len__(self) -> int:
        return len(self.wavs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        wav = self.wavs[index]
        samples, rate = librosa.load(wav, sr=22050)
        mfcc = librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=40)[:, :256]
        padded = np.pad(mfcc, ((0, 0), (0, 256 - mfcc.shape[1]))).astype(np.float32)
        with av.open(str(self.videos[wav.stem[2:]])) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        middle = torch.from_numpy(frames[len(frames) // 2]).permute(2, 0, 1)[None].float()
        image = F.interpolate(middle, (HEIGHT, WIDTH), mode="bilinear").round().byte()
        speech = normalised_mfcc(torch.from_numpy(padded)[None])
        return speech[0], normalised_images(image)[0], int(wav.stem[6:8]) - 1


def test_store_against_decoding_on_the_fly(tmp_path: Path) -> None:
    write_simulated(tmp_path, clips=4)
    data = RAVDESSDataModule(
        root=str(tmp_path), cache_dir=str(tmp_path / "cache"), batch_size=BATCH,
        image_height=HEIGHT, image_width=WIDTH,
    )  # fmt: skip
    data.setup()
    slow = DataLoader(OnTheFly(tmp_path / "ravdess"), batch_size=BATCH, shuffle=True)
    ours = seconds_per_sample(lambda: sum(len(b["target"]) for b in data.train_dataloader()), 3)
    usual = seconds_per_sample(lambda: sum(len(target) for _, _, target in slow), 2)
    batch = next(iter(data.train_dataloader()))
    step = seconds_per_sample(lambda: train_step(batch["student"], batch["target"]), 1)
    assert usual / ours >= 20
    assert step > ours
    print(
        f"\nRAVDESS, {HEIGHT}x{WIDTH} images, batch {BATCH}, one core: {1 / ours:,.0f} samples/s "
        f"from the store; decoding wav and (160x320) mp4 on the fly {1 / usual:,.0f} samples/s: "
        f"{usual / ours:.0f}x. A training step of the student takes {step / ours:.0f} times as "
        "long as loading its batch"
    )


def train_step(images: object, target: Tensor) -> int:
    network = ImageCNN()
    F.cross_entropy(network(images), target).backward()
    return len(target)
