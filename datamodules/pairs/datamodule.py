"""Any two modalities of one ``.npz``: of a published set, or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.datasets import dataset_names, find_dataset
from ntdh_bench.errors import FileError, UserError
from ntdh_bench.notices import notice
from ntdh_bench.ranges import check_within

from ..files import FilePairs
from ..paired import PairedDataset, TensorPairs
from ..scaling import STANDARDISED, standardised
from .arrays import PairedArrays, array_names, read_arrays
from .published import FOLDER, PublishedSet, npz_of, write_simulated
from .splits import split_rows


class PairedVectorsDataModule(FilePairs):
    """Two modalities of one ``.npz`` whose rows are paired: vectors, series or small images.

    Inputs are float32: vectors ``(B, D)``, series ``(B, T, C)``, images ``(B, C, H, W)``, scaled to
    mean 0 and deviation 1 over the training samples: each feature of a vector, channel of a series
    (its last dimension) or channel of an image by itself.

    The file's own split is kept. Without one, a share of the samples is drawn for testing, whole
    groups (subjects) where the file has groups. Validation samples are drawn from the training
    samples: whole groups if test samples are of other groups than training samples, else
    stratified by class.

    Args:
        dataset: a published set, ``<root>/pairs/<dataset>.npz``: see ``ntdh-bench data list``. The
            default is an example that is always simulated.
        file: a ``.npz`` of your own in its place: an array ``(N, ...)`` a modality, and the targets
            ``(N,)``, numbers or words.
        teacher: name of the teacher's array; by default the first of the set.
        student: name of the student's array; by default the second of the set.
        target: name of the array of classes.
        split: of an array ``(N,)`` of 0 (train), 1 (test), 2 (val) or these words; null: drawn.
        group: of an array ``(N,)`` of what samples have in common, a subject; null: none.
        images: modalities whose arrays ``(N, H, W)`` or ``(N, C, H, W)`` are images; by default
            those of the set.
        aligned: whether a place (of series a time) in one modality is the same place in the other:
            then methods may compare maps.
        test_fraction: share of the samples or groups for testing where the file has no split.
        val_fraction: share of the training samples or groups for validation where the file has no
            validation samples; 0: none.
        batch_size: samples per step; None for full-batch training.
        shared: of :class:`.files.FilePairs`.

    Raises:
        UserError: an argument is out of range or does not go with the others; at ``setup``, the
            file is missing or broken, or a class has no training samples.
    """

    normalisation = STANDARDISED

    def __init__(
        self,
        dataset: str = "pairs",
        file: str | None = None,
        teacher: str | None = None,
        student: str | None = None,
        target: str = "target",
        split: str | None = "split",
        group: str | None = "group",
        images: Sequence[str] | None = None,
        aligned: bool = False,
        test_fraction: float = 0.3,
        val_fraction: float = 0.2,
        batch_size: int | None = 64,
        **shared: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **shared)
        check_within("data.test_fraction", test_fraction, 0, 1)
        check_within("data.val_fraction", val_fraction, 0, 1)
        self.published = _published(dataset) if file is None else None
        self.file = None if file is None else Path(file).expanduser()
        if self.file is not None and self.source == "simulated":
            raise UserError(
                f"data.source simulated makes files of a published set, but data.file is "
                f"{self.file}: leave one of them out"
            )
        if self.published and not self.published.folders and self.root is None:
            self.source = "simulated"  # the example has no files that could be had
        self.modalities = self._pair(teacher, student)
        known = () if self.published is None else self.published.images
        self.images = tuple(known if images is None else images)
        self.target, self.split, self.group = target, split, group
        self.aligned = aligned
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction
        self._content = ""

    def _pair(self, teacher: str | None, student: str | None) -> tuple[str, str]:
        known = () if self.published is None else self.published.modalities
        first, second = (*known, None, None)[:2]
        names = teacher or first, student or second
        for side, name in zip(("teacher", "student"), names, strict=True):
            if name is None:
                raise UserError(f"data.{side} is missing: name an array of {self.file}")
            if known and name not in known:
                raise UserError(
                    f"data.{side} is {name!r}, which {self.name} lacks: choose one of "
                    f"{', '.join(known)}"
                )
        return str(names[0]), str(names[1])

    @property
    def name(self) -> str:  # type: ignore[override]
        """Of the published set, or of the file: with its ending where a set is called as it is."""
        if self.file is None:
            assert self.published is not None  # see the constructor
            return self.published.name
        return self.file.name if self.file.stem in dataset_names() else self.file.stem

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Of the published set, or of the file, which is read for it."""
        return len(self.class_names)

    @property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]
        """Of the published set, or the values of the file's targets."""
        return self.published.class_names if self.published else self._table.class_names

    def folders(self, root: Path) -> list[Path]:
        """Return the folder of the file."""
        return [self.file.parent if self.file else root / FOLDER]

    def simulation(self) -> tuple[dict[str, Any], Callable[..., None]]:
        """Return what simulated files depend on, and what writes them."""
        assert self.published is not None  # see the constructor
        info = self.published
        return {}, partial(write_simulated, name=info.name, read=info.read, write=info.write)

    @cached_property
    def _table(self) -> PairedArrays:
        """The arrays that are used."""
        root = self.locate()
        path = self.file or npz_of(root, self.name)
        if self.published and not path.exists():
            raise FileError(
                f"{path} is missing: {self.published.how_to_get}; or use --data.source simulated"
            )
        used = tuple(dict.fromkeys(self.modalities))
        table = read_arrays(path, used, self.target, self.split, self.group)
        known = self.published.modalities if self.published else array_names(path)
        if strange := sorted({*self.images} - {*used, *known}):
            raise UserError(f"data.images names {strange[0]!r:.40}, which {path} lacks")
        return table

    def load(self) -> dict[Split, PairedDataset]:
        """Read the file and return its splits."""
        table = self._table
        if self.published and table.num_classes != self.num_classes:
            raise UserError(
                f"{self.name} has {self.num_classes} classes, its file {table.num_classes}: "
                f"move it away and prepare it again (`ntdh-bench data prepare {self.name}`)"
            )
        if self.file and table.split is None:
            notice(f"{self.file} has no split: {self.test_fraction:.0%} are drawn for testing")
        rows = split_rows(table, self.test_fraction, self.val_fraction, self.data_seed)
        teacher, student = (self._scaled(name, rows["train"]) for name in self.modalities)
        target = torch.from_numpy(table.target)
        self._content = _content(table)
        return {
            split: TensorPairs(teacher[index], student[index], target[index])
            for split, index in rows.items()
        }

    def _scaled(self, name: str, train: Tensor) -> Tensor:
        values = self._table.modalities[name]
        if name not in self.images:
            values = values[:, None] if values.ndim == 1 else values
            return self._finite(name, standardised(values, train, -1))
        if values.ndim not in (3, 4):
            raise UserError(
                f"data.images names {name!r}, whose samples have the shape {values.shape[1:]}, "
                "expected (H, W) or (C, H, W): leave it out"
            )
        values = values[:, None] if values.ndim == 3 else values
        return self._finite(name, standardised(values, train, 1))

    def _finite(self, name: str, scaled: Tensor) -> Tensor:
        if not scaled.isfinite().all():
            raise UserError(
                f"{self.name}: {name!r:.40} has samples too far from all training samples to be "
                "scaled by these: look for damaged ones"
            )
        return scaled

    def identity(self) -> dict[str, Any]:
        """Return a digest of the arrays, and what chooses samples from them."""
        return {
            "content": self._content,
            "modalities": self.modalities,
            "images": [name for name in self.images if name in self.modalities],
            "test_fraction": self.test_fraction if self._table.split is None else None,
            "val_fraction": self.val_fraction,
            "data_seed": self.data_seed,
        }


def _published(name: str) -> PublishedSet:
    info = find_dataset(name)
    if not isinstance(info, PublishedSet):
        raise UserError(
            f"data.dataset {name!r} is no set of paired arrays: it has a data module of its own"
        )
    return info


def _content(table: PairedArrays) -> str:
    """Return a digest of all that is used of the file."""
    arrays: dict[str, NDArray[Any] | None] = {
        **table.modalities, "target": table.target, "split": table.split, "group": table.group,
    }  # fmt: skip
    content = hashlib.sha256()
    for name, array in arrays.items():
        if array is not None:
            content.update(f"{name} {array.dtype} {array.shape}".encode())
            content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:16]
