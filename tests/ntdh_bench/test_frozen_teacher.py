from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch
from ntdh_bench.checkpoints import state_hash
from ntdh_bench.errors import UserError
from ntdh_bench.frozen_teacher import FrozenTeacher, TeacherKind
from ntdh_bench.layers import input_of
from tests.helpers import equal, weights
from tests.typed import some


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))


def frozen(kind: TeacherKind = "joint", layers: tuple[str, ...] = ()) -> FrozenTeacher:
    return FrozenTeacher(kind, network, network, layers)


def batch(first: int = 0) -> PairedBatch:
    inputs = torch.arange(6.0).view(2, 3) + first
    index = torch.arange(first, first + 2)
    return PairedBatch(teacher=inputs, student=inputs, target=torch.zeros_like(index), index=index)


class Data:
    """Four samples; counts how often a split is read."""

    reads = 0

    def cacheable(self, split: str) -> bool:
        return split != "train"

    def split_size(self, split: str) -> int:
        return 4

    def batches(self, split: str) -> Iterator[PairedBatch]:
        self.reads += 1
        return (batch(first) for first in (0, 2))


class Student(LightningModule):
    def __init__(self, teacher: FrozenTeacher) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.frozen_teacher = teacher


def test_without_networks_it_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"has no teacher: .* frozen_teacher\.load\(checkpoint\)"):
        _ = frozen().network
    assert (frozen().hash, frozen().companion) == ("", None)


def test_is_no_part_of_the_module_and_stays_in_eval_mode() -> None:
    teacher = frozen()
    teacher.hold(network().train(), network().train())
    module = Student(teacher)
    module.train().requires_grad_(True)
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}
    for held in (teacher.network, some(teacher.companion)):
        assert not any(part.training for part in held.modules())
        assert not any(parameter.requires_grad for parameter in held.parameters())
    module.double()
    assert teacher.network(torch.zeros(1, 3)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["joint", "independent"])
def test_what_is_saved_is_loaded(kind: TeacherKind, tmp_path: Path) -> None:
    first, second = frozen(kind), frozen(kind)
    first.hold(network(), network() if kind == "joint" else None)
    first.save(tmp_path / "teacher.ckpt")
    second.load(tmp_path / "teacher.ckpt")
    assert equal(weights(first.network), weights(second.network))
    assert (second.companion is None) == (kind == "independent")
    assert first.hash == second.hash
    assert not second.network.training


def test_a_teacher_trained_alone_is_no_joint_pair_but_a_pair_has_a_teacher(tmp_path: Path) -> None:
    alone, pair = frozen("independent"), frozen()
    alone.hold(network())
    alone.save(tmp_path / "alone.ckpt")
    with pytest.raises(UserError, match=r"model\.teacher is joint"):
        pair.load(tmp_path / "alone.ckpt")
    pair.hold(network(), network())
    pair.save(tmp_path / "pair.ckpt")
    alone.load(tmp_path / "pair.ckpt")
    assert equal(weights(alone.network), weights(pair.network))
    assert alone.companion is None


def test_a_failed_load_leaves_what_was_there(tmp_path: Path) -> None:
    other = FrozenTeacher("joint", network, lambda: nn.Linear(2, 2))
    other.hold(network(), nn.Linear(2, 2))
    other.save(tmp_path / "other.ckpt")
    teacher = frozen()
    teacher.hold(network(), network())
    before = teacher.hash, weights(teacher.network)
    with pytest.raises(UserError, match=r"another network: companion\."):
        teacher.load(tmp_path / "other.ckpt")
    assert teacher.hash == before[0]
    assert equal(weights(teacher.network), before[1])


def test_replacing_keeps_the_companion_and_changes_hash_and_outputs(tmp_path: Path) -> None:
    teacher, alone, data = frozen(), frozen("independent"), cast(Any, Data())
    teacher.hold(network(), network())
    companion, old = teacher.companion, teacher.hash
    before = teacher.outputs(batch(), "test", data)["logits"]
    alone.hold(network())
    alone.save(tmp_path / "alone.ckpt")
    teacher.replace(tmp_path / "alone.ckpt")
    assert teacher.companion is companion
    assert companion is not None
    assert teacher.hash == state_hash({"teacher": alone.network, "companion": companion}) != old
    assert not torch.equal(teacher.outputs(batch(), "test", data)["logits"], before)


def test_outputs_are_kept_until_released() -> None:
    teacher, data = frozen(layers=("0",)), Data()
    teacher.hold(network())
    teacher.evaluated_layers = (input_of("0"),)

    def outputs(split: Any) -> dict[str, Tensor]:
        return teacher.outputs(batch(2), split, cast(Any, data))

    inputs = cast(Tensor, batch(2)["teacher"])
    expected = teacher.network(inputs)
    for split, reads in (("train", 0), ("test", 1), ("test", 1)):
        found = outputs(split)
        assert data.reads == reads
        assert torch.equal(found["logits"], expected)
        layer, value = ("0", expected) if split == "train" else (input_of("0"), inputs)
        assert found.keys() == {"logits", layer}
        assert torch.equal(found[layer], value)
    teacher.release()
    assert not teacher.network[0]._forward_hooks  # type: ignore[index]
    outputs("test")
    assert data.reads == 2
