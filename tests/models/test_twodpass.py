from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ntdh_bench.errors import UserError
from ntdh_bench.models.twodpass import TwoDPASSNet, _pool, _voxelise

HEIGHT, WIDTH = 37, 61


def small(**settings: Any) -> TwoDPASSNet:
    torch.manual_seed(0)
    return TwoDPASSNet(num_classes=5, width=8, backbone="resnet18", **settings)


def scans(*sizes: int) -> tuple[dict[str, Tensor], Tensor]:
    """Points and images of as many samples as there are sizes."""
    generator = torch.Generator().manual_seed(1)
    count = sum(sizes)
    span, low = torch.tensor([9.0, 8.0, 2.0, 1.0]), torch.tensor([0.0, -4.0, -1.5, 0.0])
    scan = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    pixel = torch.randint(HEIGHT * WIDTH, (count,), generator=generator)
    points = {
        "points": torch.rand(count, 4, generator=generator) * span + low,
        "scan": scan,
        "pixel": scan * HEIGHT * WIDTH + pixel,
    }
    return points, torch.rand(len(sizes), 3, HEIGHT, WIDTH, generator=generator)


def test_sizes() -> None:
    with torch.device("meta"):
        network = TwoDPASSNet()
    assert sum(p.numel() for p in network.parameters()) == 26_528_456
    # the published "1.9M" of the 3D branch, the only one that prediction needs
    assert sum(p.numel() for p in network.points.parameters()) == 1_933_460


def test_logits_for_every_point() -> None:
    points, image = scans(300, 200)
    network = small()
    logits = network(points, image)
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "logits": (500, 5),
        "fused": (4, 500, 5),
        "single": (4, 500, 5),
        "camera": (500, 5),
    }
    assert list(network(points)) == ["logits"]


def test_prediction_needs_no_image() -> None:
    points, image = scans(300)
    network = small().eval()
    assert torch.equal(network(points)["logits"], network(points, image)["logits"])


def test_gradients_reach_every_parameter() -> None:
    network = small()
    logits = network(*scans(300, 200))
    sum(value.square().mean() for value in logits.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_scan_does_not_depend_on_the_others() -> None:
    points, image = scans(300, 200)
    points["points"][300:, :3] -= 37.3  # the second scan shifts the bounds of the grid
    network = small().eval()
    both = network(points, image)
    alone = network({name: value[:300] for name, value in points.items()}, image[:1])
    for name, value in alone.items():
        assert torch.allclose(both[name][..., :300, :], value, atol=1e-6), name


def test_points_in_another_order() -> None:
    points, image = scans(300)
    network = small().eval()
    order = torch.randperm(300)
    shuffled = network({name: value[order] for name, value in points.items()}, image)
    for name, value in network(points, image).items():
        assert torch.allclose(shuffled[name], value[..., order, :], atol=1e-5), name


def test_image_features_are_those_at_the_pixel() -> None:
    points, image = scans(300, 200)
    camera = small().eval().camera
    seen = camera(image, points["pixel"])
    normalised = F.pad((image - camera.mean) / camera.std, (0, 3, 0, 11))
    for decoder, encoded, found in zip(
        camera.decoders, camera.encoder(normalised), seen, strict=True
    ):
        full = F.interpolate(decoder(encoded), size=(48, 64))[..., :HEIGHT, :WIDTH]
        assert torch.equal(found, full.permute(0, 2, 3, 1).flatten(0, 2)[points["pixel"]])


def test_voxels_nest_and_count_their_points() -> None:
    points, _ = scans(300, 200)
    row, grids = _voxelise(points["points"], points["scan"], 0.1)
    for level, grid in enumerate(grids):
        own = torch.cat(
            [points["scan"][:, None], (points["points"][:, :3] / (0.1 * 2**level)).floor().long()],
            dim=1,
        )
        shift = (own - grid.coordinates[row]).unique(dim=0)
        assert len(shift) == 1  # the same shift for every point
        assert len(own.unique(dim=0)) == len(grid.coordinates)
        assert torch.equal(row.bincount(), grid.points[:, 0].long())
        assert all(side % 2 ** (4 - level) == 0 for side in grid.shape)
        assert (grid.coordinates[:, 1:] < torch.tensor(grid.shape)).all()
        row = grid.parent[row]
        assert grid.parents == row.max() + 1


def test_pool_is_a_weighted_mean() -> None:
    values = torch.tensor([[1.0], [3.0], [5.0]])
    weight = torch.tensor([[1.0], [3.0], [2.0]])
    pooled = _pool(values, torch.tensor([1, 1, 0]), 2, weight)
    assert pooled.tolist() == [[5.0], [2.5]]


def test_without_points() -> None:
    points, image = scans(4)
    network = small().eval()
    empty = {name: value[:0] for name, value in points.items()}
    assert network(empty, image)["fused"].shape == (4, 0, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_stray_points(value: float) -> None:
    points, _ = scans(30)
    points["points"][7, 1] = value
    with pytest.raises(UserError, match="not finite or farther than 10000 m"):
        small()(points)


def test_mixed_precision() -> None:
    network = small()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(*scans(300, 200))
    loss = sum(value.float().square().mean() for value in logits.values())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_it_learns_where_points_are() -> None:
    points, _ = scans(400)
    target = (points["points"][:, 1] > 0).long() + 2 * (points["points"][:, 2] > -0.5).long()
    network = small()
    optimizer = torch.optim.Adam(network.points.parameters(), lr=0.01)
    for _ in range(40):
        loss = F.cross_entropy(network(points)["logits"], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (network(points)["logits"].argmax(dim=1) == target).float().mean()
    assert accuracy > 0.9


@pytest.mark.parametrize("count", [0, 1])
def test_trains_with_hardly_any_points(count: int) -> None:
    points, image = scans(count)
    network = small()
    logits = network(points, image)
    sum(value.square().sum() for value in logits.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(value.isfinite().all() for value in network.state_dict().values())
