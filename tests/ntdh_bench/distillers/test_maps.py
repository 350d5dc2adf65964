"""AT and VID against loops written from their papers, at every position and at those that count."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Size, Tensor
from torch.nn import functional as F

from ntdh_bench.distillers import AT, VID, Combined, Distiller
from ntdh_bench.distillers.base import OneByOne
from ntdh_bench.distillers.functional import at, vid
from ntdh_bench.distillers.maps import on_one_grid, pooled
from ntdh_bench.errors import UserError
from ntdh_bench.layers import map_of, share_of
from tests.typed import some


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


Vector = list[float]


def positions(x: Tensor) -> list[list[Vector]]:
    """The channels of every position of every sample ``(N, C, *spatial)``."""
    return [sample.flatten(1).T.tolist() for sample in x]


def unit(values: Vector) -> Vector:
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def naive_at(student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> float:
    """Over the positions that count, as if the others were not there."""

    def attention(sample: list[Vector], places: Sequence[int]) -> Vector:
        return unit([sum(v * v for v in sample[p]) / len(sample[p]) for p in places])

    total, count = 0.0, 0
    for n, (ours, theirs) in enumerate(zip(positions(student), positions(teacher), strict=True)):
        everywhere = range(len(ours))
        places = [p for p in everywhere if counted is None or counted[n].flatten()[p]]
        pairs = zip(attention(ours, places), attention(theirs, places), strict=True)
        total += sum((a - b) ** 2 for a, b in pairs)
        count += len(places)
    return total / count


def naive_vid(
    student: Tensor, teacher: Tensor, variance: Vector, counted: Tensor | None = None
) -> float:
    terms = []
    for n, (ours, theirs) in enumerate(zip(positions(student), positions(teacher), strict=True)):
        for p, (mean, value) in enumerate(zip(ours, theirs, strict=True)):
            if counted is None or counted[n].flatten()[p]:
                for m, t, v in zip(mean, value, variance, strict=True):
                    terms.append(0.5 * ((m - t) ** 2 / v + math.log(v)))
    return sum(terms) / len(terms)


SHAPES = [(4, 3, 5), (4, 3, 2, 5), (1, 3, 2, 2, 3)]
VARIANCE = [0.3, 1.0, 7.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_at(shape: tuple[int, ...]) -> None:
    student, teacher = draw(*shape), draw(shape[0], 7, *shape[2:], seed=1)
    assert at(student, teacher).item() == pytest.approx(naive_at(student, teacher), rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), *SHAPES])
def test_vid(shape: tuple[int, ...]) -> None:
    student, teacher = draw(*shape), draw(*shape, seed=1)
    found = vid(student, teacher, torch.tensor(VARIANCE, dtype=torch.float64)).item()
    if len(shape) == 2:
        student, teacher = student.unsqueeze(-1), teacher.unsqueeze(-1)
    assert found == pytest.approx(naive_vid(student, teacher, VARIANCE), rel=1e-12)


def test_positions_that_do_not_count_are_as_if_they_were_not_there() -> None:
    student, teacher = draw(4, 3, 2, 5), draw(4, 3, 2, 5, seed=1)
    counted = draw(4, 2, 5, seed=2) > 0
    variance = torch.tensor(VARIANCE, dtype=torch.float64)
    for found, naive in (
        (at(student, teacher, counted.double()), naive_at(student, teacher, counted)),
        (
            vid(student, teacher, variance, counted.double()),
            naive_vid(student, teacher, VARIANCE, counted),
        ),
    ):
        assert found.item() == pytest.approx(naive, rel=1e-12)
    leaf = student.clone().requires_grad_()
    at(leaf, teacher, counted.double()).backward()
    assert (some(leaf.grad).movedim(1, -1)[~counted] == 0).all()


def test_gradients() -> None:
    student, teacher = (draw(2, 3, 2, 3, seed=seed).requires_grad_() for seed in range(2))
    variance = torch.tensor(VARIANCE, dtype=torch.float64, requires_grad=True)
    share = torch.rand(2, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, t: at(s, t, share), (student, teacher))
    assert torch.autograd.gradcheck(vid, (student, teacher, variance, share))


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_at_depends_on_no_scale(scale: float) -> None:
    student, teacher = draw(4, 3, 2, 5).float(), draw(4, 3, 2, 5, seed=1).float()
    torch.testing.assert_close(at(student * scale, teacher / scale), at(student, teacher))


def test_the_larger_map_is_averaged_along_each_axis() -> None:
    """Peers pool to a square of the smaller height, which a map of 3 x 4 is not."""
    large, small = draw(2, 5, 6, 8), draw(2, 5, 3, 4, seed=1)
    means = large.unflatten(2, (3, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(at(large, small), at(means, small))
    torch.testing.assert_close(at(small, large), at(small, means))
    as_peers = F.adaptive_avg_pool2d(large, (3, 3))
    assert as_peers.shape != small.shape
    # Each axis by itself, and members of a stack at once.
    one, other, _ = on_one_grid(draw(2, 5, 6, 4), draw(2, 5, 3, 8))
    assert one.shape == other.shape == (2, 5, 3, 4)
    both = torch.stack([large, large + 1])
    torch.testing.assert_close(pooled(both, (3, 4))[1], means + 1)


def test_a_share_is_averaged_too() -> None:
    share = torch.zeros(2, 6, 8, dtype=torch.float64)
    share[:, :2, :4] = 1
    found = on_one_grid(draw(2, 5, 6, 8), draw(2, 5, 3, 4), share)[2]
    wanted = torch.zeros(2, 3, 4, dtype=torch.float64)
    wanted[:, :1, :2] = 1
    torch.testing.assert_close(some(found), wanted)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="expected maps"):
        at(draw(4, 3), draw(4, 3))
    with pytest.raises(ValueError, match="different axes"):
        at(draw(4, 3, 2), draw(4, 3, 2, 2))
    with pytest.raises(ValueError, match="differ"):
        vid(draw(4, 3, 2), draw(4, 3, 3), torch.ones(3))


WIDTHS = {"a": 3, "b": 5}, {"a": 4, "b": 2}


def outputs(seed: int, widths: dict[str, int], rows: int = 4) -> dict[str, Tensor]:
    sizes = {"a": (6, 8), "b": (2, 3)}
    return {name: draw(rows, widths[name], *sizes[name], seed=seed) for name in widths}


STUDENT, TEACHER = outputs(0, WIDTHS[0]), outputs(1, WIDTHS[1])
NOTHING = torch.arange(4)


def test_several_layers_are_summed_up() -> None:
    several = AT(2.0, layer=["a", "b"])
    assert several.student_layers == several.teacher_layers == ["a", "b"]
    loss = several.distill(STUDENT, TEACHER, NOTHING, NOTHING)
    each = [at(STUDENT[name], TEACHER[name]) for name in ("a", "b")]
    torch.testing.assert_close(loss, 2 * (each[0] + each[1]))
    crossed = AT(student_layer=["a", "a"], teacher_layer=["a", "b"])
    assert (crossed.student_layers, crossed.teacher_layers) == (["a"], ["a", "b"])
    loss = crossed.distill(STUDENT, TEACHER, NOTHING, NOTHING)
    each[1] = at(STUDENT["a"], TEACHER["b"])
    torch.testing.assert_close(loss, 1000 * (each[0] + each[1]))
    with pytest.raises(UserError, match="as many of both"):
        AT(layer="a", teacher_layer=["a", "b"])
    with pytest.raises(UserError, match=r"distiller\.layer"):
        _ = AT().student_layers


def test_maps_of_dense_tasks_and_their_shares_are_taken() -> None:
    share = torch.rand(4, 6, 8, dtype=torch.float64)
    averages = {"a": draw(4, 3)}, {"a": draw(4, 4)}
    student = {**averages[0], map_of("a"): STUDENT["a"], share_of("a"): share}
    teacher = {**averages[1], map_of("a"): TEACHER["a"], share_of("a"): share}
    found = AT(1.0, layer="a").distill(student, teacher, NOTHING, NOTHING)
    torch.testing.assert_close(found, at(STUDENT["a"], TEACHER["a"], share))


def built(member: Distiller, seed: int = 0) -> Distiller:
    member.build(*WIDTHS, 4, seed)
    return member.double()


def test_vid_regresses_position_by_position() -> None:
    one = VID(layer=["a", "b"], depth=2)
    built(one)
    first, second = one.regressors[1].get_submodule("0"), one.regressors[1].get_submodule("2")
    hidden = torch.einsum("oc,nchw->nohw", first.get_parameter("weight"), STUDENT["b"]).relu()
    means = torch.einsum("oc,nchw->nohw", second.get_parameter("weight"), hidden)
    with torch.no_grad():
        one.raw_variances[1].copy_(torch.tensor([-0.5, 2.0]))
    variance = [math.log1p(math.exp(raw)) + 1e-5 for raw in (-0.5, 2.0)]
    found = one(STUDENT["b"], TEACHER["b"], tap=1).item()
    assert found == pytest.approx(naive_vid(means, TEACHER["b"], variance), rel=1e-9)
    torch.testing.assert_close(one.variances["b"].tolist(), variance)
    whole = one.distill(STUDENT, TEACHER, NOTHING, NOTHING)
    torch.testing.assert_close(whole.item(), found + one(STUDENT["a"], TEACHER["a"]).item())


def test_the_variances_begin_where_they_should_and_are_learned() -> None:
    """A feature that the student shows gets a small variance, noise keeps its own."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(512, 4, generator=generator)
    noise = 3 * torch.randn(512, generator=generator)
    teacher = torch.stack([student[:, 0] - student[:, 1], noise], dim=1)
    one = VID(layer="x", depth=1)
    one.build({"x": 4}, {"x": 2}, 512, 0)
    assert one.variances["x"].tolist() == pytest.approx([5.0, 5.0])
    optimizer = torch.optim.Adam(one.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        one(student, teacher).backward()
        optimizer.step()
    told, untold = one.variances["x"].tolist()
    assert told < 0.01
    assert untold == pytest.approx(noise.var().item(), rel=0.1)


@pytest.mark.parametrize("raw", [-200.0, 200.0])
def test_no_variance_overflows(raw: float) -> None:
    """Peers take log(1 + exp(raw)), which is infinite from about 89 on."""
    one = VID(layer="x")
    one.build({"x": 3}, {"x": 2}, 4, 0)
    with torch.no_grad():
        one.raw_variances[0].fill_(raw)
    loss = one(draw(4, 3).float(), draw(4, 2).float())
    loss.backward()
    assert loss.isfinite()
    assert all(some(p.grad).isfinite().all() for p in one.parameters())
    assert torch.log(1 + torch.exp(torch.tensor(200.0))).isinf()


def test_vid_arguments() -> None:
    for wrong, message in (({"depth": 0}, "depth"), ({"initial_variance": 1e-5}, "variance")):
        with pytest.raises(UserError, match=message):
            VID(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no regressor"):
        VID(layer="x")(draw(4, 3), draw(4, 2))
    assert VID(layer="x", depth=1).stack_key != VID(layer="y", depth=1).stack_key
    assert built(VID(layer="a", depth=1)).stack_key != built(VID(layer="a", depth=2)).stack_key


SIZES = {
    "map": Size([3, 4, 5]), "other map": Size([3, 8, 9]), "line": Size([3, 4]),
    "vector": Size([3]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("distiller", "aligned", "message"),
    [
        (AT(layer="vector"), True, "gives vectors"),
        (AT(layer="map"), False, "not the same places"),
        (VID(layer=["vector", "map"]), False, "not the same places"),
        (Combined([AT(layer="map")]), False, "not the same places"),
        (VID(student_layer="map", teacher_layer="line"), True, "as many axes"),
        (VID(student_layer="map", teacher_layer="vector"), True, "as many axes"),
    ],
)
def test_what_has_no_common_positions_is_refused(
    distiller: Distiller, aligned: bool, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        distiller.check(SIZES, SIZES, aligned)
    assert len(str(error.value)) <= 400


def test_what_has_common_positions_is_not() -> None:
    VID(layer="vector").check(SIZES, SIZES, False)
    for layers in (
        {"layer": ["map", "line"]},
        {"student_layer": "map", "teacher_layer": "other map"},
    ):
        AT(**layers).check(SIZES, SIZES, True)  # type: ignore[arg-type]


STACKS: dict[str, list[Distiller]] = {
    "AT": [AT(layer=["a", "b"]), AT(0.5, layer=["a", "b"]), AT(2.0, layer=["a", "b"])],
    "VID": [VID(layer=["a", "b"]), VID(0.5, layer=["a", "b"]), VID(layer=["a", "b"])],
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("rows", [4, 1, 0])
def test_a_stack_is_its_members(name: str, rows: int) -> None:
    members = [built(copy.deepcopy(one), seed) for seed, one in enumerate(STACKS[name])]
    stack = type(members[0]).stack(copy.deepcopy(members))
    assert type(stack) is type(members[0])
    student, teacher = (
        {
            layer: torch.stack(
                [outputs(10 * k + side, WIDTHS[side], rows)[layer] for k in range(3)]
            )
            for layer in ("a", "b")
        }
        for side in (0, 1)
    )
    leaves = [value.requires_grad_() for side in (student, teacher) for value in side.values()]
    index = torch.arange(rows).expand(3, rows)
    ours = stack.distill(student, teacher, index, index)
    expected = torch.stack(
        [
            member.distill(
                {layer: value[k] for layer, value in student.items()},
                {layer: value[k] for layer, value in teacher.items()},
                index[k],
                index[k],
            )
            for k, member in enumerate(members)
        ]
    )
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), leaves, retain_graph=True),
        torch.autograd.grad(expected.sum(), leaves, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    names = [f"variance of {layer}" for layer in ("a", "b")] if name == "VID" else []
    for joined in (stack, OneByOne(members)):
        assert list(joined.estimates()) == names
        for part, values in joined.estimates().items():
            of_each = [member.estimates()[part] for member in members]
            torch.testing.assert_close(values, torch.stack(of_each))
    if name == "VID" and rows:
        gradients = torch.autograd.grad(ours.sum(), list(stack.parameters()))
        of_members = [
            torch.autograd.grad(expected.sum(), list(m.parameters()), retain_graph=True)
            for m in members
        ]
        for k in range(3):
            for one, other in zip(gradients, of_members[k], strict=True):
                torch.testing.assert_close(one[k], other, rtol=1e-12, atol=1e-12)
