from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ntdh_bench.batch import PairedBatch, both_inputs
from ntdh_bench.divergence import ncjsd
from ntdh_bench.masks import SampleMask
from ntdh_bench.masks.divergence_maps import divergence_maps, divergence_report

SIZE = (40, 70)


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1), nn.Conv2d(2, 4, 1)


def batch(labelled: float = 0.5) -> PairedBatch:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(4, (2, *SIZE), generator=generator)
    unseen = torch.rand(target.shape, generator=generator) >= labelled
    return PairedBatch(
        teacher=torch.rand(2, 3, *SIZE, generator=generator),
        student=torch.rand(2, 2, *SIZE, generator=generator),
        target=target.masked_fill(unseen, 255),
        index=torch.arange(2),
    )


class Data:
    """A data module with one validation batch."""

    has_validation, source, ignore_index = True, "simulated", 255

    def __init__(self, given: PairedBatch) -> None:
        self.given = given

    def batches(self, split: str, batch_size: int) -> Iterator[PairedBatch]:
        assert (split, batch_size) == ("val", 2)
        yield self.given


def test_maps_are_the_divergence_and_the_masks_choice() -> None:
    (teacher, student), given = pair(), batch()
    maps = divergence_maps(teacher, student, given, SampleMask(0.25))
    logits = teacher(given["teacher"]), student(given["student"])
    seen = given["target"] != 255
    assert torch.equal(maps.seen, seen)
    here = next((y, x) for y in range(9) for x in range(9) if seen[0, y, x])
    a, b = (values[0, :, here[0], here[1]][None] for values in logits)
    expected = ncjsd(a, b, given["target"][0, here[0], here[1]][None])
    torch.testing.assert_close(maps.ncjsd[0, here[0], here[1]][None], expected.detach())
    assert maps.dropped.sum() == round(0.25 * int(seen.sum()))
    assert maps.ncjsd[maps.dropped].min() >= maps.ncjsd[seen & ~maps.dropped].max()
    assert not maps.dropped[~seen].any()
    assert (maps.ncjsd[~seen] == 0).all()
    assert maps.image.shape == (2, *SIZE)
    assert (maps.image.amin(), maps.image.amax()) == (0, 1)
    assert student.training


def test_without_labels_nothing_is_drawn(tmp_path: Path) -> None:
    paths, small = divergence_report(
        *pair(), cast(Any, Data(batch(labelled=0.0))), SampleMask(0.25), tmp_path
    )
    assert [path.name for path in paths] == ["divergence.npz", "divergence.png", "divergence.svg"]
    assert max(map(max, small["sample 1, NCJSD"])) == 0


def test_report_draws_and_gives_small_maps(tmp_path: Path) -> None:
    paths, small = divergence_report(
        *pair(), cast(Any, Data(batch())), SampleMask(0.25, "random", 3), tmp_path / "new"
    )
    assert all(path.stat().st_size > 0 for path in paths)
    names = ["image", "NCJSD", "share dropped"]
    assert list(small) == [f"sample {n}, {name}" for n in (1, 2) for name in names]
    assert json.loads(json.dumps(small)) == small
    dropped = torch.tensor(small["sample 2, share dropped"])
    assert dropped.shape == (32, 56)
    assert 0.2 < dropped.mean() < 0.3
    again, _ = divergence_report(
        *pair(), cast(Any, Data(batch())), SampleMask(0.25, "random", 3), tmp_path / "again"
    )
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]


def test_a_teacher_of_both_modalities_is_drawn_on_its_own_image() -> None:
    class First(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return inputs["student"][:, :1].expand(-1, 4, -1, -1)

    given = batch()
    own = divergence_maps(*pair(), given, SampleMask(0.5)).image
    given["teacher"] = both_inputs(given["teacher"], given["student"])
    assert torch.equal(divergence_maps(First(), pair()[1], given, SampleMask(0.5)).image, own)


def test_inputs_that_are_no_image_have_a_plain_backdrop() -> None:
    class Second(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return inputs["image"][:, :1].expand(-1, 4, -1, -1)

    given = batch()
    given["teacher"] = {"image": cast(Tensor, given["teacher"])}
    assert (divergence_maps(Second(), pair()[1], given, SampleMask(0.5)).image == 0).all()
