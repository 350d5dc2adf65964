"""2DPASS: segmentation of points by a sparse 3D network that learns from an image branch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntdh_bench.errors import UserError
from ntdh_bench.imagenet import IMAGENET_MEAN, IMAGENET_STD

from .padding import pad_to_multiple
from .resnet import DOWNSAMPLING, WIDTHS, Backbone, ResNetEncoder
from .sparse import Shape, SparseTensor, SubmanifoldConv3d, voxel_coordinates, voxel_keys

SCALES = (2, 4, 8, 16)

_POINT_FEATURES = 4 + 3 + 3  # x, y, z, remission; offsets from the voxel's mean and centre
_HEAD_WIDTH = 128
_SLOPE = 0.1  # of LeakyReLU
_FARTHEST = 10_000.0  # metres


class TwoDPASSNet(nn.Module):
    """2D priors assisted semantic segmentation (Yan et al., ECCV 2022).

    A sparse 3D branch (SPVCNN) predicts every point. In training, the features that an image
    branch has at the points' pixels are fused with the 3D features at scales 2, 4, 8 and 16; each
    scale has a head on the fused and one on the 3D features, so that the first can teach the
    second. Prediction needs the 3D branch only, 1,933,460 of 26,528,456 parameters with 20 classes.

    Voxels nest (one at scale 2s is eight at scale s) and lie on a fixed grid, so that in eval mode
    a scan's prediction does not depend on the others in its batch.

    Args:
        num_classes: logits per point.
        width: channels of both branches; 64 as published.
        voxel_size: edge of the finest voxels in metres.
        backbone: of the image branch, 34 layers as published, or 18 for small runs.
        pretrained: a file with torchvision's weights of the backbone; random weights without it.

    Raises:
        UserError: ``pretrained`` is missing, damaged, or holds another network.
    """

    def __init__(
        self,
        num_classes: int = 20,
        width: int = 64,
        voxel_size: float = 0.1,
        backbone: Backbone = "resnet34",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.points = _PointBranch(num_classes, width, voxel_size)
        self.camera = _CameraBranch(width, backbone, pretrained)
        self.fusion = nn.ModuleList(_Fusion(width) for _ in SCALES)
        self.fused_heads = nn.ModuleList(_head(width, num_classes) for _ in SCALES)
        self.point_heads = nn.ModuleList(_head(width, num_classes) for _ in SCALES)
        self.camera_head = _head(len(SCALES) * width, num_classes)

    def forward(
        self, points: Mapping[str, Tensor], image: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return logits for every point.

        Args:
            points: ``points`` ``(P, 4)`` (x, y, z in metres, remission), ``scan`` int64 ``(P,)``
                and, with an image, ``pixel`` int64 ``(P,)``: flat positions in ``(B, H, W)``.
            image: ``(B, 3, H, W)`` in [0, 1], any H and W; without it only the 3D branch runs.

        Returns:
            ``logits`` ``(P, num_classes)``, the prediction. With an image also ``fused`` and
            ``single`` ``(4, P, num_classes)``, from the fused and from the 3D features of each
            scale, and ``camera`` ``(P, num_classes)``, from the fused features of all scales.

        Raises:
            UserError: a point is not finite, or farther than 10 km from the sensor.
        """
        logits, features = self.points(points["points"], points["scan"])
        if image is None:
            return {"logits": logits}
        seen = self.camera(image, points["pixel"])
        fused = [fuse(*both) for fuse, *both in zip(self.fusion, seen, features, strict=True)]
        return {
            "logits": logits,
            "fused": _apply_each(self.fused_heads, fused),
            "single": _apply_each(self.point_heads, features),
            "camera": self.camera_head(torch.cat(fused, dim=1)),
        }


@dataclass(frozen=True, eq=False)
class _Grid:
    """Occupied voxels of one scale.

    Attributes:
        coordinates: int64 ``(N, 4)``: sample, then three indices within ``shape``.
        shape: voxels along each axis.
        batch_size: number of samples.
        points: ``(N, 1)``, how many points each voxel holds.
        parent: int64 ``(N,)``, each voxel's row among those of the next coarser scale.
        parents: how many voxels that scale has.
    """

    coordinates: Tensor
    shape: Shape
    batch_size: int
    points: Tensor
    parent: Tensor
    parents: int


class _PointBranch(nn.Module):
    """SPVCNN as in 2DPASS: sparse convolutions with a point-wise network beside them."""

    def __init__(self, num_classes: int, width: int, voxel_size: float) -> None:
        super().__init__()
        self.voxel_size = voxel_size
        self.embed = nn.Sequential(
            nn.Linear(_POINT_FEATURES, width), nn.ReLU(inplace=True), nn.Linear(width, width)
        )
        self.stages = nn.ModuleList(_Stage(width) for _ in SCALES)
        self.head = _head(len(SCALES) * width, num_classes)

    def forward(self, points: Tensor, scan: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the points' logits ``(P, C)`` and each stage's voxel features at the points."""
        row, grids = _voxelise(points, scan, self.voxel_size)
        x = self._embedded(points, row, len(grids[0].coordinates))
        fine, coarse = [], []
        for stage, grid in zip(self.stages, grids, strict=True):
            voxels, pooled, x = stage(x, grid)
            fine.append(voxels.index_select(0, row))
            row = grid.parent.index_select(0, row)
            coarse.append(pooled.index_select(0, row))
        return self.head(torch.cat(coarse, dim=1)), fine

    def _embedded(self, points: Tensor, row: Tensor, rows: int) -> Tensor:
        position = points[:, :3]
        once = torch.ones_like(points[:, :1])
        mean = _pool(position, row, rows, once).index_select(0, row)
        centre = ((position / self.voxel_size).floor() + 0.5) * self.voxel_size
        values = self.embed(torch.cat([points, position - mean, position - centre], dim=1))
        return _pool(values, row, rows, once)


class _Stage(nn.Module):
    """Sparse residual blocks on one grid, then pooling to the next coarser one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_SparseBlock(width), _SparseBlock(width))
        self.direct = _dense(width, width)
        self.context = nn.Sequential(
            _dense(width, width // 2),
            _Norm(width // 2),
            _dense(width // 2, width // 2),
            _Norm(width // 2),
            _dense(width // 2, width),
        )
        self.join = nn.Sequential(_dense(2 * width, width), nn.Linear(width, width))

    def forward(self, x: Tensor, grid: _Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Return the voxel features, the pooled features, and the next stage's input."""
        sparse = SparseTensor(x, grid.coordinates, grid.shape, grid.batch_size)
        voxels = self.blocks(sparse).features
        both = x + voxels
        context = self.context(
            _pool(both, grid.parent, grid.parents, torch.ones_like(grid.points))
        ).index_select(0, grid.parent)
        # The points of a voxel share their features: a mean over points is one over voxels,
        # weighted by how many points they hold.
        joined = self.join(torch.cat([self.direct(both), context], dim=1))
        pooled = _pool(joined, grid.parent, grid.parents, grid.points)
        return voxels, pooled, pooled + _pool(voxels, grid.parent, grid.parents, grid.points)


class _SparseBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Linear(width, width, bias=False), _Norm(width))
        self.conv1 = SubmanifoldConv3d(width, width)
        self.norm1 = nn.Sequential(_Norm(width), nn.LeakyReLU(_SLOPE))
        self.conv2 = SubmanifoldConv3d(width, width)
        self.norm2 = _Norm(width)
        self.activation = nn.LeakyReLU(_SLOPE)

    def forward(self, x: SparseTensor) -> SparseTensor:
        hidden = self.conv1(x)
        hidden = self.conv2(hidden.with_features(self.norm1(hidden.features)))
        residual = self.norm2(hidden.features)
        return x.with_features(self.activation(residual + self.shortcut(x.features)))


class _CameraBranch(nn.Module):
    """ResNet with one decoder per scale, read at the points' pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int, backbone: Backbone, pretrained: str | None) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(3, backbone, pretrained=pretrained)
        self.decoders = nn.ModuleList(
            [
                _decoder(WIDTHS[0], width, doublings=0),
                _decoder(WIDTHS[1], width, doublings=0),
                _decoder(WIDTHS[2], width, doublings=1),
                _decoder(WIDTHS[3], width, doublings=2),
            ]
        )
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, image: Tensor, pixel: Tensor) -> list[Tensor]:
        """Return, for each scale, features ``(P, width)`` at the points' pixels."""
        height, width = image.shape[-2:]
        sample, row, column = pixel // (height * width), pixel // width % height, pixel % width
        padded = pad_to_multiple((image - self.mean) / self.std, DOWNSAMPLING)
        features = []
        for decoder, encoded in zip(self.decoders, self.encoder(padded), strict=True):
            decoded = decoder(encoded)
            # What nearest-neighbour upsampling would give, without the full-size maps.
            step = padded.shape[-1] // decoded.shape[-1]
            features.append(decoded[sample, :, row // step, column // step])
        return features


class _Fusion(nn.Module):
    """Fuses image and 3D features of a scale, weighted by a gate (2DPASS, Sec. 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.learner = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True))
        self.join = nn.Linear(2 * width, width)
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        joined = self.join(torch.cat([image, self.learner(points)], dim=1))
        return torch.relu(joined * self.gate(joined))


class _Norm(nn.BatchNorm1d):
    """Batch normalisation over rows; with its running statistics where a batch has fewer than 2."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1 or not self.training:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def _voxelise(points: Tensor, scan: Tensor, voxel_size: float) -> tuple[Tensor, list[_Grid]]:
    """Return each point's row in the finest grid, and the grids that the stages work on."""
    position = points[:, :3]
    if not (position.abs() <= _FARTHEST).all():
        raise UserError(
            f"a point is not finite or farther than {_FARTHEST:.0f} m from the sensor: remove "
            "such points from the scan"
        )
    indices = torch.cat([scan[:, None], (position / voxel_size).floor().long()], dim=1)
    # With the sensor's own voxel there are bounds even without points. Bounds that are multiples
    # of the coarsest voxel keep the grid where it is, whatever the scans.
    covered = F.pad(indices, (0, 0, 0, 1))
    low, high = covered.amin(dim=0), covered.amax(dim=0)
    low = low.div(SCALES[-1], rounding_mode="floor") * SCALES[-1]
    batch_size, *sides = (high - low + 1).tolist()
    shape = _shape(-(-side // SCALES[-1]) * SCALES[-1] for side in sides)

    keys = voxel_keys(indices - low, shape, batch_size)
    keys, row, count = torch.unique(keys, return_inverse=True, return_counts=True)
    coordinates, number = voxel_coordinates(keys, shape), count.to(points.dtype)[:, None]
    grids = []
    for _ in SCALES:
        coarser = _shape(side // 2 for side in shape)
        halved = torch.cat([coordinates[:, :1], coordinates[:, 1:] // 2], dim=1)
        keys = voxel_keys(halved, coarser, batch_size)
        keys, parent = torch.unique(keys, return_inverse=True)
        grids.append(_Grid(coordinates, shape, batch_size, number, parent, len(keys)))
        coordinates, shape = voxel_coordinates(keys, coarser), coarser
        number = number.new_zeros(len(keys), 1).index_add(0, parent, number)
    return row, grids


def _shape(sides: Iterable[int]) -> Shape:
    first, second, third = sides
    return first, second, third


def _pool(values: Tensor, index: Tensor, rows: int, weight: Tensor) -> Tensor:
    """Return the weighted mean of the values that ``index`` sends to each of ``rows``.

    Args:
        values: ``(N, C)``; half precision is summed in float32.
        index: int64 ``(N,)``.
        rows: how many there are; each gets at least one value.
        weight: ``(N, 1)``.
    """
    weighted = values * weight
    sums = weighted.new_zeros(rows, values.shape[1]).index_add(0, index, weighted)
    return sums / weight.new_zeros(rows, 1).index_add(0, index, weight)


def _apply_each(heads: Iterable[nn.Module], features: Sequence[Tensor]) -> Tensor:
    return torch.stack([head(values) for head, values in zip(heads, features, strict=True)])


def _head(in_features: int, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(in_features, _HEAD_WIDTH),
        nn.ReLU(inplace=True),
        nn.Linear(_HEAD_WIDTH, num_classes),
    )


def _dense(in_features: int, out_features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.LeakyReLU(_SLOPE, inplace=True))


def _decoder(in_channels: int, width: int, doublings: int) -> nn.Module:
    """Return a 7x7 convolution and as many transposed ones as double the resolution."""
    hidden = [64] * doublings + [width]
    layers = [nn.Conv2d(in_channels, hidden[0], 7, padding=3, bias=False), nn.ReLU(inplace=True)]
    for before, after in pairwise(hidden):
        doubling = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
        layers += [doubling, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
