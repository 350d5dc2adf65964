from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from ntdh_bench.batch import Split
from ntdh_bench.divergence import ncjsd
from ntdh_bench.errors import NotStackable, UserError
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


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent"])
def test_rows_are_ranked_alike_where_they_are_measured(removes: Removes) -> None:
    mask = SampleMask(0.25, removes)
    assert torch.equal(mask.keep_measured(*rows(), "val", 3), mask.keep_rows(*rows(), 0, 0))


def test_random_rows_that_are_measured_depend_on_seed_split_and_sample_alone() -> None:
    keys: list[tuple[int, Split, int]] = [
        (0, "val", 0),
        (1, "val", 0),
        (0, "test", 0),
        (0, "val", 9),
    ]

    def kept(seed: int, split: Split, first: int) -> list[int]:
        found: list[int] = (
            SampleMask(0.5, "random", seed).keep_measured(*rows(), split, first).tolist()
        )
        return found

    assert kept(*keys[0]) == kept(*keys[0]) == sorted(kept(*keys[0]))
    assert {len(kept(*key)) for key in keys} == {10}
    assert len({tuple(kept(*key)) for key in keys}) == 4
    assert kept(*keys[0]) != SampleMask(0.5, "random").keep_rows(*rows(), 0, 0).tolist()


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent", "random"])
@pytest.mark.parametrize(
    ("ratio", "n", "left"), [(0, 7, 7), (1, 7, 0), (0.5, 1, 1), (0.25, 10, 8), (0.3, 0, 0)]
)
def test_removes_the_rounded_share(removes: Removes, ratio: float, n: int, left: int) -> None:
    assert SampleMask(ratio, removes).keep_rows(*rows(n), 0, 0).shape == (left,)


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent", "random"])
def test_a_row_is_left_to_measure(removes: Removes) -> None:
    """Else a control of a mask that takes all of small batches would measure nothing."""
    mask, one = SampleMask(1.0, removes), rows(7)
    (kept,) = mask.keep_measured(*one, "val", 0).tolist()
    members = [values.unsqueeze(0) for values in one]
    stacked = SampleMask.keep_measured_of_members([mask], *members, "val", [0])  # type: ignore[arg-type]
    assert stacked.tolist() == [[kept]]
    divergence = ncjsd(*one).argsort()
    assert removes == "random" or kept == divergence[0 if removes == "most_divergent" else -1]
    strict = SampleMask(score="kendall", threshold=1.0)
    assert len(strict.keep_measured(*one, "val", 0)) == 1
    assert len(mask.keep_measured(*rows(0), "val", 0)) == 0


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
        Mask("random", 0)  # type: ignore[abstract]


# -- by rank correlation -------------------------------------------------------------------------


def taus(teacher: Tensor, student: Tensor) -> Tensor:
    pairs = zip(teacher.numpy(), student.numpy(), strict=True)
    return torch.tensor([kendalltau(a, b).statistic for a, b in pairs])


@pytest.mark.parametrize("threshold", [-1.0, -0.3, 0.0, 0.4, 1.0])
def test_keeps_the_rows_that_agree_better_than_the_threshold(threshold: float) -> None:
    teacher, student, target = rows(60)
    expected = (taus(teacher, student) > threshold).nonzero().flatten().tolist()
    mask = SampleMask(score="kendall", threshold=threshold)
    assert mask.keep_rows(teacher, student, target, 0, 0).tolist() == expected
    assert len(expected) < 60 or threshold == -1


def test_controls_of_a_threshold_lose_as_many_rows() -> None:
    teacher, student, target = rows(60)
    kept = {
        removes: SampleMask(None, removes, 1, "kendall", 0.1).keep_rows(
            teacher, student, target, 0, 0
        )
        for removes in get_args(Removes)
    }
    assert len({len(found) for found in kept.values()}) == 1
    assert 0 < len(kept["random"]) < 60
    tau = taus(teacher, student)
    least = kept["least_divergent"]
    dropped = [row for row in range(60) if row not in least.tolist()]
    assert tau[dropped].min() >= tau[least].max()


@pytest.mark.parametrize("removes", ["most_divergent", "least_divergent"])
def test_a_share_by_rank_correlation(removes: Removes) -> None:
    teacher, student, target = rows()
    kept = SampleMask(0.25, removes, score="kendall").keep_rows(teacher, student, target, 0, 0)
    tau = taus(teacher, student)
    dropped = torch.tensor([row for row in range(20) if row not in kept.tolist()])
    assert len(dropped) == 5
    if removes == "most_divergent":
        assert tau[dropped].max() <= tau[kept].min()
    else:
        assert tau[dropped].min() >= tau[kept].max()
    by_ncjsd = SampleMask(0.25, removes).keep_rows(teacher, student, target, 0, 0)
    assert by_ncjsd.tolist() != kept.tolist()


def test_rows_whose_logits_are_all_equal_agree_on_nothing() -> None:
    teacher, student, target = rows(4)
    student = teacher.clone()
    student[1] = teacher[2] = 0.5
    mask = SampleMask(score="kendall", threshold=0)
    assert mask.keep_rows(teacher, student, target, 0, 0).tolist() == [0, 3]
    assert mask.keep_rows(teacher[1:3], student[1:3], target[1:3], 0, 0).tolist() == []
    assert mask.keep_rows(teacher[:0], student[:0], target[:0], 0, 0).tolist() == []


def test_members_of_a_stack_keep_what_each_does_alone() -> None:
    teacher, student, target = (torch.stack([x, x.flip(0)]) for x in rows())
    masks = [SampleMask(0.3, score="kendall", seed=seed) for seed in (0, 1)]
    kept = SampleMask.keep_rows_of_members(masks, teacher, student, target, 0, 0)
    alone = [
        mask.keep_rows(teacher[k], student[k], target[k], 0, 0) for k, mask in enumerate(masks)
    ]
    assert torch.equal(kept, torch.stack(alone))
    assert masks[0].stack_key == masks[1].stack_key != SampleMask(0.3).stack_key
    with pytest.raises(NotStackable, match="threshold"):
        _ = SampleMask(score="kendall", threshold=0.0).stack_key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"mask\.ratio None and mask\.threshold None: give one"),
        ({"ratio": 0.5, "threshold": 0.0, "score": "kendall"}, "give one of them"),
        ({"threshold": 0.0}, r"mask\.score is ncjsd: set it to kendall"),
        ({"threshold": 1.5, "score": "kendall"}, r"mask\.threshold is 1\.5: .* \[-1, 1\]"),
        ({"ratio": 0.5, "score": "mse"}, r"mask\.score is 'mse': choose one of ncjsd, kendall"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SampleMask(**settings)


def test_says_which_rows_it_drops() -> None:
    assert str(SampleMask(0.25)) == "25%, most divergent"
    assert str(SampleMask(0.5, score="kendall")) == "50%, most divergent by tau-b"
    by_threshold = SampleMask(score="kendall", threshold=0.0, removes="random")
    assert str(by_threshold) == "as many as have a tau-b up to 0, random"
