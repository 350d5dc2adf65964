from __future__ import annotations

import pytest
import torch

from ntdh_bench.datamodules.ravdess.names import ClipName
from ntdh_bench.datamodules.ravdess.splits import ACTOR_PARTS, actor_split, random_split
from ntdh_bench.errors import UserError

NAMES = [
    ClipName(3, 1, emotion, intensity, statement, repetition, actor)
    for actor in range(1, 25)
    for emotion in range(1, 9)
    for intensity in (1, 2)
    for statement in (1, 2)
    for repetition in (1, 2)
    if (emotion, intensity) != (1, 2)
]
TARGET = torch.tensor([name.target for name in NAMES])


def test_actor_lists_are_disjoint_complete_and_of_both_sexes() -> None:
    lists = list(ACTOR_PARTS.values())
    assert sorted(number for numbers in lists for number in numbers) == list(range(1, 25))
    for numbers in lists:
        assert sum(number % 2 for number in numbers) * 2 == len(numbers)


def test_no_actor_is_in_two_parts() -> None:
    rows = actor_split(NAMES)
    found = [{NAMES[row].actor for row in part.tolist()} for part in rows.values()]
    assert [len(actor) for actor in found] == [16, 4, 4]
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]
    assert sum(map(len, rows.values())) == len(NAMES) == 1440


def test_random_split_is_stratified_and_seeded() -> None:
    alone = torch.arange(len(NAMES))
    rows = random_split(TARGET, alone, seed=0)
    assert [len(part) for part in rows.values()] == [1008, 144, 288]
    assert torch.cat(list(rows.values())).sort().values.equal(alone)
    for part in rows.values():
        share = torch.bincount(TARGET[part], minlength=8) / len(part)
        assert torch.allclose(share, torch.bincount(TARGET) / len(TARGET), atol=0.01)
    again, other = random_split(TARGET, alone, seed=0), random_split(TARGET, alone, seed=1)
    assert all(again[name].equal(part) for name, part in rows.items())
    assert not other["test"].equal(rows["test"])


def test_copies_stay_together() -> None:
    groups = torch.arange(len(NAMES)) // 2
    for seed in range(3):
        part_of = torch.empty(len(NAMES))
        for number, part in enumerate(random_split(TARGET, groups, seed).values()):
            part_of[part] = number
        assert part_of[::2].equal(part_of[1::2])


def test_too_few_clips_are_an_error() -> None:
    with pytest.raises(UserError, match=r"no clips for the val part, the actors 17, 18, 19, 20"):
        actor_split([name for name in NAMES if name.actor < 3])
    with pytest.raises(UserError, match="2 clips are too few"):
        random_split(TARGET[:2], torch.arange(2), seed=0)
