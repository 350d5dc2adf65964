"""What each intervention leaves exactly as it was, and what it moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ntdh_bench import interventions
from ntdh_bench.batch import PairedBatch, Split
from ntdh_bench.divergence import ncjsd, target_nontarget, tcjsd
from ntdh_bench.errors import UserError
from ntdh_bench.interventions import (
    AlignNontarget,
    ClassNontarget,
    Intervention,
    ScaleTarget,
    ShiftTarget,
    ShuffleNontarget,
    ShuffleTarget,
    Source,
    UniformNontarget,
)

SHARED = (ShuffleNontarget, AlignNontarget, UniformNontarget, ClassNontarget, ShuffleTarget)
NONTARGET = (ShuffleNontarget, AlignNontarget, UniformNontarget, ClassNontarget)
KEEP_ACCURACY = (ShuffleNontarget(1.0), ShuffleTarget(1.0), ScaleTarget(8.0))
N, C = 200, 6


@pytest.fixture(scope="module")
def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: 3 * torch.randn(*size, generator=generator)  # noqa: E731
    target = torch.randint(C, (N,), generator=generator)
    return {"teacher": draw(N, C), "student": draw(N, C), "target": target}


def batch_of(rows: dict[str, Tensor], places: Tensor | None = None) -> PairedBatch:
    index = torch.arange(N) if places is None else places
    return PairedBatch(
        teacher=rows["teacher"][index],
        student=rows["student"][index],
        target=rows["target"][index],
        index=index,
    )


def bound(intervention: Intervention, rows: dict[str, Tensor], seed: int = 0) -> Intervention:
    def whole(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        for places in torch.arange(N).split(64):
            yield rows["teacher"][places], rows["target"][places]

    intervention.bind(Source(seed, 255, whole, nn.Identity()))
    return intervention


def changed(intervention: Intervention, rows: dict[str, Tensor], seed: int = 0) -> Tensor:
    return bound(intervention, rows, seed)(rows["teacher"], batch_of(rows), "train")


def every(share: float) -> list[Intervention]:
    return [kind(share) for kind in SHARED] + [ShiftTarget(8 * share), ScaleTarget(1 + 7 * share)]


def parts(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    log_p, _, nontarget = target_nontarget(logits, target)
    return log_p, nontarget


def test_all_are_tried() -> None:
    tried = {type(intervention) for intervention in every(1.0)}
    offered = {getattr(interventions, name) for name in interventions.__all__}
    found = {k for k in offered if isinstance(k, type) and issubclass(k, Intervention)}
    assert tried == found - {Intervention, interventions.SharedIntervention}


@pytest.mark.parametrize("intervention", every(0.6), ids=lambda i: type(i).__name__)
def test_one_part_stays_and_the_other_moves(
    intervention: Intervention, rows: dict[str, Tensor]
) -> None:
    target = rows["target"]
    before, after = (parts(x, target) for x in (rows["teacher"], changed(intervention, rows)))
    stays = 0 if isinstance(intervention, NONTARGET) else 1
    torch.testing.assert_close(after[stays], before[stays], rtol=0, atol=1e-6)
    assert not torch.allclose(after[1 - stays], before[1 - stays], atol=0.1)


@pytest.mark.parametrize("intervention", every(1.0), ids=lambda i: type(i).__name__)
def test_what_a_distiller_of_another_temperature_sees(
    intervention: Intervention, rows: dict[str, Tensor]
) -> None:
    """What is mixed keeps p_target at temperature 1 alone: it falls as the rest gets flatter."""
    tempered = (logits / 4 for logits in (rows["teacher"], changed(intervention, rows)))
    before, after = (parts(logits, rows["target"]) for logits in tempered)
    if isinstance(intervention, UniformNontarget):
        assert (after[0] <= before[0] + 1e-6).all()
    if isinstance(intervention, AlignNontarget | UniformNontarget | ClassNontarget):
        assert not torch.allclose(after[0], before[0], atol=0.01)
    else:
        stays = 0 if isinstance(intervention, NONTARGET) else 1
        torch.testing.assert_close(after[stays], before[stays], rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("kind", NONTARGET)
def test_target_divergence_stays(kind: Any, share: float, rows: dict[str, Tensor]) -> None:
    divergences = [
        tcjsd(logits, rows["student"], rows["target"])
        for logits in (rows["teacher"], changed(kind(share), rows))
    ]
    torch.testing.assert_close(*divergences, rtol=0, atol=1e-6)


@pytest.mark.parametrize("intervention", [ShuffleTarget(1.0), ShiftTarget(3.0), ScaleTarget(8.0)])
def test_nontarget_divergence_stays(intervention: Intervention, rows: dict[str, Tensor]) -> None:
    divergences = [
        ncjsd(logits, rows["student"], rows["target"])
        for logits in (rows["teacher"], changed(intervention, rows))
    ]
    torch.testing.assert_close(*divergences, rtol=0, atol=1e-6)


@pytest.mark.parametrize("intervention", KEEP_ACCURACY, ids=lambda i: type(i).__name__)
def test_right_stays_right_and_wrong_wrong(
    intervention: Intervention, rows: dict[str, Tensor]
) -> None:
    right = rows["teacher"].argmax(1) == rows["target"]
    assert torch.equal(changed(intervention, rows).argmax(1) == rows["target"], right)


@pytest.mark.parametrize("intervention", every(0.0), ids=lambda i: type(i).__name__)
def test_a_dose_of_nothing_changes_nothing(
    intervention: Intervention, rows: dict[str, Tensor]
) -> None:
    torch.testing.assert_close(changed(intervention, rows), rows["teacher"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("intervention", every(0.5), ids=lambda i: type(i).__name__)
def test_any_batch_any_time_gives_the_same(
    intervention: Intervention, rows: dict[str, Tensor]
) -> None:
    whole = changed(intervention, rows)
    places = torch.randperm(N, generator=torch.Generator().manual_seed(3))[:17]
    part = intervention(rows["teacher"][places], batch_of(rows, places), "train")
    assert torch.equal(part, whole[places])
    assert torch.equal(changed(intervention, rows), whole)


@pytest.mark.parametrize("kind", [ShuffleNontarget, ShuffleTarget])
def test_seeds_and_splits_draw_for_themselves(kind: Any, rows: dict[str, Tensor]) -> None:
    first, other = changed(kind(0.5), rows), changed(kind(0.5), rows, seed=1)
    split = bound(kind(0.5), rows)(rows["teacher"], batch_of(rows), "val")
    assert not torch.equal(first, other)
    assert not torch.equal(first, split)


@pytest.mark.parametrize("kind", [ShuffleNontarget, ShuffleTarget, ClassNontarget])
def test_a_larger_share_changes_the_same_samples_and_more(
    kind: Any, rows: dict[str, Tensor]
) -> None:
    untouched = [
        (changed(kind(share), rows) == rows["teacher"]).all(1) for share in (0.25, 0.5, 0.75, 1)
    ]
    shares = [1 - float(same.float().mean()) for same in untouched]
    assert shares == sorted(shares)
    assert abs(shares[1] - 0.5) < 0.12
    for less, more in pairwise(untouched):
        assert not (more & ~less).any()


def test_shuffled_is_a_permutation(rows: dict[str, Tensor]) -> None:
    after = changed(ShuffleNontarget(1.0), rows)
    assert torch.equal(after.sort(1).values, rows["teacher"].sort(1).values)
    assert ncjsd(after, rows["teacher"], rows["target"]).mean() > 0.1


def test_aligned_agrees_with_the_student(rows: dict[str, Tensor]) -> None:
    apart = [
        float(ncjsd(changed(AlignNontarget(q), rows), rows["student"], rows["target"]).mean())
        for q in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 1e-6


def test_uniform_says_nothing_of_other_classes(rows: dict[str, Tensor]) -> None:
    _, nontarget = parts(changed(UniformNontarget(1.0), rows), rows["target"])
    torch.testing.assert_close(nontarget, torch.full_like(nontarget, -math.log(C - 1)))


def test_class_means_are_those_of_the_training_split(rows: dict[str, Tensor]) -> None:
    _, nontarget = parts(changed(ClassNontarget(1.0), rows), rows["target"])
    _, before = parts(rows["teacher"], rows["target"])
    for label in range(C):
        own = rows["target"] == label
        mean = before[own].double().exp().mean(0)
        expected = mean.expand_as(nontarget[own])
        torch.testing.assert_close(nontarget[own].exp().double(), expected, atol=1e-6, rtol=0)


def test_a_class_without_samples_is_uniform(rows: dict[str, Tensor]) -> None:
    few = {**rows, "target": rows["target"].clamp(max=C - 2)}
    intervention = bound(ClassNontarget(1.0), few)
    last = torch.tensor([C - 1])
    batch = {**batch_of(few, torch.tensor([0])), "target": last}
    _, nontarget = parts(intervention(rows["teacher"][:1], batch, "val"), last)  # type: ignore[arg-type]
    torch.testing.assert_close(nontarget, torch.full_like(nontarget, -math.log(C - 1)))


def test_sizes_of_leads_are_exchanged(rows: dict[str, Tensor]) -> None:
    from ntdh_bench.interventions.functional import target_lead

    before = target_lead(rows["teacher"], rows["target"])
    after = target_lead(changed(ShuffleTarget(1.0), rows), rows["target"])
    for right in (True, False):
        own = (before > 0) == right
        torch.testing.assert_close(
            after[own].sort().values, before[own].sort().values, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("intervention", every(1.0), ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_and_large_logits(intervention: Intervention, dtype: torch.dtype) -> None:
    logits = torch.randn(8, C).mul(1e4).to(dtype)
    rows = {"teacher": logits, "student": torch.randn(8, C), "target": torch.arange(8) % C}

    def whole(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        yield logits, rows["target"]

    intervention.bind(Source(0, 255, whole, nn.Identity()))
    batch = PairedBatch(**rows, index=torch.arange(8))
    found = intervention(logits, batch, "train")
    assert found.isfinite().all()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize(
    "intervention",
    [i for i in every(1.0) if i.dense],
    ids=lambda i: type(i).__name__,
)
def test_positions_are_rows(intervention: Intervention, rows: dict[str, Tensor]) -> None:
    """Dense targets: each position is a row, what is ignored stays as it is."""
    size = (2, 5, 20)
    logits = rows["teacher"].view(*size, C).movedim(-1, 1)
    student = rows["student"].view(*size, C).movedim(-1, 1)
    target = rows["target"].view(size).clone()
    target[0, :2] = 255

    def whole(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        yield logits, target

    intervention.bind(Source(0, 255, whole, nn.Identity()))
    batch = PairedBatch(teacher=logits, student=student, target=target, index=torch.arange(2))
    found = intervention(logits, batch, "train")
    assert found.shape == logits.shape
    assert torch.equal(found[0, :, :2], logits[0, :, :2])
    kept = target != 255
    before, after = (parts(x.movedim(1, -1)[kept], target[kept]) for x in (logits, found))
    stays = 0 if isinstance(intervention, NONTARGET) else 1
    torch.testing.assert_close(after[stays], before[stays], rtol=0, atol=1e-6)


def test_a_batch_that_is_all_ignored() -> None:
    logits = torch.randn(2, C)
    intervention = UniformNontarget(1.0)
    intervention.bind(Source(0, 255, lambda split: iter(())))
    batch = PairedBatch(
        teacher=logits, student=logits, target=torch.full((2,), 255), index=torch.arange(2)
    )
    assert torch.equal(intervention(logits, batch, "train"), logits)


def test_refused() -> None:
    with pytest.raises(UserError, match=r"model.intervention.share is 1.5: .* \[0, 1\]"):
        ShuffleNontarget(1.5)
    with pytest.raises(UserError, match=r"model.intervention.share is -0.1"):
        UniformNontarget(-0.1)
    with pytest.raises(UserError, match=r"model.intervention.shift is -1"):
        ShiftTarget(-1)
    with pytest.raises(UserError, match=r"model.intervention.factor is 0.5"):
        ScaleTarget(0.5)


def data_of(classes: int, target: Tensor) -> Any:
    batches = lambda split, batch_size: iter([{"target": target}])  # noqa: E731
    return SimpleNamespace(num_classes=classes, name="numbers", batches=batches)


def test_data_on_which_it_is_not_defined() -> None:
    two, dense = data_of(2, torch.zeros(1).long()), data_of(C, torch.zeros(1, 3, 4).long())
    for intervention in every(0.5):
        if isinstance(intervention, NONTARGET):
            with pytest.raises(UserError, match="needs at least 3 classes, but numbers has 2: rem"):
                intervention.check(two)
        else:
            intervention.check(two)
        if isinstance(intervention, ShuffleTarget):
            with pytest.raises(UserError, match="each position of numbers has a target of its own"):
                intervention.check(dense)
        else:
            intervention.check(dense)
