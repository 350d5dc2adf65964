from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ntdh_bench.divergence import ncjsd
from ntdh_bench.errors import UserError
from ntdh_bench.masks import Mask, Removes, SampleMask


def rows(n: int = 20, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(2, n, 6)
    return logits[0].to(dtype), logits[1].to(dtype), torch.randint(6, (n,))


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent"])
def test_drops_one_end_of_the_ranking(removes: Removes) -> None:
    teacher, student, target = rows()
    kept = SampleMask(0.25, removes).keep_rows(teacher, student, target, 0, 0)
    divergence = ncjsd(teacher, student, target)
    dropped = torch.tensor([row for row in range(20) if row not in kept.tolist()])
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(kept.tolist())
    assert len(dropped) == 5
    if removes == "most_divergent":
        assert divergence[dropped].min() >= divergence[kept].max()
    else:
        assert divergence[dropped].max() <= divergence[kept].min()


def test_random_depends_on_seed_epoch_and_batch_alone() -> None:
    def kept(seed: int, epoch: int, batch: int) -> list[int]:
        result: list[int] = (
            SampleMask(0.5, "random", seed).keep_rows(*rows(), epoch, batch).tolist()
        )
        return result

    assert kept(0, 0, 0) == kept(0, 0, 0) == sorted(kept(0, 0, 0))
    assert len(set(kept(0, 0, 0))) == 10
    assert len({tuple(kept(*key)) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}) == 4
    before = torch.random.get_rng_state()
    kept(0, 0, 0)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent", "random"])
@pytest.mark.parametrize(
    ("ratio", "n", "left"), [(0, 7, 7), (1, 7, 0), (0.5, 1, 1), (0.25, 10, 8), (0.3, 0, 0)]
)
def test_removes_the_rounded_share(removes: Removes, ratio: float, n: int, left: int) -> None:
    assert SampleMask(ratio, removes).keep_rows(*rows(n), 0, 0).shape == (left,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_any_precision_and_needs_no_gradient(dtype: torch.dtype) -> None:
    teacher, student, target = rows(dtype=dtype)
    kept = SampleMask(0.5).keep_rows(teacher * 20, student.requires_grad_(), target, 0, 0)
    assert len(kept) == 10
    assert not kept.requires_grad


def test_ties_are_ranked_by_position() -> None:
    _, student, target = rows(8)
    assert SampleMask(0.5).keep_rows(student, student, target, 0, 0).tolist() == [4, 5, 6, 7]


def test_is_handed_to_the_module_and_taken_back() -> None:
    module: Any = SimpleNamespace(sample_mask=None)
    mask = SampleMask(0.5)
    mask.setup(cast(Any, None), module, "fit")
    assert module.sample_mask is mask
    mask.teardown(cast(Any, None), module, "fit")
    assert module.sample_mask is None
    with pytest.raises(UserError, match="SimpleNamespace"):
        mask.setup(cast(Any, None), cast(Any, SimpleNamespace()), "fit")


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan")])
def test_a_ratio_out_of_range_is_an_error(ratio: float) -> None:
    with pytest.raises(UserError, match=rf"mask\.ratio is {ratio}"):
        SampleMask(ratio)


def test_an_unknown_choice_is_an_error() -> None:
    with pytest.raises(UserError, match="'true': choose most_divergent, least_divergent, random"):
        SampleMask(0.5, cast(Any, "true"))


def test_the_base_class_is_no_mask() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Mask(0.5, "random", 0)  # type: ignore[abstract]
