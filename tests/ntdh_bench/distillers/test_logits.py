"""Losses of logits against loops from their papers, and what peers' code gets wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ntdh_bench.distillers.functional import cc, dist, dkd, kd, mlkd, nkd, ofa, skd, wttm
from ntdh_bench.distillers.logits import standardized
from ntdh_bench.distillers.predictions import direction_level, relation_levels
from ntdh_bench.divergence import TargetError
from tests.typed import some

Rows = list[list[float]]
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def draw(rows: int = 6, classes: int = 5, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(rows * classes)
    student, teacher = scale * torch.randn(2, rows, classes, generator=stream, dtype=torch.float64)
    return student, teacher, torch.arange(rows) % classes


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def probabilities(logits: Tensor, temperature: float) -> Rows:
    return [softmax(row, temperature) for row in logits.tolist()]


def kl(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def columns(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


def naive_nkd(s: Tensor, t: Tensor, target: Tensor, gamma: float, temperature: float) -> float:
    total = 0.0
    for student, teacher, k in zip(s.tolist(), t.tolist(), target.tolist(), strict=True):
        total -= softmax(teacher)[k] * math.log(softmax(student)[k])
        q, p = (
            softmax([z for c, z in enumerate(x) if c != k], temperature) for x in (student, teacher)
        )
        cross = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        total += gamma * temperature**2 * cross
    return total / len(s)


def pearson(x: list[float], y: list[float]) -> float:
    x, y = [a - mean(x) for a in x], [b - mean(y) for b in y]
    norms = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / (norms + 1e-8)


def naive_dist(s: Tensor, t: Tensor, beta: float, gamma: float, temperature: float) -> float:
    q, p = probabilities(s, temperature), probabilities(t, temperature)
    inter = 1 - mean([pearson(a, b) for a, b in zip(q, p, strict=True)])
    intra = 1 - mean([pearson(a, b) for a, b in zip(columns(q), columns(p), strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


def naive_wttm(s: Tensor, t: Tensor, temperature: float) -> float:
    total = 0.0
    for student, teacher in zip(s.tolist(), t.tolist(), strict=True):
        powers = [p ** (1 / temperature) for p in softmax(teacher)]
        total += sum(powers) * kl([p / sum(powers) for p in powers], softmax(student))
    return total / len(s)


def squared_gap(x: Rows, y: Rows) -> float:
    """Of the Gram matrices of rows."""
    grams = [[[sum(map(float.__mul__, a, b)) for b in z] for a in z] for z in (x, y)]
    return sum(
        (a - b) ** 2
        for one, other in zip(*grams, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def naive_mlkd(s: Tensor, t: Tensor, temperatures: tuple[float, ...]) -> float:
    values = []
    for temperature in temperatures:
        q, p = probabilities(s, temperature), probabilities(t, temperature)
        instance = temperature**2 * mean([kl(a, b) for a, b in zip(p, q, strict=True)])
        of_classes = squared_gap(columns(p), columns(q)) / len(q[0])
        values.append(instance + of_classes + squared_gap(p, q) / len(q))
    return mean(values)


def naive_directions(s: Tensor, t: Tensor, ridge: float) -> float:
    """Lengths by the inverse of the covariance, with NumPy."""
    grams = []
    for side in (s, t):
        unit = [[z / math.sqrt(sum(x * x for x in row)) for z in row] for row in side.tolist()]
        grams.append(np.array([[sum(map(float.__mul__, a, b)) for b in unit] for a in unit]))
    gap = (grams[0] - grams[1]) / s.shape[1]
    covariance = np.cov(gap, rowvar=False) + ridge * np.eye(len(gap))
    inverse = np.linalg.inv(covariance)
    return mean([math.sqrt(row @ inverse @ row) for row in gap])


def naive_ofa(s: Tensor, t: Tensor, target: Tensor, eps: float, temperature: float) -> float:
    total = 0.0
    for q, p, k in zip(
        probabilities(s, temperature), probabilities(t, temperature), target.tolist(), strict=True
    ):
        for c, (a, b) in enumerate(zip(p, q, strict=True)):
            total -= ((a + (c == k)) ** eps - (c == k)) * math.log(b)
    return total / len(s)


def z_scores(logits: Tensor) -> Tensor:
    rows = []
    for row in logits.tolist():
        deviation = math.sqrt(sum((z - mean(row)) ** 2 for z in row) / (len(row) - 1))
        rows.append([(z - mean(row)) / (deviation + 1e-7) for z in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6, 5), (3, 9), (7, 2), (1, 4)])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_values(shape: tuple[int, int], temperature: float) -> None:
    s, t, y = draw(*shape)
    pairs = [
        (nkd(s, t, y, 3.5, temperature), naive_nkd(s, t, y, 3.5, temperature)),
        (dist(s, t, 0.5, 3.0, temperature), naive_dist(s, t, 0.5, 3.0, temperature)),
        (wttm(s, t, temperature), naive_wttm(s, t, temperature)),
        (mlkd(s, t, (temperature, 3.0)), naive_mlkd(s, t, (temperature, 3.0))),
        *(
            (ofa(s, t, y, e, temperature), naive_ofa(s, t, y, e, temperature))
            for e in (0.5, 1, 1.5)
        ),
        (kd(s, t, temperature, standardize=True), kd(z_scores(s), z_scores(t), temperature)),
        (
            dkd(s, t, y, 1.0, 8.0, temperature, standardize=True),
            dkd(z_scores(s), z_scores(t), y, 1.0, 8.0, temperature),
        ),
    ]
    for value, expected in pairs:
        assert value.item() == pytest.approx(float(expected), rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("rows", [2, 5, 9])
@pytest.mark.parametrize("ridge", [0.1, 1e-3])
def test_skd(rows: int, ridge: float) -> None:
    s, t, _ = draw(rows)
    expected = naive_directions(s, t, ridge)
    assert direction_level(s, t, ridge).item() == pytest.approx(expected, rel=1e-9)
    assert skd(s, t, 3.0, ridge).item() == pytest.approx(float(kd(s, t, 3.0)) + expected, rel=1e-9)


def test_skd_of_one_row() -> None:
    """It has one direction, and no covariance: the code of its authors gives nan."""
    s, t, _ = draw(rows=1)
    value = skd(s.requires_grad_(), t)
    value.backward()
    torch.testing.assert_close(value.detach(), kd(s.detach(), t))
    assert some(s.grad).isfinite().all()


def test_defaults_are_the_published_numbers() -> None:
    s, t, y = draw()
    assert nkd(s, t, y) == nkd(s, t, y, 1.5, 1.0)
    assert dist(s, t) == dist(s, t, 1.0, 1.0, 1.0)
    assert mlkd(s, t) == mlkd(s, t, TEMPERATURES)
    assert ofa(s, t, y) == ofa(s, t, y, 1.0, 1.0)
    assert skd(s, t) == skd(s, t, 4.0, 0.1)


def test_ofa_at_1_is_the_cross_entropy_with_the_teacher() -> None:
    s, t, y = draw()
    expected = torch.nn.functional.cross_entropy(s, t.softmax(dim=1))
    torch.testing.assert_close(ofa(s, t, y), expected)


def test_the_gradient_of_ttm_pushes_towards_the_softened_teacher() -> None:
    """Eq. 20 of the paper, times the weight U of a row."""
    s, t, _ = draw(rows=1)
    wttm(s.requires_grad_(), t, 4.0).backward()
    weight = t.softmax(1).pow(1 / 4).sum()
    torch.testing.assert_close(some(s.grad), weight * (s.softmax(1) - (t / 4).softmax(1)))


def test_the_gradient_of_nkd() -> None:
    s, t, y = draw(rows=1)
    nkd(s.requires_grad_(), t, y, 1.5, 2.0).backward()
    k = int(y)
    rest = [c for c in range(5) if c != k]
    one_hot = torch.nn.functional.one_hot(y, 5)
    expected = t.softmax(1)[:, k] * (s.softmax(1) - one_hot)
    expected[:, rest] += 1.5 * 2.0 * ((s[:, rest] / 2).softmax(1) - (t[:, rest] / 2).softmax(1))
    torch.testing.assert_close(some(s.grad), expected)


def test_two_classes_leave_no_other_class_to_compare() -> None:
    s, t, y = draw(classes=2)
    torch.testing.assert_close(nkd(s, t, y, 100.0, 3.0), nkd(s, t, y, 0.0))
    torch.testing.assert_close(
        standardized(s).abs(), torch.full_like(s, math.sqrt(0.5)), rtol=1e-5, atol=0
    )
    kd(s.requires_grad_(), t, standardize=True).backward()
    assert some(s.grad).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_equal_logits_get_no_gradient(value: float, dtype: torch.dtype) -> None:
    """Their Z-score has no direction, nor has their correlation; 1 / 1e-8 would be the slope."""
    t = draw()[1].to(dtype)
    equal = torch.full_like(t, value).requires_grad_()
    assert (standardized(equal) == 0).all()
    for loss in (kd(equal, t, standardize=True), dist(equal, t)):
        (slope,) = torch.autograd.grad(loss, equal)
        assert (slope == 0).all()
    assert dist(equal, t) == 2


def test_a_batch_of_one_has_no_correlation_of_classes() -> None:
    s, t, _ = draw(rows=1)
    assert dist(s, t, beta=0.0) == 1
    torch.testing.assert_close(dist(s, t), 1 + dist(s, t, gamma=0.0))


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_huge_logits(scale: float) -> None:
    s, t, y = (x.float() if x.is_floating_point() else x for x in draw(scale=scale))
    losses: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda a, b: nkd(a, b, y, temperature=0.1),
        dist,
        wttm,
        mlkd,
        lambda a, b: ofa(a, b, y, 0.5),
        lambda a, b: ofa(a, b, y, 3.0),
        lambda a, b: kd(a, b, 0.1, standardize=True),
    ]
    for loss in losses:
        student, teacher = s.clone().requires_grad_(), t.clone().requires_grad_()
        value = loss(student, teacher)
        value.backward()
        assert value.isfinite()
        assert some(student.grad).isfinite().all()
        assert some(teacher.grad).isfinite().all()


def test_a_class_of_probability_0_costs_no_logarithm() -> None:
    """log(softmax) is -inf where a float32 probability is 0, as in the code of OFA's authors."""
    s, t = torch.tensor([[0.0, 200.0]]), torch.tensor([[1.0, 0.0]])
    assert torch.log(s.softmax(dim=1)).isinf().any()
    y = torch.tensor([0])
    assert ofa(s, t, y).item() == pytest.approx(200 * math.e / (1 + math.e))
    assert wttm(s, t, 1.0).item() == pytest.approx(200 * math.e / (1 + math.e) - 0.5822, abs=1e-3)
    assert nkd(s, t, y).item() == pytest.approx(200 * math.e / (1 + math.e))


def test_relations_of_near_equals_do_not_cancel() -> None:
    """|PP' - QQ'|^2 from |PP'|^2 and |QQ'|^2 would be rounding errors of these."""
    s, t, _ = (x.float() for x in draw(rows=2000, classes=4))
    near = s + 1e-4 * t
    exact = relation_levels(s.double(), near.double(), (4.0,))
    torch.testing.assert_close(relation_levels(s, near, (4.0,)).double(), exact, rtol=1e-2, atol=0)
    p, q = (x.div(4).softmax(1) for x in (s, near))
    apart = (p @ p.T).square().sum() + (q @ q.T).square().sum() - 2 * (p @ q.T).square().sum()
    assert (apart / 2000 - exact).abs() > 0.1 * exact


def test_targets_are_checked() -> None:
    s, t, y = draw()
    for loss in (nkd, ofa):
        with pytest.raises(TargetError):
            loss(s, t, y + 1)
    with pytest.raises(ValueError, match="temperature"):
        mlkd(s, t, (2.0, 0.0))
    with pytest.raises(ValueError, match="ridge"):
        skd(s, t, ridge=0.0)
    with pytest.raises(ValueError, match="no temperature"):
        mlkd(s, t, ())


# -- what the code of others computes, and ours does not --------------------------------------


def peer_nkd_with_the_target_left_in(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Its mask is all ones with a 1 set at the target, so that no class is removed."""
    target_part = -(t.softmax(1) * s.log_softmax(1)).gather(1, y[:, None]).mean()
    return target_part - 1.5 * (t.softmax(1) * s.log_softmax(1)).sum(1).mean()


def test_nkd_removes_the_target() -> None:
    s, t, y = draw()
    assert nkd(s, t, y).item() == pytest.approx(naive_nkd(s, t, y, 1.5, 1.0))
    assert not torch.isclose(nkd(s, t, y), peer_nkd_with_the_target_left_in(s, t, y), rtol=1e-2)
    shifted = s.clone()
    shifted[torch.arange(len(s)), y] += 1.0
    others = [nkd(x, t, y, 1e6) / 1e6 for x in (s, shifted)]
    torch.testing.assert_close(others[0], others[1], rtol=1e-5, atol=0)  # not a matter of others


def peer_dist_plus_of_classes(s: Tensor, t: Tensor) -> Tensor:
    """Adds the correlation of classes, where one minus it is meant."""
    return 1 - dist(s, t, beta=0.0)


def test_dist_falls_as_the_student_nears_the_teacher() -> None:
    s, t, _ = draw()
    near = [s + share * (t - s) for share in (0.0, 0.3, 0.6, 1.0)]
    ours = [dist(x, t, beta=0.0).item() for x in near]
    assert ours == sorted(ours, reverse=True)
    assert ours[-1] == pytest.approx(0, abs=1e-6)
    peers = [peer_dist_plus_of_classes(x, t).item() for x in near]
    assert peers == sorted(peers)  # it would train the student away


def peer_mlkd_of_rows(s: Tensor, t: Tensor, confident: Tensor) -> Tensor:
    """Multiplies the mean over rows by the mask of rows: a constant, whichever rows it keeps."""
    return (kd(s, t, 4.0) * ~confident).mean()


def test_mlkd_is_of_the_rows_it_is_given() -> None:
    """A mask of rows changes which rows are compared, not the factor of all of them."""
    s, t, _ = draw()
    first, last = torch.arange(6) < 3, torch.arange(6) >= 3
    torch.testing.assert_close(peer_mlkd_of_rows(s, t, first), peer_mlkd_of_rows(s, t, last))
    assert not torch.isclose(mlkd(s[~first], t[~first]), mlkd(s[~last], t[~last]), rtol=1e-3)


def test_mlkd_takes_every_temperature_of_the_logits_it_is_given() -> None:
    """The official sum over the strong view takes the weak view's logits at T 2 and 6."""
    weak, strong = (side[:2] for side in (draw(), draw(rows=7)))
    official = sum(
        kd(*(strong if temperature in (3.0, 4.0, 5.0) else weak), temperature)
        for temperature in TEMPERATURES
    )
    ours = sum(kd(*strong, temperature) for temperature in TEMPERATURES)
    relations = mlkd(*strong) - ours / 5
    assert relations > 0
    assert mlkd(*strong).item() == pytest.approx(naive_mlkd(*strong, TEMPERATURES))
    assert not torch.isclose(relations + official / 5, mlkd(*strong), rtol=1e-2)


def peer_skd(s: Tensor, t: Tensor, confident: Tensor, common: Tensor) -> Tensor:
    """Masks of rows and classes multiply means over all rows: factors, the same for any masks."""
    return (kd(s, t, 4.0) * ~confident).mean() + (direction_level(s, t, 0.1) * ~common).mean()


def test_skd_has_no_masks_that_are_factors() -> None:
    s, t, _ = draw(rows=8, classes=6)
    rows, classes = torch.arange(8) < 4, torch.arange(6) < 3
    values = [peer_skd(s, t, *masks) for masks in ((rows, classes), (~rows, ~classes))]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(2 * values[0], skd(s, t))


def naive_kernel(x: Tensor, gamma: float, order: int) -> Rows:
    rows = x.tolist()
    unit = [[v / math.sqrt(sum(a * a for a in row)) for v in row] for row in rows]
    cosines = [[sum(map(float.__mul__, a, b)) for b in unit] for a in unit]
    powers = range(order + 1)
    return [
        [
            math.exp(-2 * gamma) * sum((2 * gamma * c) ** p / math.factorial(p) for p in powers)
            for c in row
        ]
        for row in cosines
    ]


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.3, 1), (0.2, 5)])
def test_cc(gamma: float, order: int) -> None:
    s, t = draw()[0], draw(classes=7)[1]
    ours, theirs = naive_kernel(s, gamma, order), naive_kernel(t, gamma, order)
    gaps = [a - b for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    expected = sum(gap**2 for gap in gaps) / 6**2
    assert cc(s, t, gamma, order).item() == pytest.approx(expected, rel=1e-12)
    if order == 5:  # near the kernel that the series is of
        unit = torch.nn.functional.normalize(s)
        kernel = torch.exp(-gamma * torch.cdist(unit, unit).square())
        torch.testing.assert_close(torch.tensor(ours, dtype=s.dtype), kernel, rtol=0, atol=1e-4)


def peer_cc_of_neighbours(s: Tensor, t: Tensor) -> Tensor:
    """Products of the gaps of neighbouring rows of a batch, under the name of CC."""
    gap = (s - t).abs()
    return (gap[:-1] * gap[1:]).sum(1).mean()


def peer_cc_of_the_norm(s: Tensor, t: Tensor) -> Tensor:
    """Divides the norm by the squared number of rows, not the squared norm."""
    return (cc(s, t) * len(s) ** 2).sqrt() / len(s) ** 2


def test_cc_is_of_all_pairs_whatever_their_order() -> None:
    s, t, _ = draw()
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    moved = s[order], t[order]
    torch.testing.assert_close(cc(*moved), cc(s, t))
    assert not torch.isclose(peer_cc_of_neighbours(*moved), peer_cc_of_neighbours(s, t), rtol=1e-2)
    twice = s.repeat(2, 1), t.repeat(2, 1)  # a mean over pairs does not fall with their number
    torch.testing.assert_close(cc(*twice), cc(s, t))
    torch.testing.assert_close(2 * peer_cc_of_the_norm(*twice), peer_cc_of_the_norm(s, t))


def test_standardised_kd_keeps_t_squared() -> None:
    """A peer drops the factor where it is given no weight."""
    s, t, _ = draw()
    for temperature in (1.0, 2.0, 3.0):
        plain = (z_scores(x) / temperature for x in (s, t))
        expected = temperature**2 * kd(*plain, 1.0)
        torch.testing.assert_close(kd(s, t, temperature, standardize=True), expected)


def test_standardised_logits_are_invariant_to_shift_and_scale() -> None:
    s, t, y = draw()
    for loss in (
        lambda a, b: kd(a, b, 2.0, standardize=True),
        lambda a, b: dkd(a, b, y, standardize=True),
    ):
        torch.testing.assert_close(loss(3 * s + 1, 0.2 * t - 5), loss(s, t), rtol=1e-5, atol=1e-8)
