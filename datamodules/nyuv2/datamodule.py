"""NYU Depth V2: RGB teaches depth, in the image plane or in a volume of voxels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ntdh_bench.batch import Measure, PairedBatch, ScoringProtocol, Split
from ntdh_bench.completion import scored_target
from ntdh_bench.errors import UserError
from ntdh_bench.imagenet import IMAGENET_MEAN, IMAGENET_STD
from ntdh_bench.ranges import check_at_least, check_choice, check_within
from ntdh_bench.seeding import generator, uniform

from ..files import FilePairs
from ..paired import PairedDataset
from ..store import Arrays
from .camera import IMAGE_SIZE
from .labels import NYU13_NAMES, NYU40_NAMES, SSC_NAMES, target_table
from .layout import FOLDER, PARTS, SCENES, Part
from .pairs import prepared_pairs
from .scenes import STRIDE, prepared_scenes
from .simulate import write_simulated

Task = Literal["semantic_segmentation", "scene_completion"]

_BLOCK = 8  # neighbours in the official order show the same room

# ImageNet's mean and deviation; those of the depth of NYU Depth V2's training images, metres.
_RGB_MEAN = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
_RGB_STD = torch.tensor(IMAGENET_STD).view(3, 1, 1)
_DEPTH_MEAN, _DEPTH_STD = 2.84, 1.42

_CLASS_NAMES = {40: NYU40_NAMES, 13: NYU13_NAMES}


def standardised_rgb(images: Tensor) -> Tensor:
    """Return float32 of uint8 (B, 3, H, W), with ImageNet's mean and deviation."""
    return images.float().div_(255).sub_(_RGB_MEAN).div_(_RGB_STD)


def standardised_depth(millimetres: Tensor) -> Tensor:
    """Return float32 (B, 1, H, W) of millimetres (B, H, W); 0, the mean, where nothing was seen."""
    metres = millimetres.float().div_(1000).unsqueeze(1)
    return torch.where(metres > 0, (metres - _DEPTH_MEAN) / _DEPTH_STD, 0)


class RoomPairs(PairedDataset):
    """Some of the stored samples of rooms, read from the cache a batch at a time.

    Args:
        arrays: all samples.
        rows: int64 (N,), the positions in ``arrays`` of those that belong here.
    """

    def __init__(self, arrays: Arrays, rows: Tensor) -> None:
        self.arrays = arrays
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, kind: str, indices: Tensor) -> Tensor:
        values = self.arrays[kind][self.rows[indices].numpy()]
        # Torch has no unsigned 16-bit arithmetic.
        return torch.from_numpy(values.astype(np.int32) if values.dtype == np.uint16 else values)


class LabelledImages(RoomPairs):
    """RGB images, depth images and a class for every pixel.

    Args:
        arrays: ``rgb`` uint8 (M, 3, H, W), ``depth`` uint16 (M, H, W), ``label`` uint8 (M, H, W).
        rows: int64 (N,).
        classes: int64 (41,), from labels of the files to targets.
        flip: mirror every second sample, drawn from (seed, epoch, sample).
        seed: of the mirroring.
    """

    def __init__(
        self, arrays: Arrays, rows: Tensor, classes: Tensor, flip: bool = False, seed: int = 0
    ) -> None:
        super().__init__(arrays, rows)
        self.classes = classes
        self.flip = flip
        self.seed = seed
        self.teacher_fixed = self.student_fixed = not flip

    def samples(self, indices: Tensor, epoch: int) -> PairedBatch:
        """Return RGB (B, 3, H, W), depth (B, 1, H, W) and targets (B, H, W)."""
        rgb = standardised_rgb(self._read("rgb", indices))
        depth = standardised_depth(self._read("depth", indices))
        target = self.classes[self._read("label", indices).long()]
        if self.flip:
            mirrored = uniform(self.seed, "flip", epoch, indices, (1,)).squeeze(1) < 0.5
            for values in (rgb, depth, target):
                values[mirrored] = values[mirrored].flip(-1)
        return PairedBatch(teacher=rgb, student=depth, target=target, index=indices)


class CompletedScenes(RoomPairs):
    """RGB and depth images, the voxel behind every pixel, and a class for every voxel.

    Args:
        arrays: of :func:`.scenes.prepared_scenes`.
        rows: int64 (N,).
        protocol: by which networks are scored, see :class:`ntdh_bench.completion.Completion`;
            ``None`` gives all voxels that have a class, to train on.
    """

    def __init__(self, arrays: Arrays, rows: Tensor, protocol: ScoringProtocol | None) -> None:
        super().__init__(arrays, rows)
        self.protocol = protocol

    def samples(self, indices: Tensor, epoch: int) -> PairedBatch:
        """Return what :class:`NYUDepthV2DataModule` says of scene completion."""
        position = self._read("position", indices).long()
        depth = standardised_depth(self._read("depth", indices))
        target = self._read("target", indices).long()
        if self.protocol is not None:
            evaluated = self._read("evaluated", indices)
            target = scored_target(target, evaluated, self.protocol, self.ignore_index)
        return PairedBatch(
            teacher={"image": standardised_rgb(self._read("rgb", indices)), "position": position},
            student={"image": depth, "position": position},
            target=target,
            index=indices,
            occluded=self._read("occluded", indices),
        )


class NYUDepthV2DataModule(FilePairs):
    """RGB (teacher) and depth (student) of the same rooms.

    ``semantic_segmentation``: the teacher's input is RGB, float32 (B, 3, H, W), standardised; the
    student's is depth, float32 (B, 1, H, W), standardised, 0 where none was measured; the target
    is int64 (B, H, W), 255 where nobody labelled. Training samples are mirrored at random.

    ``scene_completion``: both inputs are dicts, ``image`` as above and ``position``, int64
    (B, H, W), the voxel of the volume (240 x 144 x 240, flat, in C order) that each pixel falls
    into, -1 for none. The target is int64 (B, 60, 36, 60): 0 empty, 1 to 11 the classes, 255
    outside the view or the room, and in validation and test also where the camera sees air or
    nothing. The batch also has ``occluded``, bool (B, 60, 36, 60): the voxels behind what the
    camera sees, where completion is scored.

    The official split has 795 training and 654 test samples. Validation takes blocks of neighbours
    (often the same room) from the training samples. Classes that occur nowhere in the files are
    left out of the mean IoU, and so is "empty"; one that only the validation samples lack counts 0
    there. Everything is decoded once into the cache.

    Source: Silberman et al., ECCV 2012; Song et al., CVPR 2017 (SSCNet).

    Args:
        task: ``semantic_segmentation`` reads ``nyuv2/prepared`` (or the official .mat files in
            ``nyuv2``), ``scene_completion`` ``nyu_ssc/NYUtrain`` and ``nyu_ssc/NYUtest``.
        classes: of segmentation: 40 or 13.
        scale: size of the images relative to the published 480 x 640, in (0, 1]; default 0.5 for
            segmentation and 1 for scene completion, whose volume gets as much coarser: 1, 0.5 or
            0.25.
        flip: mirror every second training sample (segmentation).
        val_size: training samples held out for validation, at most an eighth of them; 0 for none.
        batch_size: samples per step.
        simulated_rooms: training rooms of the simulated source; a third as many are for testing.
        protocol: how scene completion is scored: ``pooled``, voxels without a class do not count
            and all scenes are one set, or ``sscnet``, as SSCNet's published script does (see
            :class:`ntdh_bench.completion.Completion`). The two are not comparable.
        shared: of :class:`.files.FilePairs`.

    Raises:
        UserError: an argument is out of range; at ``setup``, files are missing or broken.
    """

    name = "nyuv2"
    normalisation = (
        f"RGB / 255, less {IMAGENET_MEAN}, divided by {IMAGENET_STD}; depth in metres, less "
        f"{_DEPTH_MEAN}, divided by {_DEPTH_STD}, and 0 where none was measured"
    )
    metric: Measure = "miou"

    def __init__(
        self,
        task: Task = "semantic_segmentation",
        classes: Literal[40, 13] = 40,
        scale: float | None = None,
        flip: bool = True,
        val_size: int = 80,
        batch_size: int | None = 8,
        simulated_rooms: int = 48,
        protocol: ScoringProtocol = "pooled",
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        check_choice("data.task", task, ("semantic_segmentation", "scene_completion"))
        check_at_least("data.val_size", val_size, 0)
        check_at_least("data.simulated_rooms", simulated_rooms, 1)
        check_choice("data.protocol", protocol, get_args(ScoringProtocol))
        if protocol != "pooled" and task != "scene_completion":
            raise UserError(
                f"data.protocol is {protocol}: it is one of scene completion; leave it out"
            )
        if classes not in (40, 13):
            raise UserError(f"data.classes is {classes}: choose 40 or 13")
        if task == "scene_completion" and classes != 40:
            raise UserError(
                f"data.classes is {classes}: scene completion has 12 of its own; leave it out"
            )
        self.task = task
        self.scale = scale if scale is not None else {"scene_completion": 1.0}.get(task, 0.5)
        check_within("data.scale", self.scale, 0.01, 1)
        if task == "scene_completion" and self.scale not in STRIDE:
            raise UserError(
                f"data.scale is {self.scale}: scene completion has 1, 0.5 and 0.25, at which "
                "voxels stay whole"
            )
        names = {"scene_completion": SSC_NAMES, "semantic_segmentation": _CLASS_NAMES[classes]}
        self.class_names = names[task]
        self.num_classes = len(self.class_names)
        self.flip = flip
        self.val_size = val_size
        self.simulated_rooms = simulated_rooms
        self.protocol = protocol
        self._content: dict[str, str] = {}

    def load(self) -> dict[Split, PairedDataset]:
        """Prepare the files in the cache and open them."""
        stored = self._stored(self.locate())
        self._content = {split: arrays.digest for split, arrays in stored.items()}
        self.excluded_classes = self._excluded(stored)
        everything = torch.arange(len(stored["train"]))
        val_size = min(self.val_size, len(everything) // 8)
        held_out = neighbours(len(everything), val_size, self.data_seed)
        training = everything[~torch.isin(everything, held_out)]
        splits: dict[Split, PairedDataset] = {
            "train": self._pairs(stored["train"], training, training=True),
            "val": self._pairs(stored["train"], held_out),
            "test": self._pairs(stored["test"], torch.arange(len(stored["test"]))),
        }
        return {split: pairs for split, pairs in splits.items() if len(pairs)}

    def folders(self, root: Path) -> list[Path]:
        """Return the folder of the task."""
        return [root / (SCENES if self.task == "scene_completion" else FOLDER)]

    def simulation(self) -> tuple[dict[str, Any], Callable[..., None]]:
        """Return the number and size of simulated rooms, and what writes them."""
        rooms = self.simulated_rooms
        return {"rooms": rooms, "size": IMAGE_SIZE}, partial(write_simulated, rooms=rooms)

    def _stored(self, root: Path) -> dict[Part, Arrays]:
        if self.task == "scene_completion":
            return {
                part: prepared_scenes(root / SCENES, self.cache_dir, part, scale=self.scale)
                for part in PARTS
            }
        height, width = (max(1, round(side * self.scale)) for side in IMAGE_SIZE)
        return {
            part: prepared_pairs(root, self.cache_dir, part, size=(height, width)) for part in PARTS
        }

    def _excluded(self, stored: Mapping[Part, Arrays]) -> tuple[int, ...]:
        """Return the classes that the mean IoU leaves out: empty, or those that no image shows."""
        if self.task == "scene_completion":
            return (0,)
        targets = target_table(self.num_classes)
        shown = {int(targets[label]) for arrays in stored.values() for label in _labels(arrays)}
        return tuple(label for label in range(self.num_classes) if label not in shown)

    def _pairs(self, arrays: Arrays, rows: Tensor, training: bool = False) -> PairedDataset:
        if self.task == "scene_completion":
            return CompletedScenes(arrays, rows, None if training else self.protocol)
        classes = torch.from_numpy(target_table(self.num_classes)).long()
        return LabelledImages(arrays, rows, classes, self.flip and training, self.seed)

    def identity(self) -> dict[str, Any]:
        """Return content digests and parameters; the run's seed counts if views are random."""
        segmentation = {
            "classes": self.num_classes,
            "flip": self.flip,
            "seed": self.seed if self.flip else None,
        }
        return {
            "task": self.task,
            "content": self._content,
            "val_size": self.val_size,
            "data_seed": self.data_seed,
            **(segmentation if self.task == "semantic_segmentation" else {}),
            # The protocol came later: fingerprints of the first one are as they were.
            **({"protocol": self.protocol} if self.protocol != "pooled" else {}),
        }


def neighbours(count: int, size: int, seed: int) -> Tensor:
    """Draw ``size`` of the positions [0, count) in blocks of neighbours: int64 (size,), sorted."""
    order = torch.randperm(-(-count // _BLOCK), generator=generator(seed, "validation split"))
    drawn = (order[:, None] * _BLOCK + torch.arange(_BLOCK)).flatten()
    return drawn[drawn < count][:size].sort().values


def _labels(arrays: Arrays) -> set[int]:
    """Return the labels that occur, 0 for "not labelled" among them."""
    counts = sum(np.bincount(labels.ravel(), minlength=256) for labels in arrays["label"])
    return set(np.flatnonzero(counts).tolist())
