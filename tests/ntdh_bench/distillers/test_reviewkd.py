"""ReviewKD against loops over positions and cells, and its fusion against the paper's figure."""

from __future__ import annotations

import pytest
import torch
from torch import Size, Tensor
from torch.nn import functional as F

from ntdh_bench.distillers import ReviewKD
from ntdh_bench.distillers.functional import reviewkd
from ntdh_bench.errors import UserError
from tests.typed import some


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def naive(student: Tensor, teacher: Tensor) -> float:
    """Sizes are multiples of 4."""

    def error(height: int, width: int) -> float:
        """Of means over cells of so many positions."""
        total, count = 0.0, 0
        for ours, theirs in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
            for y in range(0, student.shape[2], height):
                for x in range(0, student.shape[3], width):
                    cell = slice(y, y + height), slice(x, x + width)
                    gap = ours[cell].sum().item() - theirs[cell].sum().item()
                    total, count = total + (gap / (height * width)) ** 2, count + 1
        return total / count

    height, width = student.shape[2:]
    levels = [error(1, 1), *(error(height // side, width // side) for side in (4, 2, 1))]
    return sum(value / 2**n for n, value in enumerate(levels)) / (1 + 1 / 2 + 1 / 4 + 1 / 8)


def test_the_loss() -> None:
    student, teacher = draw(2, 3, 8, 12), draw(2, 3, 8, 12, seed=1)
    assert reviewkd(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-12)


def test_small_maps_have_fewer_averages() -> None:
    student, teacher = draw(2, 3, 2, 5), draw(2, 3, 2, 5, seed=1)
    gap = student - teacher
    wanted = (gap.square().mean() + gap.mean(dim=(2, 3)).square().mean() / 2) / 1.5
    torch.testing.assert_close(reviewkd(student, teacher), wanted)
    with pytest.raises(ValueError, match="differ"):
        reviewkd(student, teacher[..., :2])


def test_positions_that_do_not_count() -> None:
    """Where averages are not compared."""
    student, teacher = draw(2, 3, 1, 5), draw(2, 3, 1, 5, seed=1)
    counted = draw(2, 1, 5, seed=2) > 0
    rows = (student - teacher).square().movedim(1, -1)[counted]
    torch.testing.assert_close(reviewkd(student, teacher, counted.double()), rows.mean())


def built() -> ReviewKD:
    one = ReviewKD(2.0, layer=["a", "b"])
    one.build({"a": 3, "b": 4}, {"a": 5, "b": 6}, 4, 0)
    return one.double()


STUDENT = {"a": draw(2, 3, 6, 8), "b": draw(2, 4, 3, 4, seed=1)}
TEACHER = {"a": draw(2, 5, 6, 8, seed=2), "b": draw(2, 6, 3, 4, seed=3)}
INDEX = torch.arange(2)


def test_stages_are_fused_from_the_deepest_on() -> None:
    """Peers interpolate to squares of the height, which maps of 6 x 8 are not."""
    one = built()
    a, b = (one.fusions[tap] for tap in (0, 1))
    deep = b.narrow(STUDENT["b"])
    shallow, larger = a.narrow(STUDENT["a"]), deep.repeat_interleave(2, 2).repeat_interleave(2, 3)
    share = torch.sigmoid(a.attention(torch.cat([shallow, larger], dim=1)))
    fused = shallow * share[:, 0, None] + larger * share[:, 1, None]
    wanted = reviewkd(b.widen(deep), TEACHER["b"]) + reviewkd(a.widen(fused), TEACHER["a"])
    found = one.distill(STUDENT, TEACHER, INDEX, INDEX)
    torch.testing.assert_close(found, 2 * wanted)
    assert b.attention is None
    assert b.narrow[0].weight.shape == (4, 4, 1, 1)
    assert a.narrow[0].weight.shape == (4, 3, 1, 1)
    assert F.interpolate(deep, (6, 6)).shape != shallow.shape
    found.backward()
    assert all(some(parameter.grad).isfinite().all() for parameter in one.parameters())


@pytest.mark.parametrize("few", [(slice(0),), (slice(1), ..., slice(1), slice(1))])
def test_too_little_to_normalise(few: tuple[slice, ...]) -> None:
    leaves = {name: value[few].clone().requires_grad_() for name, value in STUDENT.items()}
    loss = built().distill(leaves, {n: v[few] for n, v in TEACHER.items()}, INDEX, INDEX)
    loss.backward()
    assert loss == 0
    assert (some(leaves["b"].grad) == 0).all()


def test_what_it_is_not_defined_on() -> None:
    sizes = {"line": Size([3, 4]), "vector": Size([3])}
    for layer, message in (("line", "maps of images"), ("vector", "gives vectors")):
        with pytest.raises(UserError, match=message):
            ReviewKD(layer=layer).check(sizes, sizes, True)
    with pytest.raises(UserError, match="no fusion"):
        ReviewKD(layer="a").distill(STUDENT, TEACHER, INDEX, INDEX)


def test_fusions_come_from_the_seed() -> None:
    states = [one.state_dict() for one in (built(), built())]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
