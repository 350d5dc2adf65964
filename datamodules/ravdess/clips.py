"""Clips from the prepared stores, a batch at a time, with optional augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntdh_bench.batch import Inputs
from ntdh_bench.imagenet import IMAGENET_MEAN, IMAGENET_STD
from ntdh_bench.seeding import uniform

from ..paired import LabelledPairs
from ..store import Arrays

# Of the authors' code: MFCCs over all clips, and ImageNet's channels for RGB in [0, 1].
_MFCC_MEAN, _MFCC_STD = -10.59, 85.66
_RGB_MEAN, _RGB_STD = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)

#: What is done to clips, for model cards.
NORMALISATION = (
    f"MFCCs less {_MFCC_MEAN}, divided by {_MFCC_STD}; RGB / 255, less {IMAGENET_MEAN}, divided by "
    f"{IMAGENET_STD}"
)

_TALLEST, _WIDEST = 8, 32  # of a SpecAugment band: MFCCs, frames
_GAIN, _BIAS = 0.2, 0.1  # contrast changes by up to ±20 %, brightness by ±10 % of the range


#: Arrays by kind, usually a store: worker processes then map its files themselves.
Values: TypeAlias = Arrays | Mapping[str, NDArray[Any]]


class ClipPairs(LabelledPairs):
    """MFCCs (teacher) and one video frame (student) of the clips of a split.

    Of a clip with k stored frames, training takes one drawn anew in every epoch, validation and
    testing the middle one (k // 2). What is drawn depends on (seed, epoch, clip) alone.

    Args:
        mfcc: has ``values``, float32 (M, 40, 256); None if only faces are wanted, and the teacher's
            input is then empty.
        frames: has ``values``, uint8 (M', k, 3, H, W); likewise.
        rows: int64 (N, 2), where the clips of the split are in ``mfcc`` and ``frames``.
        target: int64 (N,).
        seed: of what is drawn.
        training: whether frames are drawn.
        spec_augment: hide a random band of MFCCs and one of time (Park et al., Interspeech 2019).
        image_augment: random mirroring, contrast and brightness.
    """

    def __init__(
        self,
        mfcc: Values | None,
        frames: Values | None,
        rows: Tensor,
        target: Tensor,
        seed: int,
        training: bool = False,
        spec_augment: bool = False,
        image_augment: bool = False,
    ) -> None:
        super().__init__(target)
        self.mfcc = mfcc
        self.frames = frames
        self.rows = rows
        self.seed = seed
        self.draws_frames = training and frames is not None and frames["values"].shape[1] > 1
        self.spec_augment = spec_augment
        self.image_augment = image_augment
        self.teacher_fixed = not spec_augment
        self.student_fixed = not (image_augment or self.draws_frames)

    def inputs(self, indices: Tensor, epoch: int) -> tuple[Inputs, Inputs]:
        """Return float32 MFCCs (B, 1, 40, 256) and images (B, 3, H, W), both normalised."""
        speech, face = self.rows[indices].numpy().T
        return self._speech(speech, indices, epoch), self._faces(face, indices, epoch)

    def _speech(self, rows: NDArray[np.int64], indices: Tensor, epoch: int) -> Tensor:
        if self.mfcc is None:
            return torch.empty(len(rows), 0)
        mfcc = normalised_mfcc(torch.from_numpy(self.mfcc["values"][rows]))
        if not self.spec_augment:
            return mfcc
        return hide_bands(mfcc, self._draw("spec_augment", epoch, indices, 4))

    def _faces(self, rows: NDArray[np.int64], indices: Tensor, epoch: int) -> Tensor:
        if self.frames is None:
            return torch.empty(len(rows), 0)
        frames = self.frames["values"]
        count = frames.shape[1]
        which: Any = count // 2
        if self.draws_frames:
            which = (self._draw("frame", epoch, indices, 1)[:, 0] * count).long().numpy()
        images = torch.from_numpy(frames[rows, which])
        if not self.image_augment:
            return normalised_images(images)
        return jitter(images, self._draw("image_augment", epoch, indices, 3))

    def _draw(self, purpose: str, epoch: int, indices: Tensor, count: int) -> Tensor:
        return uniform(self.seed, purpose, epoch, indices, (count,))


def normalised_mfcc(mfcc: Tensor) -> Tensor:
    """Return MFCCs (B, 40, 256) as (B, 1, 40, 256), shifted and scaled in place."""
    return mfcc.sub_(_MFCC_MEAN).div_(_MFCC_STD)[:, None]


def normalised_images(images: Tensor) -> Tensor:
    """Return uint8 RGB (B, 3, H, W) with ImageNet's mean and deviation taken out, float32."""
    scale = 1 / (255 * _RGB_STD)
    return images.float().mul_(scale[:, None, None]).sub_((_RGB_MEAN / _RGB_STD)[:, None, None])


def hide_bands(mfcc: Tensor, draws: Tensor) -> Tensor:
    """Set a band of MFCCs and one of frames to the mean, 0: (B, 1, 40, 256).

    Args:
        mfcc: normalised.
        draws: U[0, 1) of (B, 4): height and place of one band, width and place of the other.
    """
    rows = _band(draws[:, 0], draws[:, 1], mfcc.shape[2], _TALLEST)
    columns = _band(draws[:, 2], draws[:, 3], mfcc.shape[3], _WIDEST)
    return mfcc.masked_fill((rows[:, :, None] | columns[:, None, :])[:, None], 0.0)


def _band(width: Tensor, place: Tensor, size: int, widest: int) -> Tensor:
    """Return bool (B, size), true in a band of 0 to ``widest`` positions."""
    wide = (width * (widest + 1)).long()
    first = (place * (size - wide + 1)).long()
    position = torch.arange(size)
    return (position >= first[:, None]) & (position < (first + wide)[:, None])


def jitter(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror half of the images, change contrast and brightness, and normalise.

    Args:
        images: uint8 (B, 3, H, W).
        draws: U[0, 1) of (B, 3): mirroring, contrast, brightness.
    """
    mirror, gain, bias = draws.T[:, :, None, None, None]
    images = torch.where(mirror < 0.5, images.flip(-1), images)
    contrast = 1 + _GAIN * (2 * gain - 1)
    brightness = 255 * _BIAS * (2 * bias - 1)
    changed = (images.float() - 127.5).mul_(contrast).add_(127.5 + brightness).clamp_(0, 255)
    return normalised_images(changed)
