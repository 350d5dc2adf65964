"""What every data module shares: paired splits in tensors, fetched a batch at a time."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ntdh_bench.batch import (
    Inputs,
    Modality,
    PairedBatch,
    PairedData,
    Split,
    TeacherInputs,
    both_inputs,
    tensors_of,
)
from ntdh_bench.cache import digest
from ntdh_bench.errors import UserError
from ntdh_bench.networks import to_device
from ntdh_bench.ranges import check_at_least
from ntdh_bench.seeding import generator

IGNORE_INDEX = 255
#: Most that a split may take of the memory that is free on a device: the rest is for networks and
#: activations, also of runs beside this one.
RESIDENT_SHARE = 0.25
_CPU = torch.device("cpu")


class Request(NamedTuple):
    """One batch to fetch.

    It carries its epoch, so that a worker process, which holds a copy of the data set, makes the
    noise of the right epoch. ``indices`` is int64 ``(B,)`` or None for the whole split in order;
    ``-(i + 1)`` asks for sample i as padding, with its target ignored.
    """

    epoch: int
    indices: Tensor | None


class PairedDataset(Dataset[PairedBatch], ABC):
    """One split of paired samples; its keys are :class:`Request`, not single positions."""

    ignore_index = IGNORE_INDEX
    #: whether a position gives the same inputs of this modality in every epoch
    teacher_fixed = True
    student_fixed = True
    #: whether the teacher is given the student's inputs
    unimodal = False
    #: whether the teacher is given the inputs of both modalities
    teacher_inputs: TeacherInputs = "own"
    #: attributes, tensors or dicts of them, that all samples are made of by operations of any
    #: device; none: samples are read from files, or made on the CPU
    held: ClassVar[tuple[str, ...]] = ()
    #: where samples are made
    device = _CPU

    @property
    def held_bytes(self) -> int:
        """Size of what is held in memory; 0 if samples can be made on the CPU alone."""
        return sum(
            tensor.nbytes for name in self.held for tensor in tensors_of(getattr(self, name))
        )

    def on(self, device: torch.device) -> PairedDataset:
        """Return the same samples, which are held and made on ``device``."""
        moved = copy.copy(self)
        for name in self.held:
            setattr(moved, name, to_device(getattr(self, name), device))
        moved.device = device
        return moved

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def samples(self, indices: Tensor, epoch: int) -> PairedBatch:
        """Return the samples ``indices``, int64 (B,), which lie where they are made.

        Each sample may depend on its position and the epoch only, never on the rest of the batch.
        """

    def whole(self, epoch: int) -> PairedBatch:
        """Return all samples in order."""
        return self.samples(torch.arange(len(self), device=self.device), epoch)

    def __getitem__(self, request: Request) -> PairedBatch:
        epoch, indices = request
        if indices is None:
            batch = self.whole(epoch)
        else:
            padding = indices < 0
            positions = torch.where(padding, -indices - 1, indices)
            # Small enough for the device to copy it while this goes on.
            batch = self.samples(positions.to(self.device, non_blocking=True), epoch)
            if padding.any():
                self._ignore(batch, padding.to(self.device))
        if self.unimodal:
            batch["teacher"] = batch["student"]
        elif self.teacher_inputs == "both":
            batch["teacher"] = both_inputs(batch["teacher"], batch["student"])
        return batch

    def _ignore(self, batch: PairedBatch, padding: Tensor) -> None:
        batch["target"][padding] = self.ignore_index
        if "points" in batch:
            points = batch["points"]
            points["target"][padding[points["scan"]]] = self.ignore_index


class LabelledPairs(PairedDataset):
    """Paired samples whose targets are held in memory.

    Args:
        target: int64 ``(N,)`` or ``(N, *spatial)``.
        ignore_index: the target of padding.
    """

    def __init__(self, target: Tensor, ignore_index: int = IGNORE_INDEX) -> None:
        self.target = target
        self.ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self.target)

    @abstractmethod
    def inputs(self, indices: Tensor, epoch: int) -> tuple[Inputs, Inputs]:
        """Return the teacher's and the student's inputs ``(B, ...)`` at ``indices``.

        Each sample may depend on its position and the epoch only, never on the rest of the batch.
        """

    def samples(self, indices: Tensor, epoch: int) -> PairedBatch:
        """Return inputs and the stored targets."""
        teacher, student = self.inputs(indices, epoch)
        target = self.target.index_select(0, indices)
        return PairedBatch(teacher=teacher, student=student, target=target, index=indices)


class TensorPairs(LabelledPairs):
    """Paired samples held as they are fed to the networks.

    Args:
        teacher: float32 ``(N, ...)``, or a dict of such tensors.
        student: likewise.
        target: int64 ``(N,)`` or ``(N, *spatial)``.
        ignore_index: the target of padding.
    """

    held = ("teacher", "student", "target")

    def __init__(
        self, teacher: Inputs, student: Inputs, target: Tensor, ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__(target, ignore_index)
        self.teacher = teacher
        self.student = student

    def inputs(self, indices: Tensor, epoch: int) -> tuple[Inputs, Inputs]:
        """Return the rows asked for."""
        return _rows(self.teacher, indices), _rows(self.student, indices)

    def whole(self, epoch: int) -> PairedBatch:
        """Return the stored tensors themselves."""
        index = torch.arange(len(self), device=self.device)
        return PairedBatch(
            teacher=self.teacher, student=self.student, target=self.target, index=index
        )


def _rows(inputs: Inputs, indices: Tensor) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs.index_select(0, indices)
    return {name: value.index_select(0, indices) for name, value in inputs.items()}


def blocks(indices: Tensor, size: int) -> Iterator[Tensor]:
    """Yield ``indices`` (N,) in pieces of ``size``, the last one shorter."""
    return (indices[first : first + size] for first in range(0, len(indices), size))


class RequestSampler(DistributedSampler[Request]):
    """Yields one :class:`Request` per batch of this rank; every rank gets as many of each size.

    The order of an epoch is derived from (seed, epoch), so that resuming repeats it. Where the
    ranks do not divide the split, a shuffled order wraps around; an unshuffled one is padded with
    samples marked as padding, so that metrics do not count them twice.

    It is a ``DistributedSampler`` because Lightning leaves those alone.

    Args:
        size: number of samples in the split.
        batch_size: samples per batch and rank, or None for the whole share of the rank.
        shuffle: new order in every epoch.
        seed: of the order.
        rank: of this process, in [0, world_size).
        world_size: number of processes.
        repeats: how often an epoch goes over the split.
    """

    def __init__(
        self,
        size: int,
        batch_size: int | None,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
    ) -> None:
        positions: Any = range(size)
        super().__init__(positions, world_size, rank, shuffle, seed)
        self.size = size
        self.batch_size = batch_size
        self.repeats = repeats

    def __iter__(self) -> Iterator[Request]:
        for _ in range(self.repeats):
            if self.batch_size is None and self.num_replicas == 1:
                yield Request(self.epoch, None)  # order means nothing to a full batch: no copy
                continue
            for indices in blocks(self._share(), self.batch_size or self.num_samples):
                yield Request(self.epoch, indices)

    def __len__(self) -> int:
        batch_size = self.batch_size or self.num_samples
        return self.repeats * -(-self.num_samples // batch_size)

    def _share(self) -> Tensor:
        """Return this rank's indices of the epoch."""
        if self.shuffle:
            order = torch.randperm(self.size, generator=generator(self.seed, "shuffle", self.epoch))
        else:
            order = torch.arange(self.size)
        missing = self.total_size - self.size
        if missing:
            extra = order.repeat(-(-missing // self.size))[:missing]
            order = torch.cat([order, extra if self.shuffle else -(extra + 1)])
        return order[self.rank :: self.num_replicas]


class PairedDataModule(LightningDataModule, PairedData, ABC):
    """Base of all data modules: splits, loaders, and what identifies the data.

    A subclass sets ``name`` and ``num_classes`` and implements :meth:`load` and :meth:`identity`.
    After ``setup``: ``source`` is ``"real"`` or ``"simulated"``, ``num_train`` the size of the
    training split. While a Trainer uses it on a GPU, splits that fit there lie there, and batches
    are made there; without ``num_workers``.

    Args:
        batch_size: samples per step (and process), or None for the whole training split.
        seed: of the order of training samples and of what is drawn in training (the run's seed).
        num_workers: processes that prepare batches; results do not depend on it.
        unimodal: give the teacher the student's inputs: unimodal KD (the paper's Eq. 11).

    Raises:
        UserError: an argument is out of range, or (at ``setup``) larger than the data.
    """

    name: str
    source = "real"
    ignore_index = IGNORE_INDEX
    #: how often a training epoch goes over the split
    repeats = 1

    def __init__(
        self,
        batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        unimodal: bool = False,
    ) -> None:
        super().__init__()
        check_at_least("data.batch_size", batch_size, 1)
        check_at_least("data.num_workers", num_workers, 0)
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.unimodal = unimodal
        self._teacher_inputs: TeacherInputs = "own"
        self.splits: dict[Split, PairedDataset] = {}
        self._device = _CPU
        self._placed: dict[tuple[Split, torch.device], PairedDataset] = {}

    @property
    def teacher_inputs(self) -> TeacherInputs:
        """What batches hold for the teacher: inputs of its own modality, or of ``both``.

        Set before :meth:`setup`. It is no part of the :attr:`fingerprint`: the student sees the
        same, and what it learns without a teacher goes for teachers of either kind.

        Raises:
            UserError: the teacher is to have the student's inputs alone.
        """
        return self._teacher_inputs

    @teacher_inputs.setter
    def teacher_inputs(self, value: TeacherInputs) -> None:
        if value == "both" and self.unimodal:
            raise UserError(
                "data.unimodal gives the teacher the student's inputs alone, but the model wants "
                "those of both modalities: leave data.unimodal out, or set model.teacher_inputs "
                "to own"
            )
        self._teacher_inputs = value

    @abstractmethod
    def load(self) -> dict[Split, PairedDataset]:
        """Read the data, set ``source``, and return the splits: train, test, and val if any."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return plain values that change whenever the data do (called after :meth:`load`)."""

    def setup(self, stage: str | None = None) -> None:
        """Load all splits, once; for a Trainer, make batches where it computes (Lightning hook).

        Raises:
            UserError: data are missing or broken, or ``batch_size`` is larger than the data.
        """
        if not self.splits:
            self._load_once()
        if stage is not None and self.trainer is not None:
            self.place(self.trainer.strategy.root_device)

    def teardown(self, stage: str) -> None:
        """Make batches on the CPU again (Lightning hook)."""
        self.place(_CPU)

    def place(self, device: torch.device) -> None:
        """Make batches on ``device`` from now on, those of splits that fit there.

        A split is copied there at its first use, and the copy stays for later ones.
        """
        self._device = device

    def _load_once(self) -> None:
        splits = self.load()
        size = len(splits["train"])
        if self.batch_size is not None and self.batch_size > size:
            raise UserError(
                f"data.batch_size is {self.batch_size}, but there are only {size} training "
                f"samples: choose at most {size}"
            )
        for split in splits.values():
            split.unimodal = self.unimodal
            split.teacher_inputs = self.teacher_inputs
        self.splits = splits

    def needs(self, modality: Modality) -> bool:
        """Return whether files of a modality are needed; what is not needed may be empty."""
        return modality == ("student" if self.unimodal else self.modality or modality)

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self._split("train"))

    def split_size(self, split: Split) -> int:
        """Return the number of samples of a split."""
        return len(self._split(split))

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""
        self._split("train")
        return "val" in self.splits

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify the data: every input file and parameter that changes it."""
        self._split("train")
        modalities = {"unimodal": True} if self.unimodal else {}
        return digest({"name": self.name, "source": self.source, **modalities, **self.identity()})

    def cacheable(self, split: Split) -> bool:
        """Return whether a position of ``split`` gives the teacher the same in every epoch."""
        dataset = self._split(split)
        if self.teacher_inputs == "both":
            return self.both_cacheable(split)
        return dataset.student_fixed if self.unimodal else dataset.teacher_fixed

    def both_cacheable(self, split: Split) -> bool:
        """Return whether a position of ``split`` gives both networks the same in every epoch."""
        dataset = self._split(split)
        return dataset.teacher_fixed and dataset.student_fixed

    def batches(
        self, split: Split, batch_size: int | None = None, epoch: int = 0
    ) -> Iterator[PairedBatch]:
        """Yield all samples of ``split`` in index order, whatever the number of processes.

        While a Trainer is at work, they may lie on its device.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            batch_size: None means the data module's own.
            epoch: whose training noise to give.

        Raises:
            UserError: there is no such split.
        """
        dataset = self._in_place(split)
        sampler = RequestSampler(len(dataset), batch_size or self.batch_size, shuffle=False)
        sampler.set_epoch(epoch)
        return (dataset[request] for request in sampler)

    def train_dataloader(self) -> DataLoader[PairedBatch]:
        """Return shuffled training batches, in an order derived from (seed, epoch)."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[PairedBatch] | list[Any]:
        """Return validation batches in order; an empty list if there is no such split."""
        if self.has_validation:
            return self._loader("val")
        # Lightning asks whether this is meant. It is.
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        return []

    def test_dataloader(self) -> DataLoader[PairedBatch]:
        """Return test batches in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[PairedBatch]:
        """Return the test batches."""
        return self._loader("test")

    def _split(self, split: Split) -> PairedDataset:
        self.setup()
        if split not in self.splits:
            there = ", ".join(self.splits)
            raise UserError(f"{self.name} has no {split!r} split: choose one of {there}")
        return self.splits[split]

    def _in_place(self, split: Split) -> PairedDataset:
        """Return a split, held on the device in use where it fits there, else as it was loaded."""
        dataset, device = self._split(split), self._device
        if device.type == "cpu" or self.num_workers:  # workers have no part in a GPU
            return dataset
        if (split, device) not in self._placed:
            fits = 0 < dataset.held_bytes <= RESIDENT_SHARE * free_bytes(device)
            self._placed[split, device] = dataset.on(device) if fits else dataset
        return self._placed[split, device]

    def _loader(self, split: Split, shuffle: bool = False) -> DataLoader[PairedBatch]:
        dataset = self._in_place(split)
        sampler = RequestSampler(
            len(dataset),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
            repeats=self.repeats if split == "train" else 1,
        )
        requests: Any = sampler  # DataLoader's types know sampled positions only
        as_it_is: Any = _as_it_is
        return DataLoader(
            dataset,
            batch_size=None,  # a request is a batch already
            sampler=requests,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            persistent_workers=self.num_workers > 0,
            # Else every iterator draws from the global generator, a resumed run at another moment.
            generator=generator(self.seed, "loader"),
        )


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device is free; 0 where that is not known."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _as_it_is(batch: PairedBatch) -> PairedBatch:
    return batch


def stratified(target: Tensor, size: int, seed: int) -> Tensor:
    """Choose ``size`` positions with the class shares of ``target``: int64 (size,), sorted.

    Each class gives its share rounded down; what is then missing comes from the classes with the
    largest remainders.

    Args:
        target: int64 (N,).
        size: in [0, N).
        seed: of the choice.

    Raises:
        UserError: ``size`` leaves nothing.
    """
    if size >= len(target):
        raise UserError(
            f"{size} samples are to be held out, but there are only {len(target)} to take them "
            f"from: hold out less than {len(target)} (data.val_size, where there is one)"
        )
    shares = torch.bincount(target).double() * size / len(target)
    counts = shares.floor().long()
    largest = (shares - counts).argsort(descending=True, stable=True)
    counts[largest[: size - int(counts.sum())]] += 1
    order = torch.randperm(len(target), generator=generator(seed, "validation split"))
    shuffled = target[order]
    parts = [
        order[shuffled == label][:count] for label, count in enumerate(counts.tolist()) if count
    ]
    return torch.cat(parts).sort().values if parts else torch.empty(0, dtype=torch.int64)
