"""Which clips are for training, validation and testing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.errors import UserError
from ntdh_bench.seeding import derive_seed

from ..paired import stratified
from .names import ClipName

TEST_SHARE, VAL_SHARE = 0.2, 0.1  # of all clips, in `random_split`

#: The actors of each part of the split ``actor``.
ACTOR_PARTS: dict[Split, list[int]] = {
    split: sorted(numbers)
    for split, numbers in yaml.safe_load(
        Path(__file__).with_name("splits.yaml").read_text(encoding="utf-8")
    ).items()
}


def actor_split(names: Sequence[ClipName]) -> dict[Split, Tensor]:
    """Return the positions of each part, int64, with no actor in two of them.

    Raises:
        UserError: a part is empty.
    """
    actor = torch.tensor([name.actor for name in names])
    rows = {
        split: torch.isin(actor, torch.tensor(numbers)).nonzero().flatten()
        for split, numbers in ACTOR_PARTS.items()
    }
    for split, positions in rows.items():
        if not len(positions):
            needed = ", ".join(map(str, ACTOR_PARTS[split]))
            raise UserError(
                f"data.split actor: there are no clips for the {split} part, the actors {needed}; "
                "add them, or use `--data.split random`"
            )
    return rows


def random_split(target: Tensor, groups: Tensor, seed: int) -> dict[Split, Tensor]:
    """Return the positions of each part, int64, each with the class shares of all clips.

    Actors, statements and repetitions are in all parts, as the paper's accuracies suggest of its
    own split: speakers are known, which makes the task easier.

    Args:
        target: int64 (N,).
        groups: int64 (N,); clips of a group (copies of each other) stay together.
        seed: of the choice.

    Raises:
        UserError: there are too few clips.
    """
    member = torch.unique(groups, return_inverse=True)[1]
    size = int(member.max()) + 1
    first = torch.full((size,), len(groups)).scatter_reduce(
        0, member, torch.arange(len(groups)), "amin"
    )
    label = target[first]
    test = stratified(label, round(TEST_SHARE * size), derive_seed(seed, "test split"))
    part = torch.zeros(size, dtype=torch.int64)
    part[test] = 2
    rest = (part == 0).nonzero().flatten()
    val = stratified(label[rest], round(VAL_SHARE * size), derive_seed(seed, "val split"))
    part[rest[val]] = 1
    names: tuple[Split, ...] = ("train", "val", "test")
    rows = {name: (part[member] == n).nonzero().flatten() for n, name in enumerate(names)}
    if not all(len(positions) for positions in rows.values()):
        raise UserError(f"data.split random: {len(target)} clips are too few for three parts")
    return rows
