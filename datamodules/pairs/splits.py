"""Which samples of a file are for training, validation and testing."""

from __future__ import annotations

import torch
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.errors import UserError
from ntdh_bench.seeding import derive_seed, generator

from ..paired import stratified
from .arrays import TEST, TRAIN, VAL, PairedArrays

_REMEDY = (
    "change data.test_fraction, data.val_fraction or data.data_seed, or the file's own split and "
    "groups"
)


def split_rows(
    arrays: PairedArrays, test_fraction: float, val_fraction: float, seed: int
) -> dict[Split, Tensor]:
    """Return the positions of each split, int64.

    The file's own split is taken where it has one. Else test samples are drawn: whole groups where
    there are groups. Validation samples are drawn from the training samples in the way in which the
    test samples differ from these: whole groups if no group is in both, else stratified by class.

    Args:
        arrays: of the file.
        test_fraction: share of the samples (or groups) for testing, in (0, 1), if the file has no
            split.
        val_fraction: share of the training samples (or groups) for validation, in [0, 1), if the
            file has no validation samples; 0: none.
        seed: of what is drawn.

    Raises:
        UserError: a split is empty, or a class has no training samples.
    """
    target = torch.from_numpy(arrays.target)
    group = None if arrays.group is None else torch.from_numpy(arrays.group)
    if arrays.split is None:
        rest, test = _divided(target, group, test_fraction, seed, "test")
        rows: dict[Split, Tensor] = {"train": rest, "test": test}
    else:
        part = torch.from_numpy(arrays.split)
        names: dict[Split, int] = {"train": TRAIN, "test": TEST, "val": VAL}
        rows = {name: (part == number).nonzero().flatten() for name, number in names.items()}
        if not len(rows["val"]):
            del rows["val"]
    _check_filled(rows)
    if val_fraction and "val" not in rows:
        train = rows["train"]
        apart = group is not None and not torch.isin(group[rows["test"]], group[train]).any()
        groups = group[train] if group is not None and apart else None
        rest, val = _divided(target[train], groups, val_fraction, seed, "validation")
        rows |= {"train": train[rest], "val": train[val]}
    _check_filled(rows)
    if lacking := set(target.tolist()) - set(target[rows["train"]].tolist()):
        classes = arrays.class_names or range(arrays.num_classes)
        raise UserError(f"class {classes[min(lacking)]!r:.40} has no training samples: {_REMEDY}")
    return rows


def _divided(
    target: Tensor, group: Tensor | None, fraction: float, seed: int, purpose: str
) -> tuple[Tensor, Tensor]:
    """Return the positions that stay, and those held out: whole groups, or stratified by class."""
    if group is None:
        size = max(1, round(fraction * len(target)))
        if size >= len(target):
            raise UserError(f"the {purpose} split leaves no training samples: {_REMEDY}")
        out = stratified(target, size, derive_seed(seed, f"pairs/{purpose}"))
        held = torch.zeros(len(target), dtype=torch.bool)
        held[out] = True
    else:
        groups = torch.unique(group)
        order = torch.randperm(len(groups), generator=generator(seed, f"pairs/{purpose}"))
        size = max(1, round(fraction * len(groups)))
        held = torch.isin(group, groups[order[:size]])
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _check_filled(rows: dict[Split, Tensor]) -> None:
    for name, positions in rows.items():
        if not len(positions):
            raise UserError(f"the {name} split is empty: {_REMEDY}")
