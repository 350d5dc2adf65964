from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntdh_bench.datamodules.paired import Request
from ntdh_bench.datamodules.ravdess.clips import ClipPairs, hide_bands, jitter, normalised_images
from tests.typed import some

COUNT, FRAMES = 12, 3


def pairs(**changes: Any) -> ClipPairs:
    random = np.random.default_rng(0)
    mfcc = random.normal(-10, 80, (COUNT, 40, 256)).astype(np.float32)
    frames = random.integers(0, 256, (COUNT, FRAMES, 3, 8, 16)).astype(np.uint8)
    rows = torch.stack([torch.arange(COUNT), torch.arange(COUNT).flip(0)], dim=1)
    settings: dict[str, Any] = {"seed": 0, **changes}
    return ClipPairs(
        {"values": mfcc}, {"values": frames}, rows, torch.arange(COUNT) % 8, **settings
    )


def stored(split: ClipPairs) -> tuple[NDArray[Any], NDArray[Any]]:
    return some(split.mfcc)["values"], some(split.frames)["values"]


def inputs(split: ClipPairs, *rows: int, epoch: int = 0) -> tuple[Tensor, Tensor]:
    batch = split[Request(epoch, torch.tensor(rows))]
    assert isinstance(batch["teacher"], Tensor)
    assert isinstance(batch["student"], Tensor)
    return batch["teacher"], batch["student"]


def test_normalised_pairs_of_the_right_rows() -> None:
    split = pairs()
    mfcc, images = inputs(split, 2, 5)
    assert mfcc.shape == (2, 1, 40, 256)
    assert images.shape == (2, 3, 8, 16)
    assert torch.allclose(
        mfcc[0, 0] * 85.66 - 10.59, torch.from_numpy(stored(split)[0][2]), atol=1e-4
    )
    middle = torch.from_numpy(stored(split)[1][COUNT - 1 - 5, FRAMES // 2]) / 255
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    assert torch.allclose(images[1], (middle - mean) / std, atol=1e-5)
    assert split.teacher_fixed
    assert split.student_fixed
    whole = split[Request(0, None)]["teacher"]
    assert isinstance(whole, Tensor)
    assert whole[2].equal(mfcc[0])


def test_stores_are_not_changed() -> None:
    split = pairs(spec_augment=True, image_augment=True)
    before = [array.copy() for array in stored(split)]
    inputs(split, *range(COUNT))
    assert all(map(np.array_equal, stored(split), before))


@pytest.mark.parametrize(
    "changes", [{"training": True}, {"image_augment": True}, {"spec_augment": True}]
)
def test_what_is_drawn_depends_on_epoch_and_clip_alone(changes: dict[str, Any]) -> None:
    split = pairs(**changes)
    modality = 0 if "spec_augment" in changes else 1
    many = inputs(split, *range(COUNT), epoch=3)
    alone = inputs(split, 7, epoch=3)
    assert many[modality][7].equal(alone[modality][0])
    assert not inputs(split, *range(COUNT), epoch=4)[modality].equal(many[modality])
    assert many[1 - modality].equal(inputs(split, *range(COUNT), epoch=4)[1 - modality])
    fixed = [split.teacher_fixed, split.student_fixed]
    assert not fixed[modality]
    assert fixed[1 - modality]
    other = pairs(**changes, seed=1)
    assert not inputs(other, *range(COUNT), epoch=3)[modality].equal(many[modality])


def test_training_draws_all_frames() -> None:
    split = pairs(training=True)
    seen = {tuple(inputs(split, 0, epoch=epoch)[1].flatten().tolist()) for epoch in range(30)}
    assert len(seen) == FRAMES


def test_bands_are_no_larger_than_allowed() -> None:
    draws = torch.rand(500, 4, generator=torch.Generator().manual_seed(0))
    draws[0], draws[1] = 0.0, 1 - 2**-24
    hidden = hide_bands(torch.ones(500, 1, 40, 256), draws)[:, 0] == 0
    rows, columns = hidden.all(2).sum(1), hidden.all(1).sum(1)
    assert (int(rows.max()), int(columns.max())) == (8, 32)
    assert not hidden[0].any()
    assert hidden[1, 32:].all()
    assert hidden[1, :, 224:].all()


def test_jitter_mirrors_and_stays_in_range() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 16), dtype=torch.uint8)
    still = torch.tensor([[0.7, 0.5, 0.5], [0.2, 0.5, 0.5]])  # no change but the mirror
    changed = jitter(images, still)
    assert torch.allclose(changed[0], normalised_images(images)[0], atol=1e-5)
    assert torch.allclose(changed[1], normalised_images(images)[1].flip(-1), atol=1e-5)
    extreme = jitter(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8), torch.tensor([[0.7, 1, 1]]))
    assert torch.allclose(
        extreme, normalised_images(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8))
    )
