"""SemanticKITTI: the camera teaches the lidar, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ntdh_bench.batch import Measure, PairedBatch, Split
from ntdh_bench.errors import UserError
from ntdh_bench.ranges import check_at_least, check_within
from ntdh_bench.seeding import uniform

from ..files import FilePairs
from ..paired import IGNORE_INDEX, PairedDataset
from .labels import CLASS_NAMES, class_weights, point_class_weights
from .layout import (
    TEST_SEQUENCES,
    TRAIN_SEQUENCES,
    VAL_SEQUENCES,
    present_sequences,
    sequences_folder,
)
from .projection import CHANNEL_MEAN, CHANNEL_STD, channels
from .simulate import Rig, write_simulated
from .store import PreparedSequence, Seen, prepared

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MULTIPLE = 16  # whole images are padded to this: 370x1226 becomes the published 384x1232

# Class 0 is never a target.
_TARGET = torch.tensor([IGNORE_INDEX, *range(1, len(CLASS_NAMES))])


class Augmentation(NamedTuple):
    """How training views differ from the whole image.

    Attributes:
        crop: (height, width) of a random crop; None for the whole image.
        flip: mirror every second view, the y axis of the lidar with it.
        jitter: largest relative change of brightness, contrast and saturation, in [0, 1].
    """

    crop: tuple[int, int] | None = None
    flip: bool = False
    jitter: float = 0.0

    @property
    def changes(self) -> bool:
        """Whether a view differs from epoch to epoch."""
        return self != Augmentation()


class Window(NamedTuple):
    """The part of an image that a view shows, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool = False


def jittered(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Return (3, H, W) in [0, 1] with the three factors applied, in this order.

    Contrast is about the mean grey of the image, saturation about the grey of each pixel. All
    three are linear in the colours, so they are one matrix and one offset, clamped once.
    """
    luma = image.new_tensor(_LUMA)
    flat = image.flatten(1)
    mixing = saturation * torch.eye(3) + (1 - saturation) * luma.expand(3, 3)
    offset = (1 - contrast) * brightness * (luma @ flat.mean(1))
    mixed = torch.addmm(offset, contrast * brightness * mixing, flat)
    return mixed.clamp_(0, 1).view_as(image)


class StreetViews(PairedDataset):
    """Images, lidar images and targets of some sequences, cut from the cache a batch at a time.

    Args:
        sequences: their frames, in order.
        size: (H, W) of what is given; smaller images are padded at the bottom and on the right.
        augmentation: of every view.
        seed: of the augmentation.
        points: give the points as well, see :class:`SemanticKITTIDataModule`.
    """

    def __init__(
        self,
        sequences: list[PreparedSequence],
        size: tuple[int, int],
        augmentation: Augmentation,
        seed: int,
        points: bool,
    ) -> None:
        self.frames = [
            (sequence, frame) for sequence in sequences for frame in range(len(sequence))
        ]
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.points = points
        self.teacher_fixed = self.student_fixed = not augmentation.changes

    def __len__(self) -> int:
        return len(self.frames)

    def samples(self, indices: Tensor, epoch: int) -> PairedBatch:
        """Return images, lidar images and targets of the samples, and their points if asked for."""
        count = len(indices)
        image = torch.zeros(count, 3, *self.size)
        lidar = torch.zeros(count, len(CHANNEL_MEAN), *self.size)
        target = torch.full((count, *self.size), IGNORE_INDEX)
        draws = uniform(self.seed, "views", epoch, indices, (6,)).tolist()
        clouds = []
        for row, (position, draw) in enumerate(zip(indices.tolist(), draws, strict=True)):
            clouds += self._draw(position, draw, image[row], lidar[row], target[row])
        batch = PairedBatch(teacher=image, student=lidar, target=target, index=indices)
        if self.points:
            batch["points"] = self._gathered(clouds)
        return batch

    def _draw(
        self, position: int, chances: list[float], image: Tensor, lidar: Tensor, target: Tensor
    ) -> list[dict[str, Tensor]]:
        """Draw one view into its rows of the batch; returns its points, shown and hidden."""
        sequence, frame = self.frames[position]
        window = self._window(sequence.size, chances)
        rows = window.top, window.top + window.height
        image[:, : window.height, : window.width] = self._colours(
            cut_image(sequence["images"][frame], window), chances[3:]
        )
        shown = cut_points(sequence.shown(frame, *rows), window, sequence.size[1], self.size[1])
        lidar.view(len(lidar), -1)[:, shown["pixel"]] = channels(shown["points"])
        if sequence.has_dense:
            dense = cut_image(sequence["dense"][frame], window)
            target[: window.height, : window.width] = _TARGET[dense.long()]
        else:
            target.view(-1)[shown["pixel"]] = shown["target"]
        if not self.points:
            return [shown]
        hidden = sequence.hidden(frame, *rows)
        return [shown, cut_points(hidden, window, sequence.size[1], self.size[1])]

    def _window(self, size: tuple[int, int], chances: list[float]) -> Window:
        height, width = self.augmentation.crop or size
        top, left = (
            int(chance * (full - part + 1))
            for chance, full, part in zip(chances[:2], size, (height, width), strict=True)
        )
        return Window(top, left, height, width, self.augmentation.flip and chances[2] < 0.5)

    def _colours(self, image: Tensor, chances: list[float]) -> Tensor:
        """Return uint8 (3, h, w) in [0, 1], with the jitter that three chances in [0, 1) give."""
        values = image.float().div_(255)
        jitter = self.augmentation.jitter
        if not jitter:
            return values
        return jittered(values, *(1 + jitter * (2 * chance - 1) for chance in chances))

    def _gathered(self, clouds: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join the clouds of a batch, two per sample: shown and hidden points."""
        counts = torch.tensor([len(cloud["pixel"]) for cloud in clouds])
        joined = {key: torch.cat([cloud[key] for cloud in clouds]) for key in clouds[0]}
        scan = torch.arange(len(clouds)).div(2, rounding_mode="floor").repeat_interleave(counts)
        joined["pixel"] += scan * (self.size[0] * self.size[1])
        return {**joined, "scan": scan}


def cut_image(image: Any, window: Window) -> Tensor:
    """Return the window of a mapped array (..., height, width), copied."""
    rows = slice(window.top, window.top + window.height)
    part = image[..., rows, window.left : window.left + window.width]
    return torch.from_numpy(np.array(part[..., ::-1] if window.flipped else part))


def cut_points(seen: Seen, window: Window, width: int, grid_width: int) -> dict[str, Tensor]:
    """Return the points inside a window as it is shown: points, pixel (in the grid), target."""
    row, column = np.divmod(seen.pixel.astype(np.int64), width)
    column -= window.left
    inside = np.flatnonzero((column >= 0) & (column < window.width))
    row, column = row[inside] - window.top, column[inside]
    points = seen.points[inside]
    if window.flipped:
        column = window.width - 1 - column
        points = points * np.array([1, -1, 1, 1], dtype=np.float32)
    return {
        "points": torch.from_numpy(points),
        "pixel": torch.from_numpy(row * grid_width + column),
        "target": _TARGET[torch.from_numpy(seen.classes[inside]).long()],
    }


class SemanticKITTIDataModule(FilePairs):
    """Camera images (teacher) and lidar (student) of the same streets, in one image plane.

    The teacher's input is the image, float32 (B, 3, H, W) in [0, 1]; the student's the lidar image,
    float32 (B, 5, H, W): range, x, y, z, remission, standardised, 0 where no point is seen. The
    target is int64 (B, H, W): classes 1..19; 255 where there is no point, or one not learnt.

    With ``points`` the batch has those in view as well, also those behind others: see
    :class:`ntdh_bench.batch.BatchExtras`.

    Training views are random crops, mirrored and with changed colours, derived from (seed, epoch,
    sample); a mirrored view has the y axis of its points reversed. Validation and test give whole
    images, padded to the next multiple of 16 above the largest (384 x 1232 for sequences 08 and
    10). Everything is decoded and projected once into the cache.
    Files are read from ``semantickitti/sequences/NN/{velodyne,labels,image_2,calib.txt}``.

    Source: Behley et al., ICCV 2019; Geiger et al., CVPR 2012; Zhuang et al., ICCV 2021 (PMF).

    Args:
        train_sequences: default 00-07 and 09 (of simulated files: those of them that are there).
        val_sequences: default 10; an empty list for no validation split.
        test_sequences: default 08, the one whose results are published.
        crop: [height, width] of training views; null for whole images.
        scale: size of the images relative to the published ones, in (0, 1]; before cropping. Of
            simulated files the lidar is as much coarser in azimuth.
        flip: mirror every second training view.
        jitter: largest relative change of brightness, contrast and saturation in training, in
            [0, 1].
        points: give the points as well.
        dense_labels: take pixel targets from ``image_2_labels/*.png`` (grey, raw ids) in those
            sequences that have this folder.
        batch_size: samples per step.
        simulated_frames: training frames of the simulated source.
        shared: of :class:`.files.FilePairs`.

    Raises:
        UserError: an argument is out of range; at ``setup``, files are missing or broken.
    """

    name = "semantickitti"
    normalisation = (
        f"RGB / 255; range, x, y, z and remission less {CHANNEL_MEAN}, divided by {CHANNEL_STD}, "
        "and 0 where no point is seen"
    )
    num_classes = len(CLASS_NAMES)
    class_names = CLASS_NAMES
    class_weights = MappingProxyType(
        {
            "pmf": torch.from_numpy(class_weights()).float(),
            "2dpass": torch.from_numpy(point_class_weights()).float(),
        }
    )
    metric: Measure = "miou"
    excluded_classes = (0,)

    def __init__(
        self,
        train_sequences: list[int] | None = None,
        val_sequences: list[int] | None = None,
        test_sequences: list[int] | None = None,
        crop: tuple[int, int] | None = (256, 1024),
        scale: float = 1.0,
        flip: bool = True,
        jitter: float = 0.4,
        points: bool = False,
        dense_labels: bool = False,
        batch_size: int | None = 4,
        simulated_frames: int = 40,
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        check_within("data.scale", scale, 0.01, 1)
        check_within("data.jitter", jitter, 0, 1)
        check_at_least("data.simulated_frames", simulated_frames, 1)
        if crop is not None and min(crop) < 1:
            raise UserError(f"data.crop is {list(crop)}: both sides must be at least 1")
        self.asked: dict[Split, list[int] | None] = {
            "train": train_sequences,
            "val": val_sequences,
            "test": test_sequences,
        }
        self.augmentation = Augmentation(crop, flip, jitter)
        self.scale = scale
        self.points = points
        self.dense_labels = dense_labels
        self.simulated_frames = simulated_frames
        self._content: dict[str, dict[str, str]] = {}

    def load(self) -> dict[Split, PairedDataset]:
        """Prepare the sequences in the cache and open them."""
        # Simulated files have been written at their scale.
        scale = 1.0 if self.source == "simulated" else self.scale
        folder = sequences_folder(self.locate())
        chosen = self._sequences(folder)
        every = [number for numbers in chosen.values() for number in numbers]
        stored = prepared(folder, every, self.cache_dir, scale=scale, dense=self.dense_labels)
        if self.dense_labels and not any(sequence.has_dense for sequence in stored.values()):
            raise UserError(
                f"data.dense_labels is true, but no sequence in {folder} has a folder "
                "image_2_labels: add it, or set data.dense_labels false"
            )
        self._content = {
            split: {f"{number:02d}": stored[number].digest for number in numbers}
            for split, numbers in chosen.items()
        }
        return {
            split: self._split_of([stored[number] for number in numbers], split)
            for split, numbers in chosen.items()
            if numbers
        }

    def folders(self, root: Path) -> list[Path]:
        """Return the folder with the sequences."""
        return [sequences_folder(root)]

    def simulation(self) -> tuple[dict[str, Any], Callable[..., None]]:
        """Return number and scale of simulated frames, and what writes them."""
        frames, rig = self.simulated_frames, Rig.scaled(self.scale)
        settings = {"frames": frames, "scale": float(self.scale)}
        return settings, partial(write_simulated, frames=frames, rig=rig)

    def _sequences(self, folder: Path) -> dict[Split, list[int]]:
        """Return the sequences of each split, which share none."""
        published: dict[Split, tuple[int, ...]] = {
            "train": TRAIN_SEQUENCES,
            "val": VAL_SEQUENCES,
            "test": TEST_SEQUENCES,
        }
        there = present_sequences(folder)
        chosen: dict[Split, list[int]] = {}
        for split, default in published.items():
            asked = self.asked[split]
            if asked is None:
                asked = [n for n in default if self.source == "real" or n in there]
            if not asked and split != "val":
                raise UserError(f"data.{split}_sequences is empty: name at least one sequence")
            chosen[split] = asked
        every = [number for numbers in chosen.values() for number in numbers]
        twice = sorted({number for number in every if every.count(number) > 1})
        if twice:
            raise UserError(
                f"sequence {twice[0]:02d} is named twice in data.train_sequences, "
                "data.val_sequences and data.test_sequences: no two splits may share one"
            )
        return chosen

    def _split_of(self, sequences: list[PreparedSequence], split: Split) -> StreetViews:
        augmentation = self.augmentation if split == "train" else Augmentation()
        heights, widths = zip(*(sequence.size for sequence in sequences), strict=True)
        crop = augmentation.crop
        if crop and (crop[0] > min(heights) or crop[1] > min(widths)):
            raise UserError(
                f"data.crop is {list(crop)}, but the smallest training image has {min(heights)} x "
                f"{min(widths)} pixels: choose a smaller crop or a larger data.scale"
            )
        size = crop or (_padded(max(heights)), _padded(max(widths)))
        return StreetViews(sequences, size, augmentation, self.seed, self.points)

    def identity(self) -> dict[str, Any]:
        """Return content digests and parameters; the run's seed counts if views are random."""
        crop, flip, jitter = self.augmentation
        return {
            "content": self._content,
            "crop": list(crop) if crop else None,
            "flip": flip,
            "jitter": float(jitter),
            "points": self.points,
            "seed": self.seed if self.augmentation.changes else None,
        }


def _padded(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE
