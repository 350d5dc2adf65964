"""AICNet's block; what it shares with DDRNet is tested there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ntdh_bench.models.aicnet import AICBlock3d


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_voxel_that_chooses_one_kernel_sees_no_other(chosen: int) -> None:
    block = AICBlock3d(2, 3).double()
    for parameter in block.parameters():
        parameter.data.abs_()
    # Positive features, so that this kernel's score is far above the two others'.
    block.share.weight.data.zero_().view(3, 3, 3)[:, chosen] = 1e4
    volume = 1 + torch.rand(1, 2, 9, 10, 11, dtype=torch.float64)
    narrow = mixed = F.conv3d(volume, block.narrow.weight)
    for axis in range(3):
        convolution = block.axes[axis][chosen]  # type: ignore[index]
        padding = [size // 2 for size in convolution.weight.shape[2:]]
        assert sorted(padding) == [0, 0, chosen + 1]
        mixed = F.conv3d(mixed, convolution.weight, convolution.bias, padding=padding)
    expected = volume + F.conv3d(mixed + narrow, block.widen.weight)
    torch.testing.assert_close(block(volume), expected)


def test_shares_of_kernels_sum_to_one() -> None:
    """Kernels that are equal, as far as they reach, make the choice between them irrelevant."""
    block = AICBlock3d(2, 3).double()
    for axis in block.axes:
        for convolution in axis.children():
            middle = [size // 2 for size in convolution.weight.shape[2:]]
            convolution.weight.data.zero_()
            convolution.weight.data[:, :, middle[0], middle[1], middle[2]] = torch.eye(3)
            convolution.bias.data.zero_()
    volume = torch.randn(1, 2, 5, 4, 6, dtype=torch.float64)
    narrow = F.relu(F.conv3d(volume, block.narrow.weight))
    expected = F.relu(volume + F.conv3d(2 * narrow, block.widen.weight))
    torch.testing.assert_close(block(volume), expected)
