"""MNIST teaches MNIST-M: noisy pairs of the same digit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ntdh_bench.batch import Inputs, Split
from ntdh_bench.cache import build_once, digest
from ntdh_bench.errors import UserError
from ntdh_bench.files.arrays import Spec, map_npy
from ntdh_bench.ranges import check_at_least, check_choice, check_within
from ntdh_bench.seeding import uniform

from ..files import FilePairs
from ..paired import (
    RESIDENT_SHARE,
    LabelledPairs,
    PairedDataset,
    TensorPairs,
    blocks,
    free_bytes,
    stratified,
)
from .idx import MAX_COUNT, Bytes, read_images, read_labels
from .layout import ARCHIVE_FOLDER, IDX_FOLDER, PHOTO_FOLDER, content_digests, idx_file, photographs
from .mnist_m import SIDE, archive_files, build_mnist_m, read_archive
from .simulate import write_simulated

_REBUILT = "delete it, and it will be made anew"
_BLOCK = 128  # samples whose noise a CPU makes at once: the counters stay in its cache


def add_noise(images: Tensor, level: float, noise: Tensor | None) -> Tensor:
    """Return ``clip(x / 255 + level * noise, 0, 1)`` scaled to [-1, 1]: float32, shape of images.

    Source: the authors' experiment (level 4 on MNIST, 1 on MNIST-M), and (x - 0.5) / 0.5.

    Args:
        images: uint8 (n, ...).
        level: at least 0.
        noise: U[0, 1) of the same shape, overwritten; None for no noise.
    """
    values = images.float()
    values.div_(values.new_full((), 255))  # a GPU multiplies by the reciprocal of a plain number
    if noise is not None:
        values = noise.mul_(level).add_(values).clamp_(max=1)
    return values.sub_(0.5).div_(0.5)


class NoisyPairs(LabelledPairs):
    """Pairs of images kept as bytes; fresh noise in every epoch, the same whatever the batch.

    On a GPU all noise of an epoch is made at once, where there is room for it: the launches of a
    batch's take longer than its training step.

    Args:
        teacher: uint8 (N, 1, 28, 28).
        student: uint8 (N, C, 28, 28).
        target: int64 (N,).
        levels: noise levels of the teacher's and the student's modality, at least 0.
        seed: of the noise.
        purpose: names the noise; a different split needs a different name.
    """

    held = ("images", "target")

    def __init__(
        self,
        teacher: Tensor,
        student: Tensor,
        target: Tensor,
        levels: tuple[float, float],
        seed: int,
        purpose: str = "noise",
    ) -> None:
        super().__init__(target)
        self.images = {"teacher": teacher, "student": student}
        self.levels = dict(zip(self.images, levels, strict=True))
        self.seed = seed
        self.purpose = purpose
        self.teacher_fixed, self.student_fixed = (not level for level in levels)
        self._epoch = -1
        self._made: dict[str, Tensor] = {}

    def inputs(self, indices: Tensor, epoch: int) -> tuple[Inputs, Inputs]:
        """Return noisy float32 images in [-1, 1] of both modalities."""
        if self.device.type != "cpu":
            self._make(epoch)
        if self._made:
            teacher, student = (self._made[name].index_select(0, indices) for name in self.images)
            return teacher, student
        return self._noisy("teacher", indices, epoch), self._noisy("student", indices, epoch)

    def _make(self, epoch: int) -> None:
        """Make the noisy images of an epoch, unless there is no room for them."""
        if epoch == self._epoch:
            return
        self._epoch, self._made = epoch, {}  # the last epoch's make room
        needed = sum(4 * images.numel() for images in self.images.values())
        if needed < RESIDENT_SHARE * free_bytes(self.device):
            every = torch.arange(len(self), device=self.device)
            self._made = {name: self._noisy(name, every, epoch) for name in self.images}

    def _noisy(self, modality: str, indices: Tensor, epoch: int) -> Tensor:
        size = _BLOCK if self.device.type == "cpu" else len(indices)
        parts = [self._block(modality, part, epoch) for part in blocks(indices, size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _block(self, modality: str, indices: Tensor, epoch: int) -> Tensor:
        level = self.levels[modality]
        images = self.images[modality].index_select(0, indices)  # 30 times as fast as [indices]
        if not level:
            return add_noise(images, 0, None)
        shape = tuple(images.shape[1:])
        noise = uniform(self.seed, f"{self.purpose}/{modality}", epoch, indices, shape)
        return add_noise(images, level, noise)


class MNISTPairDataModule(FilePairs):
    """MNIST (teacher) and MNIST-M (student), pairs of the same digit.

    The teacher's input is float32 (B, 1, 28, 28), the student's the same (``grey``: ITU-R BT.601
    luma) or (B, 3, 28, 28) (``rgb``), both in [-1, 1] after uniform noise. Training noise is new
    in every epoch and derived from (seed, epoch, sample); that of validation and test samples is
    fixed by ``data_seed``, so that every run is tested on the same pixels, as are MNIST-M itself
    and the validation split (stratified by digit).

    ``mnist/`` is read in torchvision's layout, ``bsds500/`` or the MNIST-M archive in the published
    one; the built MNIST-M is kept in the cache.

    Source: LeCun et al. 1998; Ganin and Lempitsky 2015; noise as in the authors' experiment.

    Args:
        teacher_noise: noise level on MNIST, at least 0.
        student_noise: noise level on MNIST-M, at least 0.
        student_input: ``grey`` (784 values) or ``rgb``.
        mnist_m: ``build`` from photographs, or read the published ``archive``; the archive is
            shorter than MNIST, of which the first as many are used then.
        val_size: validation samples taken from the training split; 0 for none; default a tenth
            (6,000 of MNIST's 60,000).
        batch_size: samples per step; None for full-batch training.
        simulated_train: training samples of the simulated source.
        simulated_test: test samples of the simulated source.
        classes: digits in use, 2 to 10: the first so many (0, 1, ...).
        shared: of :class:`.files.FilePairs`.

    Raises:
        UserError: an argument is out of range; at ``setup``, files are missing or broken.
    """

    name = "mnist"
    normalisation = "pixels / 255, plus noise, clipped to [0, 1]; then (x - 0.5) / 0.5"
    aligned = True

    def __init__(
        self,
        teacher_noise: float = 4.0,
        student_noise: float = 1.0,
        student_input: Literal["grey", "rgb"] = "grey",
        mnist_m: Literal["build", "archive"] = "build",
        val_size: int | None = None,
        batch_size: int | None = 128,
        simulated_train: int = 4000,
        simulated_test: int = 1000,
        classes: int = 10,
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        check_within("data.classes", classes, 2, 10)
        check_within("data.teacher_noise", teacher_noise, 0, 1e6)
        check_within("data.student_noise", student_noise, 0, 1e6)
        check_at_least("data.val_size", val_size, 0)
        check_within("data.simulated_train", simulated_train, 1, MAX_COUNT)
        check_within("data.simulated_test", simulated_test, 1, MAX_COUNT)
        check_choice("data.student_input", student_input, ("grey", "rgb"))
        check_choice("data.mnist_m", mnist_m, ("build", "archive"))
        if self.source == "simulated" and mnist_m == "archive":
            raise UserError("data.source simulated has no archive: set data.mnist_m to build")
        self.num_classes = classes
        self.levels = (teacher_noise, student_noise)
        self.rgb = student_input == "rgb"
        self.mnist_m = mnist_m
        self.val_size = val_size
        self.simulated_sizes = (simulated_train, simulated_test)
        self._files: dict[str, str] = {}

    def load(self) -> dict[Split, PairedDataset]:
        """Read the pairs, hold out the validation samples and fix their noise."""
        root = self.locate()
        teacher, student, target = self._pairs(root, "train")
        if self.val_size is None:
            self.val_size = len(target) // 10
        chosen = stratified(target, self.val_size, self.data_seed)
        kept = torch.ones(len(target), dtype=torch.bool)
        kept[chosen] = False
        train = kept.nonzero().flatten()
        splits: dict[Split, PairedDataset] = {
            "train": NoisyPairs(
                teacher[train], student[train], target[train], self.levels, self.seed
            )
        }
        if self.val_size:
            splits["val"] = self._fixed("val", teacher[chosen], student[chosen], target[chosen])
        splits["test"] = self._fixed("test", *self._pairs(root, "test"))
        return splits

    def folders(self, root: Path) -> list[Path]:
        """Return the folders of MNIST, and of the photographs or the archive."""
        inside = PHOTO_FOLDER if self.mnist_m == "build" else ARCHIVE_FOLDER
        return [root / IDX_FOLDER, root / inside]

    def simulation(self) -> tuple[dict[str, Any], Callable[..., None]]:
        """Return the numbers of simulated digits, and what writes them."""
        train, test = self.simulated_sizes
        return {"train": train, "test": test}, partial(write_simulated, train=train, test=test)

    def _fixed(self, split: str, teacher: Tensor, student: Tensor, target: Tensor) -> TensorPairs:
        """Return pairs with the noise of epoch 0, made once and kept."""
        purpose = f"noise/{split}"
        noisy = NoisyPairs(teacher, student, target, self.levels, self.data_seed, purpose).whole(0)
        return TensorPairs(noisy["teacher"], noisy["student"], target)

    def _pairs(self, root: Path, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return uint8 MNIST and MNIST-M images and int64 digits of a published split."""
        images_file, labels_file = idx_file(root, split, "images"), idx_file(root, split, "labels")
        digits, labels = read_images(images_file), read_labels(labels_file)
        if len(digits) != len(labels):
            raise UserError(
                f"{labels_file}: {len(labels)} labels, but {images_file} has {len(digits)} images; "
                "get both again with `ntdh-bench data prepare mnist`"
            )
        if not len(digits):
            raise UserError(f"{images_file}: no images; get it again")
        self._files |= content_digests([images_file, labels_file], root)
        if self.mnist_m == "build":
            blended = self._built(root, split, digits)
        else:
            blended = self._archived(root, split, labels)
        count = len(blended)
        pairs = (
            torch.from_numpy(digits[:count])[:, None],
            torch.from_numpy(blended),
            torch.from_numpy(labels[:count].astype(np.int64)),
        )
        if self.num_classes == 10:
            return pairs
        used = (pairs[2] < self.num_classes).nonzero().flatten()
        return pairs[0][used], pairs[1][used], pairs[2][used]

    def _built(self, root: Path, split: str, digits: Bytes) -> Bytes:
        """Return MNIST-M of a split from the cache, built there first if it is not yet."""
        paths = photographs(root)
        photo_digests = {name: content_digests(paths[name], root) for name in paths}
        shared = set(photo_digests["train"].values()) & set(photo_digests["test"].values())
        if shared:
            raise UserError(
                f"{root / PHOTO_FOLDER}: {len(shared)} training photographs are test photographs "
                "as well, so test backgrounds would be trained on; get BSDS500 again with "
                "`ntdh-bench data prepare mnist`"
            )
        used = [idx_file(root, split, "images"), *paths[split]]
        files = content_digests(used, root)
        key = digest({"files": files, "rgb": self.rgb, "seed": self.data_seed, "version": 1})
        self._files |= files
        return self._cached(
            f"{split}-{key}",
            len(digits),
            lambda: build_mnist_m(
                digits, paths[split], rgb=self.rgb, data_seed=self.data_seed, split=split
            ),
        )

    def _archived(self, root: Path, split: str, labels: Bytes) -> Bytes:
        """Return the archive's images, whose labels must be those of MNIST's first images."""
        listed = archive_files(root, split)
        wrong = [
            number
            for number, (_, label) in enumerate(listed)
            if number >= len(labels) or label != labels[number]
        ]
        if wrong or not listed:
            what = f"image {wrong[0]} has another label than MNIST's" if wrong else "no images"
            raise UserError(
                f"{root / ARCHIVE_FOLDER}: {what} in the {split} split, so these are not pairs; "
                "unpack the published archive again, or use `--data.mnist_m build`"
            )
        paths = [path for path, _ in listed]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing ({len(missing)} images in all); unpack again")
        files = content_digests(paths, root)
        key = digest({"files": files, "rgb": self.rgb, "version": 1})
        self._files[f"archive-{split}"] = digest(files)
        name = f"archive-{split}-{key}"
        return self._cached(name, len(paths), lambda: read_archive(paths, rgb=self.rgb))

    def _cached(self, name: str, count: int, make: Callable[[], Bytes]) -> Bytes:
        """Return ``count`` images, mapped, not read: the splits copy what they need."""
        path = self.cache_dir / "mnist_m" / f"{name}.npy"
        build_once(path, lambda target: np.save(target, make(), allow_pickle=False))
        return map_npy(path, Spec("u", (count, 3 if self.rgb else 1, SIDE, SIDE), 1), _REBUILT)

    def identity(self) -> dict[str, Any]:
        """Return file digests and parameters; the run's seed counts if there is training noise."""
        return {
            "files": self._files,
            "mnist_m": self.mnist_m,
            "rgb": self.rgb,
            "levels": [float(level) for level in self.levels],
            "val_size": self.val_size,
            "classes": self.num_classes,
            "data_seed": self.data_seed,
            "seed": self.seed if any(self.levels) else None,
        }
